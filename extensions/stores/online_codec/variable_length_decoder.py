"""Decoding of variable-length values (payloads) of packed rows into columns."""

from typing import Any

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from numpy.typing import NDArray

from extensions.feature_types import NUMPY_TYPES
from extensions.stores.online_codec.coded_columns import Coded, Integers, Values
from extensions.stores.online_codec.column_format import Column


def default_of(column: Column, declared: Value | None) -> Any:
    """A declared default as a decoded column holds it; None for null."""
    kind = declared.WhichOneof("val") if declared is not None else None
    if declared is None or kind is None:
        return None
    if column.kind == "proto":
        return feast_value_type_to_python_type(declared, column.value_type)
    value = getattr(declared, kind)
    return np.array(value.val, NUMPY_TYPES[column.code]) if column.kind == "array" else value


def decode_payloads(column: Column, buffer: bytes, at: Integers, size: Integers) -> Values:
    """Decode one payload per row from ``buffer``.

    Args:
        column: The feature.
        buffer: The bytes of all rows.
        at: Where each row's payload begins, shape (n,).
        size: Its length in bytes, shape (n,).

    Returns:
        n values; texts as dictionary codes.
    """
    spans = zip(at.tolist(), (at + size).tolist(), strict=True)
    if column.kind == "text":
        known: dict[bytes, int] = {}  # few different texts, many entities
        codes = [known.setdefault(buffer[a:b], len(known)) for a, b in spans]
        return Coded(np.array(codes, np.int64), [raw.decode() for raw in known])
    return [decode_payload(column, buffer[a:b]) for a, b in spans]


def decode_payload(column: Column, raw: bytes) -> Any:
    """Decode one payload: an array as a numpy view of ``raw``, a text, bytes, or Python objects."""
    if column.kind == "array":
        return np.frombuffer(raw, NUMPY_TYPES[column.code])
    if column.kind == "text":
        return raw.decode()
    if column.kind == "proto":
        return feast_value_type_to_python_type(Value.FromString(raw), column.value_type)
    return raw


def put_values(
    columns: dict[str, Values],
    name: str,
    members: Integers,
    values: Any,
    empty: NDArray[np.bool_] | None,
) -> None:
    """Put decoded values into a column that holds defaults so far.

    Args:
        columns: The columns by feature; a column that must hold None becomes a list.
        name: The feature.
        members: The indexes of the rows, shape (m,).
        values: Their values, m of them.
        empty: Which of them are null, shape (m,); None: none is.
    """
    column = columns[name]
    if isinstance(column, Coded):
        codes = values.codes + len(column.values)
        column.values.extend(values.values)
        if empty is not None:
            codes[empty] = len(column.values)
            column.values.append(None)
        column.codes[members] = codes
        return
    if empty is not None and empty.any():
        values = [None if no else value for value, no in zip(list(values), empty, strict=True)]
        if not isinstance(column, list):
            column = columns[name] = list(column)
    if not isinstance(column, list):
        column[members] = values
    elif len(members) == len(column):
        columns[name] = values if isinstance(values, (list, np.ndarray)) else list(values)
    else:
        for i, value in zip(members.tolist(), values, strict=True):
            column[i] = value

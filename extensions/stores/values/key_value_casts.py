"""Type checks and casts of entity ids: one rule for labels, pushes and requests.

An id is not converted to another value: 5.7, true and "05" are no integers. A frame may have 5.0
for the key 5, since pandas has no other five beside a null, and 5 for the text key "5"; JSON may
have neither. JSON may have "5" for an Int64 key, as protobuf's JSON has, since JavaScript's numbers
end at 2**53; so may `feast get-online-features`, since a command line has only texts. No text may
hold NUL, which PostgreSQL's cannot.
A UUID or a decimal is one key in all its spellings. Training, pushes to the log, writes to the
online store and reads from it all check here. The hot path of the HTTP server has the same rule
for JSON (`extensions.serving.http.request_validation.entity_id`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.types import Decimal, FeastType, Int64, String, TimeUuid, Uuid

from extensions.errors import InputError, SkewlessError
from extensions.feature_types import UTC_MICROSECONDS, arrow_type, is_text
from extensions.stores.values.canonical_keys import (
    NUL,
    SEVERAL_SPELLINGS,
    canonical,
    is_uuid,
)
from extensions.timestamp_column_parsing import in_utc

_SHOWN = 60

_json: ContextVar[bool] = ContextVar("json", default=False)


@contextmanager
def json_ids() -> Iterator[None]:
    """Context manager: ids come from JSON, where 5.0 is not the integer 5."""
    token = _json.set(True)
    try:
        yield
    finally:
        _json.reset(token)


def cast_key(
    column: pa.ChunkedArray, dtype: FeastType, name: str, where: str, *, unknown: bool = False
) -> pa.ChunkedArray:
    """Cast a column of ids to its key's type without loss: 5.0 is the key 5, 5.7 and "5" are not.

    Args:
        column: The ids.
        dtype: The key's declared type.
        name: The key, for the message.
        where: Where the column comes from ("the frame"), for the message.
        unknown: A text that is no UUID is a key that no row has, as labels may have.

    Raises:
        SkewlessError: the column has another type, or a value that is no such key.
    """
    wanted = arrow_type(dtype)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return column.cast(wanted)
    if _json.get() and dtype == Int64 and is_text(column.type):
        column = _read_digits(column)
    if problem := _problem(column, dtype, wanted):
        raise _refused(name, dtype, f"{where} has {problem}")
    try:
        if pa.types.is_timestamp(wanted) and pa.types.is_timestamp(column.type):
            return in_utc(column).cast(UTC_MICROSECONDS)
        column = spelled(column, dtype)
        if not unknown and dtype in (Uuid, TimeUuid) and (odd := _no_uuid(column)) is not None:
            raise _refused(name, dtype, f"{where} has {odd[:_SHOWN]!r}")
        if pa.types.is_boolean(column.type) != pa.types.is_boolean(wanted):
            raise pa.ArrowInvalid(f"{where} has {column.type}")
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise _refused(name, dtype, str(error)) from error


def _problem(column: pa.ChunkedArray, dtype: FeastType, wanted: pa.DataType) -> str | None:
    """Why no value of the column's type can be such a key, or what its texts may not hold."""
    if is_text(column.type) and pc.any(pc.match_substring(column, NUL)).as_py():
        return "one with the character NUL, which PostgreSQL's texts cannot hold"
    if is_text(column.type) != is_text(wanted) and not _spells(column.type, dtype):
        return str(column.type)
    if _json.get() and pa.types.is_floating(column.type) and pa.types.is_integer(wanted):
        return "fractions: write 5, not 5.0"
    return None


def check_keys(values: Mapping[str, Sequence[Any]], kinds: Mapping[str, FeastType]) -> None:
    """Refuse a request whose ids are missing or not of their entities' types.

    Raises:
        SkewlessError: an id is missing (None, NaN, pandas.NA or NaT), has another type, or is no
            such key.
    """
    for name, dtype in kinds.items():
        if name not in values:
            continue
        if any(map(_is_missing, values[name])):
            raise InputError(f"An id of {name} is null: give every row its id.")
        try:
            column = pa.chunked_array([pa.array(values[name])])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise _refused(name, dtype, str(error)) from error
        if is_text(column.type) and not _json.get() and pa.types.is_integer(arrow_type(dtype)):
            column = _read_digits(column)
        cast_key(column, dtype, name, "the request")


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or value != value  # noqa: PLR0124 - NaN


def _read_digits(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers from plain digits; the texts where one is something else (``05``, ``5.7``)."""
    try:
        numbers = texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return texts
    return numbers if numbers.cast(texts.type).equals(texts) else texts


def spelled(column: pa.ChunkedArray, dtype: FeastType) -> pa.ChunkedArray:
    """The column with each key in its canonical spelling."""
    kind = dtype.to_value_type()
    if kind not in SEVERAL_SPELLINGS:
        return column
    if isinstance(column.type, pa.UuidType) or pa.types.is_decimal(column.type):
        texts = [None if value is None else str(value) for value in column.to_pylist()]
    elif pa.types.is_integer(column.type):
        texts = column.cast(pa.string()).to_pylist()
    else:
        texts = column.to_pylist()
    known: dict[str, str] = {}
    for text in texts:
        if text is not None and text not in known:
            known[text] = canonical(text, kind)
    return pa.chunked_array(
        [pa.array([None if t is None else known[t] for t in texts], pa.string())]
    )


def _no_uuid(column: pa.ChunkedArray) -> str | None:
    """A text that is no UUID, of a column in canonical spelling."""
    return next(
        (text for text in column.to_pylist() if text is not None and not is_uuid(text)), None
    )


def _refused(name: str, dtype: FeastType, why: str) -> SkewlessError:
    return InputError(f"The key {name} must be {dtype}, as its entity says ({why}).")


def _spells(held: pa.DataType, dtype: FeastType) -> bool:
    """Whether a column that is not text can hold such keys: UUID objects, decimals, integers.

    A whole number is written in one way alone, so that a frame may have it for a text key.
    """
    if dtype in (Uuid, TimeUuid):
        return isinstance(held, pa.UuidType)
    if dtype == String:
        return bool(pa.types.is_integer(held)) and not _json.get()
    return dtype == Decimal and bool(pa.types.is_decimal(held) or pa.types.is_integer(held))

"""Lossless casts of Arrow columns to declared Feast types; a value that has none is an error.

Numbers declared as floating point are rounded to the nearest float, as in Feast. All others keep
their value: a fraction as Int64, 3e9 as Int32 or 1e300 as Float32 is refused, by the column's name.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from extensions.errors import InputError
from extensions.feature_types import FEATURE_TYPES, UTC_MICROSECONDS, is_list, is_text
from extensions.timestamp_column_parsing import in_utc

_BOUNDS = re.compile(r"\[(-?\d+):(-?\d+)\]")
_SHOWN = 40


def cast_exactly(
    values: pa.ChunkedArray,
    kind: str,
    depth: int,
    what: str,
    declared: str,
    strict: bool = False,
) -> pa.ChunkedArray:
    """Cast a column to a Feast type without loss.

    Args:
        values: The column.
        kind: The name of the type, without lists (``INT64``).
        depth: How many lists are around the values.
        what: Begins the error message ("The column x").
        declared: The declared type, for the message.
        strict: Cast times, too, to one Arrow type (UTC microseconds).

    Raises:
        SkewlessError: a value cannot be represented in that type.
    """
    if depth and not is_list(values.type):
        return values
    chunks = values.chunks or [pa.array([], values.type)]
    return pa.chunked_array(
        [_items(chunk, kind, depth, what, declared, strict) for chunk in chunks]
    )


def _items(
    array: pa.Array, kind: str, depth: int, what: str, declared: str, strict: bool
) -> pa.Array:
    if depth == 0:
        return _scalars(array, kind, what, declared, strict)
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if array.offset:
        array = array.take(np.arange(len(array)))
    inner = _items(array.values, kind, depth - 1, what, declared, strict)
    if inner.type == array.type.value_type:
        return array
    made = pa.ListArray if pa.types.is_list(array.type) else pa.LargeListArray
    return made.from_arrays(array.offsets, inner, mask=array.is_null())


def _scalars(array: pa.Array, kind: str, what: str, declared: str, strict: bool) -> pa.Array:
    held = array.type
    if pa.types.is_null(held):
        return array
    try:
        known = FEATURE_TYPES.get(kind)
        if known is not None and known.numeric:
            return (_nearest if float in known.json else _whole)(array, known.arrow)
        if kind in ("UNIX_TIMESTAMP", "ZONED_TIMESTAMP"):
            if pa.types.is_integer(held):  # seconds, as Feast reads them
                seconds = array.cast(pa.int64()).cast(pa.timestamp("s"))
                return seconds.cast(UTC_MICROSECONDS)
            if strict:
                return _instants(array)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise InputError(
            f"{what} must be {declared}, and holds another value ({_shown(error)}): correct it, "
            "or declare another type."
        ) from error
    return array


def _whole(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Integers from integers, from floats without a fraction, or from texts of plain digits."""
    if is_text(array.type):
        numbers = array.cast(wanted)
        if not numbers.cast(array.type).equals(array):
            odd = pc.not_equal(numbers.cast(array.type), array)
            raise ValueError(repr(array.filter(odd)[0].as_py()))
        return numbers
    return array.cast(wanted)


def _nearest(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Round to the nearest float, as Feast does; a finite number must not become infinity."""
    if array.type == wanted:
        return array
    doubles = array
    if isinstance(array.type, pa.OpaqueType):
        array = array.storage
    if is_text(array.type):
        doubles = array.cast(pa.float64())
        _no_overflow(doubles, pc.match_substring(pc.utf8_lower(array), "inf"))
    floats = doubles.cast(wanted, safe=False)
    if not pa.types.is_integer(doubles.type):
        _no_overflow(floats, pc.is_inf(doubles))
    return floats


def _no_overflow(floats: pa.Array, infinite: pa.Array) -> None:
    became = pc.and_(pc.is_inf(floats), pc.invert(infinite))
    if pc.any(became).as_py():
        raise ValueError("a number beyond its range")


def _instants(array: pa.Array) -> pa.Array:
    """Times in UTC microseconds; without a zone they are UTC, and a date is its midnight."""
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(array.type) or array.type == UTC_MICROSECONDS:
        return array
    return in_utc(array).cast(UTC_MICROSECONDS)


def unflatten_arrays(
    values: pa.ChunkedArray, dimensions: pa.ChunkedArray, depth: int, column: str
) -> pa.ChunkedArray:
    """Rebuild nested lists, which the driver flattens.

    Args:
        values: One flat list per row.
        dimensions: PostgreSQL's ``array_dims`` per row, such as ``[1:2][1:3]``.
        depth: How many dimensions are declared.
        column: The column's name, for the message.

    Raises:
        InputError: a row has another number of dimensions than ``depth``.
    """
    rows = []
    for flat, bounds in zip(values.to_pylist(), dimensions.to_pylist(), strict=True):
        if flat is None or bounds is None:
            rows.append(flat)  # null, or empty
            continue
        lengths = [int(last) - int(first) + 1 for first, last in _BOUNDS.findall(bounds)]
        if len(lengths) != depth:
            raise InputError(
                f"The column {column} holds an array of {len(lengths)} dimension(s) ({bounds}), "
                f"and its declared type has {depth}: declare one Array for each."
            )
        shaped = flat
        for length in reversed(lengths[1:]):
            shaped = [shaped[at : at + length] for at in range(0, len(shaped), length)]
        rows.append(shaped)
    kind = values.type.value_type
    for _ in range(depth):
        kind = pa.list_(kind)
    return pa.chunked_array([pa.array(rows, kind)])


def refuse_null_items(array: pa.Array, column: str) -> None:
    """Refuse lists that contain a null, which no wire type of Feast's can hold.

    Raises:
        InputError: there is one.
    """
    items = array.flatten()
    if items.null_count:
        raise InputError(
            f"The column {column} holds an array with a null inside, which cannot be served: "
            "leave nulls out of the array, or write the value that they stand for."
        )
    if is_list(items.type):
        refuse_null_items(items, column)


def whole_seconds(times: pa.Array) -> pa.Array:
    """Timestamps as whole seconds since 1970 (int64), rounded down; nulls stay."""
    micros = times.cast(pa.timestamp("us", times.type.tz), safe=False).view(pa.int64())
    numbers = micros.fill_null(0).to_numpy(zero_copy_only=False)
    return pa.array(np.floor_divide(numbers, 1_000_000), mask=np.asarray(micros.is_null()))


def _shown(error: Exception) -> str:
    text = str(error).splitlines()[0]
    return text if len(text) <= 2 * _SHOWN else text[: 2 * _SHOWN] + "…"

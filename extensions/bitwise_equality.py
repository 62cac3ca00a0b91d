"""Bitwise equality of columns: adjacent floats differ, NaN equals itself, zero has no sign."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def same(one: pa.ChunkedArray | pa.Array, other: pa.ChunkedArray | pa.Array) -> NDArray[np.bool_]:
    """Row by row, whether two columns of one length hold the same bits; null equals null.

    Of zeros only one is written, but logs of older releases may hold negative ones. The bits of a
    NaN say where it was made, and nobody sees them.

    Columns of different types are different wherever they hold something.
    """
    one, other = _flat(one), _flat(other)
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} rows cannot be compared.")
    null, null_too = _mask(one), _mask(other)
    both = ~null & ~null_too
    if one.type != other.type:
        return null & null_too
    if pa.types.is_list(one.type) or pa.types.is_large_list(one.type):
        equal = _lists(one, other, both)
    elif pa.types.is_floating(one.type):
        kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[one.type.bit_width // 8]
        numbers, others = _numbers(one), _numbers(other)
        equal = numbers.view(kind) == others.view(kind)
        equal |= (numbers == 0) & (others == 0) | np.isnan(numbers) & np.isnan(others)
    else:
        equal = pc.fill_null(pc.equal(one, other), fill_value=False).to_numpy(zero_copy_only=False)
    return np.where(both, equal, null & null_too)


def _lists(one: pa.Array, other: pa.Array, both: NDArray[np.bool_]) -> NDArray[np.bool_]:
    equal = np.zeros(len(one), np.bool_)
    where = np.flatnonzero(both)
    left, right = one.take(pa.array(where)), other.take(pa.array(where))
    lengths = _numbers(pc.list_value_length(left))
    same_length = lengths == _numbers(pc.list_value_length(right))
    kept = np.flatnonzero(same_length)
    parts = same(
        pc.list_flatten(left.take(pa.array(kept))), pc.list_flatten(right.take(pa.array(kept)))
    )
    if len(kept):
        ends = np.cumsum(lengths[kept])
        running = np.concatenate([[0], np.cumsum(~parts)])
        equal[where[kept]] = running[ends] == running[ends - lengths[kept]]
    return equal


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
    if pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    if pa.types.is_large_list(column.type):
        return column.cast(pa.list_(column.type.value_type))
    if pa.types.is_list(column.type):  # the name of the inner field is no part of the value
        return column.cast(pa.list_(column.type.value_type))
    return column


def _mask(column: pa.Array) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return mask


def _numbers(column: pa.Array) -> NDArray[Any]:
    if column.null_count:
        column = column.fill_null(0)
    found: NDArray[Any] = np.ascontiguousarray(column.to_numpy(zero_copy_only=False))
    return found

"""Locate the views' rows in the bytes that Redis returned (docs/online-layout.md)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extensions.stores.online_codec import row_format as rows
from extensions.stores.online_codec.coded_columns import Integers
from extensions.stores.online_codec.row_format import Layout

# A section's tag (three bytes) and the length of its row (one).
_HEADER = np.dtype("<u4")
# Behind the last value, so that a header which is cut short can be looked at.
_BEYOND = bytes(8)


def sections(
    values: Sequence[bytes | None], layouts: Sequence[Layout]
) -> tuple[bytes, list[tuple[Integers, Integers]]]:
    """Locate each view's section in the string values of n entities.

    A value that is cut short ends where it ends: nothing is read of the next entity's.

    Args:
        values: Each entity's value; None where Redis has none.
        layouts: The view versions to look for.

    Returns:
        All values in one buffer, and for each layout the offsets and sizes of its rows in it, of
        shape (n,); size 0 where an entity has none.
    """
    held = [value or b"" for value in values]
    lengths = np.fromiter(map(len, held), np.int64, len(held))
    buffer = b"".join([*held, _BEYOND])
    ends = np.cumsum(lengths)
    at = ends - lengths
    headers = overlapping_records(buffer, _HEADER)
    tags = [int.from_bytes(layout.tag, "little") for layout in layouts]
    spans = [(np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)) for _ in layouts]
    active = np.flatnonzero(lengths)
    at, ends = at[active], ends[active]
    while len(active):
        header = headers[at]
        tag, size, at = header & 0xFFFFFF, (header >> 24).astype(np.int64), at + 4
        if (long := size == rows.LONG).any():
            size[long] = headers[at[long]]
            at = at + np.where(long, 4, 0)
        beyond = at + size
        fits = beyond <= ends
        whole, first = bool(fits.all()), int(tag[0])
        if whole and len(active) == len(values) and (tag == first).all():
            if first in tags:  # one section of each entity, as they mostly lie
                spans[tags.index(first)] = at, size
        else:
            for wanted, (starts, sizes) in zip(tags, spans, strict=True):
                mine = (tag == wanted) & fits
                starts[active[mine]] = at[mine]
                sizes[active[mine]] = size[mine]
        if not whole:
            _refuse_truncated(active[~fits], layouts, spans)
        more = fits & (beyond < ends)
        active, at, ends = active[more], beyond[more], ends[more]
    return buffer, spans


def _refuse_truncated(
    members: Integers, layouts: Sequence[Layout], spans: list[tuple[Integers, Integers]]
) -> None:
    """Count a refused row for each view that was not found in a truncated value."""
    for layout, (_, sizes) in zip(layouts, spans, strict=True):
        for _ in range(int((sizes[members] == 0).sum())):
            layout.refuse()


def fields(values: Sequence[bytes]) -> tuple[bytes, Integers, Integers]:
    """As `sections`, for rows that are fields of hashes: buffer, offsets, sizes (0: no row)."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    return b"".join(values), np.cumsum(lengths) - lengths, lengths


def overlapping_records(buffer: bytes, kind: np.dtype[Any]) -> NDArray[Any]:
    """A view of the buffer as overlapping records, one beginning at each byte."""
    return np.ndarray((len(buffer) - kind.itemsize + 1,), kind, buffer, 0, (1,))

"""An index from integer ids to slots of the near cache, vectorised."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

# A direct table may have this many entries (8 bytes) per id, plus a constant.
_SPARSE, _SMALL = 8, 65_536
# New ids are kept in a dictionary until there are so many, plus this share of all ids.
_FEW, _SHARE = 512, 8


class EntityIndex:
    """Maps ids to slots; 0 for an unknown id.

    Dense ids index a direct table. Sparse ids are found by binary search in a sorted array, and
    recently added ones in a dictionary.
    """

    def __init__(self) -> None:
        self._count = 0
        # One entry before the first id and one after the last stand for all ids outside.
        self._table: Integers | None = np.zeros(2, np.int64)
        self._least = 0
        self._ids = np.empty(0, np.int64)
        self._slots = np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    @property
    def size(self) -> int:
        """Size in bytes."""
        table = 0 if self._table is None else self._table.nbytes
        return self._ids.nbytes * 2 + len(self._recent) * 130 + table

    def find(self, ids: Integers) -> Integers:
        """The slot of each id."""
        if self._table is not None:
            # An overflowing difference wraps around and is clipped, too.
            found: Integers = self._table.take(ids - self._least + 1, mode="clip")
            return found
        at = np.searchsorted(self._ids, ids)
        at[at == len(self._ids)] = 0
        slots = np.where(self._ids[at] == ids, self._slots[at], 0)
        if self._recent:
            for i in np.flatnonzero(slots == 0).tolist():
                slots[i] = self._recent.get(int(ids[i]), 0)
        return slots

    def add(self, ids: Sequence[int], first: int) -> None:
        """Add new ids; their slots are ``first``, ``first`` + 1, … (above 0)."""
        self._count += len(ids)
        if self._table is not None:
            if self._fit_table(min(ids), max(ids)):
                places = np.array(ids, np.int64) - self._least + 1
                self._table[places] = np.arange(first, first + len(ids))
                return
            there = np.flatnonzero(self._table)
            self._ids, self._slots = there - 1 + self._least, self._table[there]
            self._table = None
        self._recent.update(zip(ids, range(first, first + len(ids)), strict=True))
        if not len(self._ids) or len(self._recent) > _FEW + len(self._ids) // _SHARE:
            self._merge_recent()

    def _fit_table(self, least: int, most: int) -> bool:
        """Grow the table to hold ids from ``least`` to ``most``; False if too sparse."""
        assert self._table is not None  # the caller looked
        held = len(self._table) - 2
        if held:
            least, most = min(least, self._least), max(most, self._least + held - 1)
        span = most - least + 1
        if span > _SPARSE * self._count + _SMALL:
            return False
        if span > held:
            # Ids mostly count up: double the size, so that growing is rare.
            table = np.zeros(max(span, 2 * held) + 2, np.int64)
            if held:
                start = self._least - least + 1
                table[start : start + held] = self._table[1:-1]
            self._table, self._least = table, least
        return True

    def _merge_recent(self) -> None:
        """Merge recently added ids into the sorted array."""
        ids = np.concatenate([self._ids, np.array(list(self._recent), np.int64)])
        slots = np.concatenate([self._slots, np.array(list(self._recent.values()), np.int64)])
        order = np.argsort(ids, kind="stable")
        self._ids, self._slots, self._recent = ids[order], slots[order], {}

"""Where rows stand in a near copy: ids that are whole numbers, looked up all at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

# A table may have this many places for each id that there is (8 bytes each), and so many beyond.
_SPARSE, _SMALL = 8, 65_536
# Ids that came since the last sorting are kept in a dictionary; up to so many, and a share.
_FEW, _SHARE = 512, 8


class Slots:
    """Ids to slots, 0 for an id that is not there.

    Ids that lie close together are places of a table: one look each, without comparing. Once
    they do not, they are found by bisection, and those that came since in a dictionary.
    """

    def __init__(self) -> None:
        self._count = 0
        # A place before the first id and one behind the last stand for all that lies outside.
        self._table: Integers | None = np.zeros(2, np.int64)
        self._least = 0
        self._ids = np.empty(0, np.int64)
        self._slots = np.empty(0, np.int64)
        self._since: dict[int, int] = {}

    @property
    def size(self) -> int:
        """Bytes."""
        table = 0 if self._table is None else self._table.nbytes
        return self._ids.nbytes * 2 + len(self._since) * 130 + table

    def find(self, ids: Integers) -> Integers:
        """The slot of each id."""
        if self._table is not None:
            # A difference that overflows comes out on the other side, beyond the table.
            found: Integers = self._table.take(ids - self._least + 1, mode="clip")
            return found
        at = np.searchsorted(self._ids, ids)
        at[at == len(self._ids)] = 0
        slots = np.where(self._ids[at] == ids, self._slots[at], 0)
        if self._since:
            for i in np.flatnonzero(slots == 0).tolist():
                slots[i] = self._since.get(int(ids[i]), 0)
        return slots

    def add(self, ids: Sequence[int], first: int) -> None:
        """Take in ids that are not there yet; their slots count up from ``first``, above 0."""
        self._count += len(ids)
        if self._table is not None:
            if self._reach(min(ids), max(ids)):
                places = np.array(ids, np.int64) - self._least + 1
                self._table[places] = np.arange(first, first + len(ids))
                return
            there = np.flatnonzero(self._table)
            self._ids, self._slots = there - 1 + self._least, self._table[there]
            self._table = None
        self._since.update(zip(ids, range(first, first + len(ids)), strict=True))
        if not len(self._ids) or len(self._since) > _FEW + len(self._ids) // _SHARE:
            self._settle()

    def _reach(self, least: int, most: int) -> bool:
        """Let the table hold ids from ``least`` to ``most``, if it may be that large."""
        assert self._table is not None  # the caller looked
        held = len(self._table) - 2
        if held:
            least, most = min(least, self._least), max(most, self._least + held - 1)
        span = most - least + 1
        if span > _SPARSE * self._count + _SMALL:
            return False
        if span > held:
            # Ids mostly count up: twice the room is made, so that it is seldom made.
            table = np.zeros(max(span, 2 * held) + 2, np.int64)
            if held:
                start = self._least - least + 1
                table[start : start + held] = self._table[1:-1]
            self._table, self._least = table, least
        return True

    def _settle(self) -> None:
        """Sort those that came since in among the others."""
        ids = np.concatenate([self._ids, np.array(list(self._since), np.int64)])
        slots = np.concatenate([self._slots, np.array(list(self._since.values()), np.int64)])
        order = np.argsort(ids, kind="stable")
        self._ids, self._slots, self._since = ids[order], slots[order], {}

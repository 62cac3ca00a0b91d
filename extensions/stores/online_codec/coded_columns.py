"""Column representations for responses: numpy arrays, dictionary-coded texts, equal-row groups."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Coded(Sequence[Any]):
    """A dictionary-encoded column: row i is ``values[codes[i]]``; None is null."""

    __slots__ = ("codes", "values")

    def __init__(self, codes: Integers, values: list[Any]) -> None:
        self.codes, self.values = codes, values

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, i: Any) -> Any:
        return self.values[self.codes[i]]

    def __iter__(self) -> Iterator[Any]:
        return map(self.values.__getitem__, self.codes.tolist())


Values = NDArray[Any] | list[Any] | Coded


@dataclass(frozen=True)
class Groups:
    """Groups of equal rows: the first row of each group, and every row's group."""

    first: Integers
    inverse: Integers


# `numpy.arange` takes as long as all else that is done with so few numbers.
_NUMBERS = np.arange(4_096)
_NUMBERS.setflags(write=False)


def counting(first: int, behind: int) -> Integers:
    """``numpy.arange(first, behind)``, read-only and cached for small numbers."""
    held = _NUMBERS[first:behind]
    return held if len(held) == behind - first else np.arange(first, behind)


def taken(column: Values, where: Integers) -> Values:
    """The rows of ``column`` at ``where``."""
    if isinstance(column, np.ndarray):
        return column[where]
    if isinstance(column, Coded):
        return Coded(column.codes[where], column.values)
    return [column[i] for i in where.tolist()]


def spread(column: Values, n: int) -> Values:
    """A column of ``n`` rows; one of length 1 is the same in every row."""
    return [column[0]] * n if len(column) == 1 and n != 1 else column


def codes(column: Values) -> tuple[Integers, int] | None:
    """An integer code per row, equal where values are, and an upper bound; None for lists."""
    if isinstance(column, Coded):
        return column.codes, len(column.values)
    if isinstance(column, np.ndarray) and column.dtype != object:
        _, inverse = np.unique(column, return_inverse=True)
        return inverse.reshape(-1), len(column)
    return None


def grouped(parts: Sequence[tuple[Integers, int]], n: int) -> Groups | None:
    """Group ``n`` rows that are equal in all parts (codes, bound); None: too many combinations."""
    key, size = np.zeros(n, np.int64), 1
    for numbers, bound in parts:
        size *= bound
        if size >= 1 << 62:
            return None
        key = key * bound + numbers
    if size <= 8 * n + 1024:
        first = np.full(size, -1, np.int64)
        first[key] = counting(0, n)
        there = np.flatnonzero(first >= 0)
        number = np.empty(size, np.int64)
        number[there] = counting(0, len(there))
        return Groups(first[there], number[key])
    _, some, inverse = np.unique(key, return_index=True, return_inverse=True)
    return Groups(some, inverse.reshape(-1))

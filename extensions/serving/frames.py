"""What a transform in mode pandas is called with on the hot path.

A frame and its series take 100 to 300 µs, whatever the number of rows. Most transforms take the
columns out whole and go on in numpy; for them there is `Inputs`, which can do just that.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Column:
    """A column as `pandas.Series` hands it out whole, and nothing else of a series."""

    __slots__ = ("_array",)

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def to_numpy(self) -> NDArray[Any]:
        """The array itself."""
        return self._array

    def tolist(self) -> list[Any]:
        """Python's own values."""
        held: list[Any] = self._array.tolist()
        return held

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._array.tolist())


class Inputs:
    """Columns by name, their number of rows and their index: what of a frame costs nothing.

    A transform that asks more of it fails, and is given a frame instead: it cannot get another
    answer here than from pandas.
    """

    __slots__ = ("_arrays", "index")

    def __init__(self, arrays: Mapping[str, NDArray[Any]], n: int) -> None:
        self._arrays, self.index = arrays, pd.RangeIndex(n)

    def __getitem__(self, name: str) -> Column:
        return Column(self._arrays[name])

    def __len__(self) -> int:
        return len(self.index)


def frame(arrays: Mapping[str, NDArray[Any]]) -> pd.DataFrame:
    """A frame of the arrays, in which a transform may do as it likes."""
    return pd.DataFrame(dict(arrays))


def columns(made: pd.DataFrame, names: Sequence[str]) -> list[NDArray[Any]]:
    """A frame's columns."""
    try:  # a series for each, or a look-up by name, costs more than all the rest
        manager = made._mgr  # noqa: SLF001
        places = dict(zip(made.columns.tolist(), range(made.shape[1]), strict=True))
        if len(places) < made.shape[1]:
            raise TypeError  # a name that came twice: pandas says what it means
        return [np.asarray(manager.iget_values(places[name])) for name in names]
    except (AttributeError, KeyError, TypeError):
        return [made[name].to_numpy() for name in names]


def array(values: Any, n: int) -> NDArray[Any]:
    """A column of ``n`` rows as Feast hands it to a transform; one value stands for all.

    Numbers are 64 bits wide and null among them is NaN; all else is an object.
    """
    if isinstance(values, np.ndarray) and values.dtype != object:
        wide = values.dtype if values.dtype.kind == "b" else np.dtype(values.dtype.kind + "8")
        return np.full(n, values[0], wide) if len(values) == 1 else values.astype(wide)
    held = values if isinstance(values, list) else list(values)
    first = next((one for one in held if one is not None), None)
    if isinstance(first, (float, int, np.number)) and not isinstance(first, bool):
        if len(held) == 1:
            return np.full(n, first, np.float64 if isinstance(first, _REAL) else np.int64)
        if None in held:
            held = [np.nan if one is None else one for one in held]
            return np.array(held, np.float64)
        return np.array(held, np.float64 if isinstance(first, _REAL) else np.int64)
    if isinstance(first, (bool, np.bool_)) and None not in held:
        return np.full(n, first) if len(held) == 1 else np.array(held, np.bool_)
    column = np.empty(n, object)
    if len(held) == 1:
        column.fill(_object(held[0]))
    else:
        for i, one in enumerate(held):
            column[i] = _object(one)
    return column


_REAL = (float, np.floating)


def _object(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, list) else value

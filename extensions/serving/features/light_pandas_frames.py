"""Light stand-ins for pandas frames, for transforms in mode pandas.

A frame and its series cost 100 to 300 µs, whatever the number of rows. Most transforms take whole
columns, compute with numpy and return a frame of arrays: `InputFrame` and `OutputFrame` do just
that. Any other operation raises, and the caller runs the transform again with real frames; no
operation gives a result that pandas would not give.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from feast import ValueType
from numpy.typing import NDArray

from extensions.stores.online_codec.coded_columns import Coded
from extensions.stores.transform_rows import REAL, WHOLE

NUMBERS = WHOLE | REAL


class _Refusing:
    """Refuses the operations that Python defines for any object but pandas defines otherwise."""

    __slots__ = ()
    __array_ufunc__ = None
    __contains__ = None
    __hash__ = None  # type: ignore[assignment]

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError

    __eq__ = __ne__ = _refuse
    __bool__ = __array__ = _refuse


class Column(_Refusing):
    """A stand-in for `pandas.Series` that can only be taken out whole."""

    __slots__ = ("_array",)

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # type: ignore[override]
        """The array, as numpy converts a series."""
        return np.array(self._array, dtype, copy=copy)

    def to_numpy(self) -> NDArray[Any]:
        """The array itself."""
        return self._array

    def tolist(self) -> list[Any]:
        """The column as Python values."""
        held: list[Any] = self._array.tolist()
        return held

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._array.tolist())


class InputFrame(_Refusing):
    """A stand-in for the input frame: columns by name, length and index."""

    __slots__ = ("_arrays", "_n")

    def __init__(self, arrays: Mapping[str, NDArray[Any]], n: int) -> None:
        self._arrays, self._n = arrays, n

    @property
    def index(self) -> pd.RangeIndex:
        """The default index of a frame."""
        return _index(self._n)

    def __getitem__(self, name: str) -> Column:
        return Column(self._arrays[name])

    def __len__(self) -> int:
        return self._n


@lru_cache(1_000)
def _index(n: int) -> pd.RangeIndex:
    return pd.RangeIndex(n)


class OutputFrame(_Refusing):
    """A stand-in for a `pandas.DataFrame` made of numeric arrays.

    Raises:
        TypeError: the data needs pandas' own conversion.
    """

    __slots__ = ("arrays",)

    def __init__(self, data: Any, index: Any = None, *, copy: bool | None = None) -> None:
        if type(data) is not dict or not data:
            raise TypeError
        self.arrays: dict[str, NDArray[Any]] = {}
        n = None if index is None else len(index)
        for name, column in data.items():
            if type(column) is not np.ndarray or column.dtype.kind not in "biuf":
                raise TypeError
            if column.ndim != 1 or len(column) != (len(column) if n is None else n):
                raise TypeError
            n = len(column)
            self.arrays[name] = column if copy is False else column.copy()


class _LightPandas(ModuleType):
    """The pandas module with `OutputFrame` as its DataFrame."""

    DataFrame = OutputFrame

    def __getattr__(self, name: str) -> Any:
        return getattr(pd, name)


_LIGHT_PANDAS = _LightPandas("pandas")


def with_light_frames(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of the function in which `pandas.DataFrame` is `OutputFrame`.

    Returned unchanged if it reads globals other than modules: the copy would not follow changes
    to them.
    """
    if not isinstance(function, FunctionType):
        return function
    around = function.__globals__
    read = {name: around[name] for name in _names(function.__code__) if name in around}
    if not any(value is pd for value in read.values()):
        return function
    if not all(isinstance(value, ModuleType) for value in read.values()):
        return function
    held = {name: _LIGHT_PANDAS if value is pd else value for name, value in read.items()}
    held["__builtins__"] = around.get("__builtins__", __builtins__)
    made = FunctionType(
        function.__code__, held, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _names(code: CodeType) -> set[str]:
    """The global names that a function and its nested functions may read."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


def frame(arrays: Mapping[str, NDArray[Any]]) -> pd.DataFrame:
    """A real frame of the arrays."""
    return pd.DataFrame(dict(arrays))


def columns(made: pd.DataFrame | OutputFrame, names: Sequence[str]) -> list[NDArray[Any]]:
    """A frame's columns."""
    if isinstance(made, OutputFrame):
        return [made.arrays[name] for name in names]
    try:  # a series for each, or a look-up by name, costs more than all the rest
        manager = made._mgr  # noqa: SLF001
        places = dict(zip(made.columns.tolist(), range(made.shape[1]), strict=True))
        if len(places) < made.shape[1]:
            raise TypeError  # a name that came twice: pandas says what it means
        return [np.asarray(manager.iget_values(places[name])) for name in names]
    except (AttributeError, KeyError, TypeError):
        return [made[name].to_numpy() for name in names]


def array(  # noqa: PLR0911 - one for each kind of column
    values: Any, n: int, kind: ValueType | None = None
) -> NDArray[Any]:
    """A column of ``n`` rows as a transform gets it; a single value is repeated.

    Numbers are 64 bits wide with NaN for null, also where there is nothing but nulls of a ``kind``
    that is a number; everything else is an object array.
    """
    if kind in NUMBERS and isinstance(values, list) and all(value is None for value in values):
        return np.full(n, np.nan)
    if len(values) == 1:
        return _constant(values[0], n)
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values.astype(values.dtype if values.dtype.kind == "b" else values.dtype.kind + "8")
    held = values if isinstance(values, list) else list(values)
    if isinstance(values, Coded):
        return np.array(held, object)
    first = next((value for value in held if value is not None), None)
    if isinstance(first, _BOOL):
        return np.array(held, object if None in held else np.bool_)
    if isinstance(first, _REAL) or (isinstance(first, _WHOLE) and None in held):
        return np.array([np.nan if value is None else value for value in held], np.float64)
    if isinstance(first, _WHOLE):
        return np.array(held, np.int64)
    column = np.empty(n, object)
    for i, value in enumerate(held):
        column[i] = _object(value)
    return column


def _constant(value: Any, n: int) -> NDArray[Any]:
    kind: Any = object
    if isinstance(value, _REAL):
        kind = np.float64
    elif isinstance(value, _BOOL):
        kind = np.bool_
    elif isinstance(value, _WHOLE):
        kind = np.int64
    column = np.empty(n, kind)
    column.fill(_object(value))
    return column


_REAL, _WHOLE, _BOOL = (float, np.floating), (int, np.integer), (bool, np.bool_)


def _object(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, list) else value

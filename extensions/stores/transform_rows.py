"""A transform computes each row from that row alone, whichever rows stand beside it.

Pandas takes the type of a column from all of its values: whole numbers beside a null become
doubles, which have 53 bits, and float32 columns of a training set compute in single precision where
a request, whose numbers are Python's, computes in double. So a function in mode pandas is given
frames of one form, in training, by Feast's SDK and by our routes:

- numbers are 64 bits wide (within lists, too), and a null among them is NaN;
- times (`UnixTimestamp`) are instants in UTC of whole seconds, as Feast's messages hold them,
  however a request writes them;
- rows in which a whole number or a truth value is null are a frame of their own, so that the others
  keep their type.

A *singleton* function in mode python takes one row. Feast gives it the whole columns of a training
set, and of several entities online only the first.

This module puts its functions in the place of the two of `OnDemandFeatureView` that run a function.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import ValueType
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Array, Set, from_value_type
from numpy.typing import NDArray

from extensions.errors import InputError
from extensions.feature_types import UTC_MICROSECONDS, arrow_type
from extensions.stores.transform_inputs import inputs_of
from extensions.timestamp_column_parsing import in_utc
from extensions.timestamps import EPOCH

WHOLE = frozenset({ValueType.INT32, ValueType.INT64})
REAL = frozenset({ValueType.FLOAT, ValueType.DOUBLE})
# Of these, a null changes the type of a whole column.
TYPED_BY_NULLS = frozenset({*WHOLE, ValueType.BOOL})


def input_types(view: OnDemandFeatureView) -> dict[str, ValueType]:
    """The declared types of what a transform reads, by each name that it may have."""
    of_view = {
        (projection.name, field.name): field.dtype.to_value_type()
        for projection in view.source_feature_view_projections.values()
        for field in projection.features
    }
    found = dict(view.get_request_data_schema())
    for each in inputs_of(view):
        kind = of_view[each.view, each.feature]
        found[each.long] = kind
        if each.short:
            found[each.short] = kind
    return found


def null_patterns(nulls: Sequence[NDArray[np.bool_]]) -> Iterator[NDArray[np.intp]]:
    """The places of the rows that have the same nulls in some columns, pattern by pattern.

    Args:
        nulls: Of each column, where it is null; there is one at least.
    """
    table = np.stack(nulls, axis=1)
    _, pattern = np.unique(table, axis=0, return_inverse=True)
    pattern = pattern.reshape(-1)
    for number in range(int(pattern.max(initial=-1)) + 1):
        yield np.flatnonzero(pattern == number)


def frames(
    table: pa.Table, types: Mapping[str, ValueType]
) -> Iterator[tuple[NDArray[np.intp] | None, pd.DataFrame]]:
    """What a function in mode pandas is given, and of which rows; None: of all.

    Args:
        table: The columns.
        types: The declared types of those that are the function's inputs.
    """
    table = _wide(table, types)
    mixed = [
        table[name].is_null().to_numpy()
        for name in dict.fromkeys(table.column_names)
        if types.get(name) in TYPED_BY_NULLS and 0 < table[name].null_count < table.num_rows
    ]
    if not mixed:
        yield None, _frame(table, types)
        return
    for places in null_patterns(mixed):
        yield places, _frame(table.take(places), types)


def instants(values: Sequence[Any], name: str) -> list[datetime | None]:
    """Times as a transform gets them.

    Args:
        values: Instants, whole seconds since 1970, or ISO 8601; without a zone UTC.
        name: The input, for the message.

    Raises:
        InputError: one is no time.
    """
    return [None if value is None else _instant(value, name) for value in values]


def _instant(value: Any, name: str) -> datetime:
    try:
        if isinstance(value, bool):
            raise TypeError
        if isinstance(value, int | np.integer):
            return EPOCH + timedelta(seconds=int(value))
        made = datetime.fromisoformat(value) if isinstance(value, str) else value
        zoned = made if made.tzinfo else made.replace(tzinfo=UTC)
        return EPOCH + timedelta(seconds=(zoned - EPOCH) // timedelta(seconds=1))
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise InputError(
            f"{name} must be a time, such as 2026-01-31T08:00:00Z, not {value!r}."
        ) from None


def _wide(table: pa.Table, types: Mapping[str, ValueType]) -> pa.Table:
    for place, name in enumerate(table.column_names):
        if name in types:
            wide = _wide_column(table.column(place), types[name], name)
            table = table.set_column(place, name, wide)
    return table


def _wide_column(column: pa.ChunkedArray, kind: ValueType, name: str) -> pa.ChunkedArray:
    held = column.type
    if pa.types.is_null(held):
        declared = arrow_type(from_value_type(kind))
        return _wide_column(column.cast(declared), kind, name) if _castable(declared) else column
    if kind == ValueType.UNIX_TIMESTAMP:
        if not pa.types.is_timestamp(held):
            made = pa.array(instants(column.to_pylist(), name), UTC_MICROSECONDS)
            return pa.chunked_array([made])
        seconds = pc.floor_temporal(in_utc(column), unit="second")
        return seconds.cast(UTC_MICROSECONDS, safe=False)
    wide = _wide_type(held)
    return column if wide == held else column.cast(wide)


def _castable(declared: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(declared) or pa.types.is_string(declared))


def _wide_type(held: pa.DataType) -> pa.DataType:
    if pa.types.is_list(held):
        return pa.list_(_wide_type(held.value_type))
    if pa.types.is_float16(held) or pa.types.is_float32(held):
        return pa.float64()
    if pa.types.is_signed_integer(held):
        return pa.int64()
    return held


def _frame(table: pa.Table, types: Mapping[str, ValueType]) -> pd.DataFrame:
    made: pd.DataFrame = table.to_pandas()
    for name, kind in types.items():
        # Arrow makes objects of a column of nothing but nulls of these.
        if kind in WHOLE | REAL and name in made and made[name].dtype == object:
            made[name] = made[name].astype("float64")
    return made


def _pandas(view: OnDemandFeatureView, table: pa.Table) -> pa.Table:
    function: Any = view.feature_transformation
    answers, places = [], []
    for rows, given in frames(table, input_types(view)):
        made = pa.Table.from_pandas(function.udf(given))
        if rows is None:
            return made
        answers.append(_of_declared_types(view, made))
        places.append(rows)
    order = np.argsort(np.concatenate(places), kind="stable")
    return pa.concat_tables(answers).take(order)


def _of_declared_types(view: OnDemandFeatureView, made: pa.Table) -> pa.Table:
    """The features alone, each of one type whatever nulls it holds."""
    names: dict[str, pa.DataType] = {}
    for field in view.features:
        kind = arrow_type(field.dtype)
        names[field.name] = names[f"{view.projection.name_to_use()}__{field.name}"] = kind  # type: ignore[no-untyped-call]
    return pa.table(
        {
            name: made[name].cast(kind, safe=False)
            for name, kind in names.items()
            if name in made.column_names
        }
    )


def _by_rows(view: OnDemandFeatureView, columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A singleton's answers: one call for each row."""
    function: Any = view.feature_transformation
    lists = {f.name for f in view.features if isinstance(f.dtype, Array | Set)}
    made: dict[str, list[Any]] = {}
    for row in zip(*columns.values(), strict=True):
        answer = function.udf(dict(zip(columns, row, strict=True)))
        for name, value in answer.items():
            one = value
            # Feast lets a function put its answer into a list.
            if isinstance(value, list) and (
                name not in lists or (len(value) == 1 and isinstance(value[0], list))
            ):
                [one] = value
            made.setdefault(name, []).append(one)
    return made


def _python(view: OnDemandFeatureView, table: pa.Table) -> pa.Table:
    function: Any = view.feature_transformation
    given = _wide(table, input_types(view)).to_pydict()
    return pa.Table.from_pydict(
        _by_rows(view, given) if _is_singleton(view) else function.udf(given)
    )


def _is_singleton(view: OnDemandFeatureView) -> bool:
    return bool(view.singleton) and view.mode == "python"


def _transform_arrow(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def transform_arrow(
        self: OnDemandFeatureView, pa_table: pa.Table, full_feature_names: bool = False
    ) -> pa.Table:
        in_pandas = self.mode == "pandas" and isinstance(
            self.feature_transformation, PandasTransformation
        )
        if not (in_pandas or self.mode == "python"):
            return original(self, pa_table, full_feature_names)
        table, added = self._preprocess_arrow_table(pa_table)
        made = _pandas(self, table) if in_pandas else _python(self, table)
        return self._postprocess_arrow_table(made, added, full_feature_names)

    return transform_arrow


def _transform_dict(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def transform_dict(self: OnDemandFeatureView, feature_dict: dict[str, Any]) -> dict[str, Any]:
        times = [
            name
            for name, kind in input_types(self).items()
            if kind == ValueType.UNIX_TIMESTAMP and name in feature_dict
        ]
        read = {**feature_dict, **{name: instants(feature_dict[name], name) for name in times}}
        if not _is_singleton(self):
            answer: dict[str, Any] = original(self, read)
            return answer
        given, added = self._preprocess_feature_dict(read)
        made = {**given, **_by_rows(self, given)}
        return {name: value for name, value in made.items() if name not in added}

    return transform_dict


def install() -> None:
    """Replace the two methods of `OnDemandFeatureView`."""
    view: Any = OnDemandFeatureView
    view.transform_arrow = _transform_arrow(view.transform_arrow)
    view.transform_dict = _transform_dict(view.transform_dict)

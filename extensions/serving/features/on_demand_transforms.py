"""Runs on-demand transforms for requests: Feast's own function on columns of Feast's types.

A transform is row-wise: training calls it with thousands of rows and serving with one, with the
same results. So it runs once for each distinct row of inputs: for a ranking of 500 items of a few
categories, a small part of them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from feast import ValueType
from feast.on_demand_feature_view import OnDemandFeatureView
from numpy.typing import NDArray

from extensions.errors import DefinitionError
from extensions.feature_types import NUMPY_COLUMNS
from extensions.serving.features import light_pandas_frames as frames
from extensions.serving.features.light_pandas_frames import array
from extensions.stores.online_codec.coded_columns import Values
from extensions.stores.transform_rows import (
    TYPED_BY_NULLS,
    input_types,
    instants,
    null_patterns,
)


@dataclass(frozen=True)
class Transform:
    """One on-demand view. ``inputs``: (column, its long name ``view__feature`` or None).

    ``input_types``: their declared types, by name.

    ``uses_light_frames``: not empty while the function works with `InputFrame` instead of pandas.
    """

    name: str
    view: OnDemandFeatureView
    inputs: tuple[tuple[str, str | None], ...]
    features: tuple[str, ...]
    types: tuple[str, ...]
    input_types: Mapping[str, ValueType] = field(default_factory=dict, compare=False)
    uses_light_frames: set[bool] = field(default_factory=lambda: {True}, compare=False)

    @classmethod
    def of(cls, view: OnDemandFeatureView, features: tuple[str, ...]) -> "Transform":
        """Compile the transform of a view; ``features``: those that the service returns.

        Raises:
            DefinitionError: the view aggregates, or is of a mode that only Feast's route runs.
        """
        if (
            view.mode not in ("pandas", "python")
            or view.aggregations
            or getattr(view, "singleton", False)
            or view.write_to_online_store
        ):
            raise DefinitionError(
                f"The transform {view.name} is of a kind that /v1 does not serve: ask "
                "/get-online-features, or write it in mode pandas or python."
            )
        text = getattr(view.feature_transformation, "udf_string", "") or "__"
        inputs: list[tuple[str, str | None]] = []
        for projection in view.source_feature_view_projections.values():
            for feature in projection.features:
                long = f"{projection.name}__{feature.name}"
                inputs.append((feature.name, long if "__" in text else None))
        for source in view.source_request_sources.values():
            inputs += [(request_field.name, None) for request_field in source.schema]
        types = {feature.name: feature.dtype.to_value_type().name for feature in view.features}
        return cls(
            view.name,
            view,
            tuple(inputs),
            features,
            tuple(types[f] for f in features),
            input_types(view),
        )

    @cached_property
    def _light_function(self) -> Callable[..., Any]:
        """The function, with pandas' frames replaced by light ones."""
        return frames.with_light_frames(self.view.feature_transformation.udf)  # type: ignore[union-attr]

    def run(self, columns: Mapping[str, Values], n: int) -> dict[str, Values]:
        """Compute the features for ``n`` rows; an input of length 1 is the same in every row."""
        function: Any = self.view.feature_transformation
        if self.view.mode == "python":
            inputs: dict[str, Any] = {
                name: _python_values(columns[name], n) for name, _ in self.inputs
            }
            for name in self._times:
                inputs[name] = instants(inputs[name], name)
            inputs |= {long: list(inputs[name]) for name, long in self.inputs if long}
            given = function.transform(inputs)
            made = [given[name] for name in self.features]
        else:
            made = self._pandas(columns, n)
        return {
            name: _typed(values, kind)
            for name, kind, values in zip(self.features, self.types, made, strict=True)
        }

    @cached_property
    def _times(self) -> tuple[str, ...]:
        kinds = self.input_types
        return tuple(n for n, _ in self.inputs if kinds.get(n) == ValueType.UNIX_TIMESTAMP)

    def _mixed(self, columns: Mapping[str, Values]) -> list[NDArray[np.bool_]]:
        """Where inputs are null whose nulls would change the type of the other rows."""
        return [
            np.array([value is None for value in held])
            for name, _ in self.inputs
            if self.input_types.get(name) in TYPED_BY_NULLS
            and isinstance(held := columns[name], list)
            and len(held) > 1
            and None in held
            and any(value is not None for value in held)
        ]

    def _pandas(self, columns: Mapping[str, Values], n: int) -> list[Any]:
        if not (mixed := self._mixed(columns)):
            return self._of_one_form(columns, n)
        made: list[list[Any]] = [[None] * n for _ in self.features]
        for places in null_patterns(mixed):
            rows = places.tolist()
            part = {
                name: held if len(held := columns[name]) == 1 else [held[row] for row in rows]
                for name, _ in self.inputs
            }
            for column, answers in zip(made, self._of_one_form(part, len(rows)), strict=True):
                for row, value in zip(rows, answers.tolist(), strict=True):
                    column[row] = value
        return made

    def _of_one_form(self, columns: Mapping[str, Values], n: int) -> list[NDArray[Any]]:
        function: Any = self.view.feature_transformation
        types = self.input_types
        arrays: dict[str, Any] = {
            name: array(columns[name], n, types.get(name)) for name, _ in self.inputs
        }
        for name in self._times:
            moments = instants(arrays[name].tolist(), name)
            arrays[name] = pd.to_datetime(pd.Series(moments, dtype=object), utc=True).dt.as_unit(
                "us"
            )
        for name, long in self.inputs:
            if long:
                arrays[long] = arrays[name].copy()
        if self.uses_light_frames and not self._times:
            try:
                return frames.columns(
                    self._light_function(frames.InputFrame(arrays, n)), self.features
                )
            except Exception:  # noqa: BLE001 - whatever it wants of pandas, it gets below
                self.uses_light_frames.clear()
                return self._of_one_form(columns, n)
        return frames.columns(function.udf(frames.frame(arrays)), self.features)


def _python_values(column: Values, n: int) -> list[Any]:
    """A column as Python values (float32 becomes double), as Feast hands it over."""
    held = column.tolist() if isinstance(column, np.ndarray) else list(column)
    uses_light_frames = [
        value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value for value in held
    ]
    return uses_light_frames * n if len(uses_light_frames) == 1 else uses_light_frames


def _typed(values: Any, kind: str) -> Values:
    """A transform's output in its declared type; a list where it holds nulls."""
    uses_light_frames = values.to_numpy() if hasattr(values, "to_numpy") else values
    wanted = NUMPY_COLUMNS.get(ValueType[kind])
    if wanted is not None:
        made: NDArray[Any] = np.asarray(uses_light_frames)
        if made.dtype.kind == "f" and wanted.kind in "ib" and np.isnan(made).any():
            made = made.astype(object)  # pandas' null, which no whole number is
        if made.dtype != object:
            return made.astype(wanted)
        return [None if _is_null(value) else wanted.type(value) for value in made]
    return list(uses_light_frames)


def _is_null(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))

"""On-demand transforms on the hot path: Feast's own function, on Feast's own kinds of columns.

A transform is row-wise: training calls it with thousands of rows and serving with one, and both
must agree. So it is run once for each distinct row of inputs, which for a ranking of 500 items
of a few genres is a small part of them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from feast.on_demand_feature_view import OnDemandFeatureView
from numpy.typing import NDArray

from extensions.errors import SkewlessError
from extensions.serving.decoding import Values

# Below this, finding distinct rows costs more than it saves.
FEW = 16

_DTYPES = {
    "FLOAT": np.float32,
    "DOUBLE": np.float64,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class Transform:
    """One on-demand view: ``inputs`` are (column, the long name it may be read by too)."""

    name: str
    view: OnDemandFeatureView
    inputs: tuple[tuple[str, str | None], ...]
    features: tuple[str, ...]
    types: tuple[str, ...]

    @classmethod
    def of(cls, view: OnDemandFeatureView, features: tuple[str, ...]) -> "Transform":
        """Compile.

        Raises:
            SkewlessError: the view aggregates, or is of a mode that only Feast's route runs.
        """
        if (
            view.mode not in ("pandas", "python")
            or view.aggregations
            or getattr(view, "singleton", False)
        ):
            raise SkewlessError(
                f"The transform {view.name} is of a kind that /v1 does not serve: ask "
                "/get-online-features, or write it in mode pandas or python."
            )
        text = getattr(view.feature_transformation, "udf_string", "") or "__"
        inputs: list[tuple[str, str | None]] = []
        for projection in view.source_feature_view_projections.values():
            for field in projection.features:
                long = f"{projection.name}__{field.name}"
                inputs.append((field.name, long if "__" in text else None))
        for source in view.source_request_sources.values():
            inputs += [(field.name, None) for field in source.schema]
        types = {field.name: field.dtype.to_value_type().name for field in view.features}
        return cls(view.name, view, tuple(inputs), features, tuple(types[f] for f in features))

    def run(self, columns: dict[str, Values], n: int) -> dict[str, Values]:
        """The features for ``n`` rows; an input of length 1 is the same in every row."""
        constant: dict[str, Any] = {}
        varying: dict[str, list[Any]] = {}
        for name, _ in self.inputs:
            column = columns[name]
            if len(column) == 1:
                constant[name] = _plain(column)[0]
            else:
                varying[name] = _plain(column)
        rows, inverse = n, None
        if n > FEW and not any(isinstance(c[0], (np.ndarray, list)) for c in varying.values()):
            seen: dict[tuple[Any, ...], int] = {}
            inverse = (
                np.fromiter(
                    (
                        seen.setdefault(row, len(seen))
                        for row in zip(*varying.values(), strict=True)
                    ),
                    np.int64,
                    n,
                )
                if varying
                else np.zeros(n, np.int64)
            )
            rows = len(seen) or 1
            kept = list(zip(*seen, strict=True)) if seen else []
            varying = {name: list(kept[i]) for i, name in enumerate(varying)}
        made = self._call({**{k: [v] * rows for k, v in constant.items()}, **varying})
        found: dict[str, Values] = {}
        for name, kind in zip(self.features, self.types, strict=True):
            values = _typed(made[name], kind)
            if inverse is not None:
                values = (
                    values[inverse]
                    if isinstance(values, np.ndarray)
                    else [values[i] for i in inverse.tolist()]
                )
            found[name] = values
        return found

    def _call(self, inputs: dict[str, list[Any]]) -> Any:
        both = {**inputs, **{long: inputs[name] for name, long in self.inputs if long}}
        function: Any = self.view.feature_transformation
        if self.view.mode == "python":
            return function.transform(
                {
                    k: [v.tolist() if isinstance(v, np.ndarray) else v for v in c]
                    for k, c in both.items()
                }
            )
        return function.udf(pd.DataFrame({name: _series(values) for name, values in both.items()}))


def _plain(column: Values) -> list[Any]:
    """As Feast hands values to a transform: Python's own numbers, so float32 becomes float64."""
    if isinstance(column, np.ndarray):
        plain: list[Any] = column.tolist()
        return plain
    return [one.item() if isinstance(one, np.generic) else one for one in column]


def _series(values: list[Any]) -> Any:
    first = next((one for one in values if one is not None), None)
    if isinstance(first, (np.ndarray, list)):
        held = np.empty(len(values), object)
        for i, one in enumerate(values):
            held[i] = one if one is None else np.asarray(one)
        return held
    if isinstance(first, str):
        return np.array(values, object)
    if first is not None and None in values and not isinstance(first, bool):
        return np.array([np.nan if one is None else one for one in values], np.float64)
    return values


def _typed(values: Any, kind: str) -> Values:
    """A transform's column in its declared type; nulls keep it a list."""
    plain = values.to_numpy() if hasattr(values, "to_numpy") else values
    if kind in _DTYPES:
        array: NDArray[Any] = np.asarray(plain)
        if array.dtype != object:
            return array.astype(_DTYPES[kind])
        return [None if one is None else _DTYPES[kind](one) for one in array]
    return list(plain)

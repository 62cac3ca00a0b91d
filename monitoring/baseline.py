"""Baselines: what each feature of a service looked like in the training set of a model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, ValueType
from feast.types import Array, FeastType, PrimitiveFeastType, from_value_type
from numpy.typing import NDArray

from extensions.errors import SkewlessError
from extensions.training.digest import ContentDigest
from extensions.training.manifest import Manifest, manifest_path, read_manifest

NUMERIC, CATEGORICAL, EMBEDDING = "numeric", "categorical", "embedding"
BINS = 10
# A bin with fewer rows is joined to its neighbour: chi-squared wants some in every one.
LEAST_SHARE = 0.02
MOST_CATEGORIES = 1_000
ANCHORS = 50
SAMPLE_FOR_EDGES = 200_000

_NUMBERS = {"INT32", "INT64", "FLOAT32", "FLOAT64"}
_TEXTS = {"STRING", "BOOL"}


@dataclass(frozen=True)
class Feature:
    """One feature as a service returns it. ``keys``: whose it is. ``version`` 0: a transform.

    ``dtype`` is the name of Feast's value type.
    """

    view: str
    name: str
    dtype: str
    version: int
    keys: tuple[str, ...]

    @property
    def label(self) -> str:
        """``view:feature``, Feast's own way of naming it."""
        return f"{self.view}:{self.name}"

    @property
    def type(self) -> FeastType:
        """The declared type."""
        return from_value_type(ValueType[self.dtype])

    @property
    def kind(self) -> str | None:
        """How it is compared; None for what is only counted (times, bytes, lists of texts)."""
        return kind_of(self.type)


@dataclass(frozen=True)
class FeatureBaseline:
    """A feature's distribution over ``rows`` labels; ``content`` depends on its kind.

    numeric: ``edges`` (inner, ascending), ``weights`` of the bins, ``mean``, ``sd``,
    ``kurtosis`` (fourth standardized moment), ``minimum``, ``maximum``. categorical:
    ``frequencies``, ``other`` (share beyond the kept ones). embedding: ``means``, ``sds``,
    ``kurtoses`` by dimension, ``anchors`` (keys and vector).
    """

    feature: Feature
    rows: int
    null_rate: float
    default_rate: float | None
    content: Mapping[str, Any]

    @property
    def values(self) -> int:
        """Rows that are not null."""
        return round(self.rows * (1 - self.null_rate))


@dataclass(frozen=True)
class Baseline:
    """All features of a service; ``identity`` is the hash of the rest."""

    service: str
    versions: Mapping[str, int]
    training_set: str
    rows: int
    features: tuple[FeatureBaseline, ...]
    left_out: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """The same text for the same baseline."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @property
    def identity(self) -> str:
        """64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Baseline":
        """Read what `to_json` wrote."""
        features = tuple(
            FeatureBaseline(
                **{
                    **one,
                    "feature": Feature(**{**one["feature"], "keys": tuple(one["feature"]["keys"])}),
                }
            )
            for one in content["features"]
        )
        return cls(**{**content, "features": features, "left_out": tuple(content["left_out"])})


def kind_of(dtype: FeastType) -> str | None:
    """How features of a type are compared."""
    if isinstance(dtype, Array):
        return EMBEDDING if getattr(dtype.base_type, "name", "") in _NUMBERS else None
    if isinstance(dtype, PrimitiveFeastType):
        if dtype.name in _NUMBERS:
            return NUMERIC
        return CATEGORICAL if dtype.name in _TEXTS else None
    return None


def features_of(store: FeatureStore, service: str) -> tuple[Feature, ...]:
    """What a service returns, in its order.

    Raises:
        SkewlessError: there is no such service.
    """
    try:
        found = store.get_feature_service(service)
    except Exception as error:
        raise SkewlessError(f"There is no feature service {service}.") from error
    features = []
    for projection in found.feature_view_projections:
        view: Any = store.registry.get_any_feature_view(projection.name, store.project)
        on_demand = hasattr(view, "source_request_sources")
        keys = () if on_demand else tuple(key.name for key in view.entity_columns)
        number = getattr(view, "current_version_number", None) or _declared(view)
        version = 0 if on_demand else projection.version_tag or number
        features += [
            Feature(projection.name, one.name, one.dtype.to_value_type().name, version, keys)
            for one in projection.features
        ]
    return tuple(features)


def take_baseline(store: FeatureStore, training_set: Path, service: str) -> Baseline:
    """The baseline of a training set that `skewless training-set` wrote.

    Raises:
        SkewlessError: the set is of another service, not the one that its manifest describes,
            or too small.
    """
    manifest = read_manifest(training_set)
    path = _parquet_of(training_set)
    if manifest.service != service:
        raise SkewlessError(
            f"{path.name} is a training set of {manifest.service}, not of {service}."
        )
    used = {view.view: view.version for view in manifest.views}
    table = _read(path, manifest)
    features = [
        Feature(f.view, f.name, f.dtype, used.get(f.view, f.version), f.keys)
        for f in features_of(store, service)
    ]
    rates = {column.name: column.default_rate for column in manifest.columns}
    return baseline_of(service, used, manifest.sha256, table, features, rates)


def baseline_of(
    service: str,
    versions: Mapping[str, int],
    training_set: str,
    table: pa.Table,
    features: list[Feature],
    default_rates: Mapping[str, float | None],
) -> Baseline:
    """The baseline of rows that are here: one column for each feature, by its own name."""
    if table.num_rows < 100:
        raise SkewlessError(
            f"{table.num_rows} rows are too few for a baseline: take a larger training set."
        )
    kept, left_out = [], []
    for feature in features:
        if feature.kind is None or feature.name not in table.column_names:
            left_out.append(feature.label)
            continue
        column = _with_nulls(table[feature.name])
        table = table.set_column(table.column_names.index(feature.name), feature.name, column)
        kept.append(
            FeatureBaseline(
                feature=feature,
                rows=table.num_rows,
                null_rate=column.null_count / table.num_rows,
                default_rate=default_rates.get(feature.name),
                content=_content(feature, table),
            )
        )
    return Baseline(
        service=service,
        versions=dict(versions),
        training_set=training_set,
        rows=table.num_rows,
        features=tuple(kept),
        left_out=tuple(left_out),
    )


def numeric_content(values: NDArray[np.float64]) -> dict[str, Any]:
    """Edges, weights and moments of finite values."""
    if not len(values):
        return {"edges": [], "weights": [1.0], "mean": 0.0, "sd": 0.0, "kurtosis": 3.0,
                "minimum": None, "maximum": None}  # fmt: skip
    edges = bin_edges(values)
    counts = np.histogram(values, [-np.inf, *edges, np.inf])[0]
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return {
        "edges": [float(edge) for edge in edges],
        "weights": [float(count) / len(values) for count in counts],
        "mean": float(values.mean()),
        "sd": sd,
        "kurtosis": _kurtosis(values),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
    }


def bin_edges(values: NDArray[np.float64]) -> list[float]:
    """At most `BINS` - 1 inner edges near quantiles, at midpoints between distinct values.

    A value that is the last bit away from an edge would fall on either side by rounding.
    """
    if len(values) > SAMPLE_FOR_EDGES:
        values = values[:: -(-len(values) // SAMPLE_FOR_EDGES)]
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) < 2:
        return []
    below = np.cumsum(counts)[:-1] / len(values)  # share of rows below each midpoint
    middles = distinct[:-1] + (distinct[1:] - distinct[:-1]) / 2
    edges, last = [], 0.0
    for target in np.arange(1, BINS) / BINS:
        place = int(np.argmin(np.abs(below - target)))
        share = below[place]
        if share - last >= LEAST_SHARE and 1 - share >= LEAST_SHARE:
            edges.append(float(middles[place]))
            last = share
    return edges


def embedding_content(vectors: NDArray[np.float64], keys: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Moments by dimension of (n, dimensions), and the vectors of some entities.

    ``keys`` by row, in order of time: an entity's last vector is its anchor.
    """
    centred = vectors - vectors.mean(axis=0)
    spread = (centred**2).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        kurtoses = np.where(spread > 0, (centred**4).mean(axis=0) / spread**2, 3.0)
    latest = {key: row for row, key in enumerate(keys)}
    pointing = [key for key, row in latest.items() if np.linalg.norm(vectors[row]) > 0]
    chosen = sorted(pointing, key=lambda key: hashlib.sha256(repr(key).encode()).digest())
    return {
        "means": vectors.mean(axis=0).tolist(),
        "sds": vectors.std(axis=0, ddof=1).tolist(),
        "kurtoses": kurtoses.tolist(),
        "anchors": [
            {"keys": list(key), "vector": vectors[latest[key]].tolist()} for key in chosen[:ANCHORS]
        ],
    }


def _content(feature: Feature, table: pa.Table) -> dict[str, Any]:
    column = table[feature.name]
    if feature.kind == NUMERIC:
        return numeric_content(column.cast(pa.float64()).drop_null().to_numpy())
    if feature.kind == CATEGORICAL:
        pairs = column.drop_null().value_counts().to_pylist()
        counts = sorted(
            ((text(one["values"]), one["counts"]) for one in pairs),
            key=lambda one: (-one[1], one[0]),
        )
        total = sum(count for _, count in counts) or 1
        kept = counts[:MOST_CATEGORIES]
        return {
            "frequencies": {name: count / total for name, count in kept},
            "other": max(0.0, 1 - sum(count for _, count in kept) / total),
        }
    rows = column.is_valid()
    held = table.filter(rows)
    lists = held[feature.name].combine_chunks()
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(lengths) != 1:
        raise SkewlessError(
            f"The vectors of {feature.label} have different lengths: they cannot be compared."
        )
    flat = pc.list_flatten(lists).cast(pa.float64()).to_numpy(zero_copy_only=False)
    vectors = flat.reshape(-1, lengths[0])
    order = np.arange(len(held))
    if "event_timestamp" in held.column_names:
        order = pc.sort_indices(held, [("event_timestamp", "ascending")]).to_numpy()
    if not feature.keys or not set(feature.keys) <= set(held.column_names):
        return embedding_content(vectors[order], [])
    keys = list(zip(*(held[name].to_pylist() for name in feature.keys), strict=True))
    return embedding_content(vectors[order], [keys[place] for place in order])


def text(value: Any) -> str:
    """A category as PostgreSQL prints it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kurtosis(values: NDArray[np.float64]) -> float:
    centred = values - values.mean()
    spread = float((centred**2).mean())
    return float((centred**4).mean() / spread**2) if spread > 0 else 3.0


def _with_nulls(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """NaN and infinities, in numbers and in vectors, as nulls: the check counts all three."""
    kind = column.type
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        lists = column.combine_chunks()
        finite = pc.fill_null(pc.is_finite(pc.list_flatten(lists)), fill_value=False)
        whole = np.ones(len(lists), np.bool_)
        whole[pc.list_parent_indices(lists).filter(pc.invert(finite)).to_numpy()] = False
        return pa.chunked_array([pc.if_else(pa.array(whole), lists, pa.scalar(None, kind))])
    return column


def _declared(view: Any) -> int:
    digits = str(getattr(view, "version", "") or "").removeprefix("v")
    return int(digits) if digits.isdigit() else 1


def _parquet_of(path: Path) -> Path:
    if path.suffix == ".parquet":
        return path
    return path.with_name(path.name.removesuffix(".manifest.json") + ".parquet")


def _read(path: Path, manifest: Manifest) -> pa.Table:
    if not path.is_file():
        raise SkewlessError(f"The training set {path} is not beside {manifest_path(path).name}.")
    table = _as_taken(pq.read_table(path))
    digest = ContentDigest()
    digest.update(table)
    if digest.hexdigest() != manifest.sha256:
        raise SkewlessError(
            f"{path.name} is not the training set that its manifest describes: take it again."
        )
    return table


def _as_taken(table: pa.Table) -> pa.Table:
    """Parquet gives the elements of lists another name, which the hash would see."""
    fields = [
        field.with_type(pa.list_(field.type.value_type)) if pa.types.is_list(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))

"""Baselines: the distribution of each feature of a service in a model's training set."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore

from extensions.errors import InputError
from extensions.service_routes import leading_first
from extensions.statistics.histogram import bin_edges
from extensions.suggestions import did_you_mean
from extensions.training.content_hash import ContentDigest
from extensions.training.manifest import Manifest, manifest_path, read_manifest
from monitoring.baselines.distribution_measuring import (
    LARGEST,
    content_of,
    embedding_content,
    numeric_content,
    vector_lengths,
    with_nulls,
)
from monitoring.baselines.feature_baseline import (
    CATEGORICAL,
    EMBEDDING,
    NUMERIC,
    Feature,
    FeatureBaseline,
    kind_of,
)
from monitoring.baselines.stratified_baselines import strata_of
from monitoring.statistics.repeated_entities import entity_counts, parts_of
from monitoring.statistics.shared_by_requests import one_row_of_each, training_requests

__all__ = [
    "CATEGORICAL", "EMBEDDING", "LARGEST", "NUMERIC", "Baseline", "Feature", "FeatureBaseline",
    "baseline_of", "bin_edges", "embedding_content", "features_of", "kind_of", "numeric_content",
    "take_baseline",
]  # fmt: skip

LEAST_ROWS_OF_BASELINE = 100


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
        """Canonical JSON: equal baselines give equal text."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @property
    def identity(self) -> str:
        """SHA-256 of `to_json`, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Baseline":
        """Read what `to_json` wrote."""
        features = tuple(
            FeatureBaseline(**{**one, "feature": Feature.from_json(one["feature"])})
            for one in content["features"]
        )
        return cls(**{**content, "features": features, "left_out": tuple(content["left_out"])})


def features_of(store: FeatureStore, service: str) -> tuple[Feature, ...]:
    """What a service returns, in its order.

    Raises:
        InputError: there is no such service.
    """
    try:
        result = store.get_feature_service(service)
    except Exception as error:
        names = sorted(each.name for each in store.list_feature_services())
        raise InputError(
            f"There is no feature service {service}: there are {', '.join(names)}."
            f"{did_you_mean(service, names)}"
        ) from error
    features = []
    for projection in result.feature_view_projections:
        view: Any = store.registry.get_any_feature_view(projection.name, store.project)
        on_demand = hasattr(view, "source_request_sources")
        reads, requests = _inputs(view) if on_demand else ((), ())
        read_keys = _read_keys(store, view) if on_demand else ()
        keys = () if on_demand else tuple(key.name for key in view.entity_columns)
        number = getattr(view, "current_version_number", None) or _declared(view)
        version = 0 if on_demand else projection.version_tag or number
        features += [
            Feature(
                projection.name, feature.name, feature.dtype.to_value_type().name, version, keys,
                reads,
                requests,
                read_keys,
            )
            for feature in projection.features
        ]  # fmt: skip
    return tuple(features)


def take_baseline(store: FeatureStore, training_set: Path, service: str) -> Baseline:
    """The baseline of a training set that `skewless training-set` wrote.

    Raises:
        InputError: the set is of another service, not the one that its manifest describes,
            or too small.
    """
    manifest = read_manifest(training_set)
    path = _parquet_of(training_set)
    if manifest.service != service:
        raise InputError(f"{path.name} is a training set of {manifest.service}, not of {service}.")
    used = {view.view: view.version for view in manifest.views}
    table = _read(path, manifest)
    features = [
        replace(f, version=used.get(f.view, f.version)) for f in features_of(store, service)
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
    if table.num_rows < LEAST_ROWS_OF_BASELINE:
        raise InputError(
            f"{table.num_rows} rows are too few for a baseline of {service} "
            f"({LEAST_ROWS_OF_BASELINE} at least): take a larger training set."
        )
    kept, left_out = [], []
    all_keys = _leading_first(features)
    for feature in features:
        if feature.kind is None or feature.name not in table.column_names:
            left_out.append(feature.label)
            continue
        column = with_nulls(table[feature.name])
        if feature.kind == EMBEDDING and len(lengths := vector_lengths(column)) > 1:
            left_out.append(
                f"{feature.label} (vectors of {lengths[0]} to {lengths[-1]} dimensions)"
            )
            continue
        table = table.set_column(table.column_names.index(feature.name), feature.name, column)
        content = content_of(feature, table)
        keys = _entity_keys(feature, features)
        apart = None
        if feature.requests or set(keys) & set(all_keys[:-1]):
            apart = one_row_of_each(table, feature.requests, all_keys)
        if strata := strata_of(feature, table, content, apart):
            content["strata"] = strata
        if counts := entity_counts(table, keys):
            content["entities"] = {"keys": list(keys), "counts": counts}
            content["parts"] = [
                {"keys": list(part), "counts": entity_counts(table, part)}
                for part in parts_of(keys)
            ]
        if requests := training_requests(table, feature.requests, all_keys):
            content["requests"] = requests
        kept.append(
            FeatureBaseline(
                feature=feature,
                rows=table.num_rows,
                null_rate=column.null_count / table.num_rows,
                default_rate=default_rates.get(feature.name),
                content=content,
            )
        )
    if not kept:
        raise InputError(
            f"Nothing of {service} can be compared: {', '.join(left_out) or 'it has no features'}."
        )
    return Baseline(
        service=service,
        versions=dict(versions),
        training_set=training_set,
        rows=table.num_rows,
        features=tuple(kept),
        left_out=tuple(left_out),
    )


def _entity_keys(feature: Feature, features: list[Feature]) -> tuple[str, ...]:
    """The join keys of a feature; a transform's are those of all views that it reads."""
    if feature.version:
        return feature.keys
    if feature.read_keys:
        return feature.read_keys
    known = {one.view: one.keys for one in features if one.version}
    if not all(view in known for view in feature.reads):
        return feature.keys
    return tuple(dict.fromkeys(key for view in feature.reads for key in known[view]))


def _leading_first(features: list[Feature]) -> tuple[str, ...]:
    """The join keys of all features, of a pair the one first whose rows they are."""
    held = [_entity_keys(one, features) for one in features]
    own = dict.fromkeys(one.keys for one in features if one.version)
    return leading_first(tuple(dict.fromkeys(key for keys in held for key in keys)), own)


def _inputs(view: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The views and the request's fields that a transform is computed from."""
    fields = [one.name for source in view.source_request_sources.values() for one in source.schema]
    views = [one.name for one in view.source_feature_view_projections.values()]
    return tuple(views), tuple(fields)


def _read_keys(store: FeatureStore, view: Any) -> tuple[str, ...]:
    """The join keys of all views that a transform reads, as requests name them."""
    keys: dict[str, None] = {}
    for projection in view.source_feature_view_projections.values():
        read: Any = store.registry.get_any_feature_view(projection.name, store.project)
        renamed = projection.join_key_map or {}
        keys |= dict.fromkeys(renamed.get(key.name, key.name) for key in read.entity_columns)
    return tuple(keys)


def _declared(view: Any) -> int:
    digits = str(getattr(view, "version", "") or "").removeprefix("v")
    return int(digits) if digits.isdigit() else 1


def _parquet_of(path: Path) -> Path:
    if path.suffix == ".parquet":
        return path
    return path.with_name(path.name.removesuffix(".manifest.json") + ".parquet")


def _read(path: Path, manifest: Manifest) -> pa.Table:
    if not path.is_file():
        raise InputError(f"The training set {path} is not beside {manifest_path(path).name}.")
    table = _as_taken(pq.read_table(path))
    digest = ContentDigest()
    digest.update(table)
    if digest.hexdigest() != manifest.sha256:
        raise InputError(
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

"""Training sets: labels joined point-in-time to a service's features, written atomically."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore
from feast.errors import FeatureServiceNotFoundException
from feast.types import String
from psycopg import sql
from psycopg.pq import Format
from psycopg.types.multirange import Multirange

from extensions.asof.backfill_refusals import NO_HOLES
from extensions.asof.log_coverage import NOT_KNOWN, Coverage
from extensions.errors import ConfigurationError, ConflictError, InputError
from extensions.feast_internals import feature_views_to_use
from extensions.output_files import output_path, whole_file
from extensions.stores.offline.arrow.adbc_session import arrow_session
from extensions.stores.offline.join.label_coverage import read_coverages, read_holes
from extensions.stores.offline.join.point_in_time import HIDDEN
from extensions.stores.offline.join.versioned_transforms import VersionedTransform
from extensions.stores.offline.materialization import SETTLED
from extensions.stores.offline.retrieval_job import SkewlessRetrievalJob
from extensions.stores.offline.retrieval_queries import PointInTimeRequest
from extensions.stores.request_fields import request_fields
from extensions.suggestions import did_you_mean
from extensions.training.content_hash import as_stored
from extensions.training.label_source import Labels, read_labels
from extensions.training.manifest import (
    LabelsUsed,
    Manifest,
    manifest_path,
    read_manifest,
)
from extensions.training.manifest_html import manifest_html
from extensions.training.quality_counts import QualityCounts, Span, WatchedTransform, WatchedVersion
from extensions.version_names import log_table_sql

# Rows done, and of how many; None where a query's labels were not counted beforehand.
Progress = Callable[[int, int | None], None]
_TSTZMULTIRANGE = psycopg.adapters.types["tstzmultirange"].oid


@dataclass(frozen=True)
class TrainingSet:
    """A training set on disk."""

    path: Path
    manifest_path: Path
    manifest: Manifest

    def _repr_html_(self) -> str:
        """For notebooks: the manifest's; the file is not read."""
        return manifest_html(self.manifest, str(self.path))


def take(
    store: FeatureStore,
    service: str,
    labels: Labels,
    out: Path,
    *,
    known_at: datetime | None = None,
    full: bool = False,
    progress: Progress | None = None,
) -> TrainingSet:
    """Join ``service``'s features to ``labels`` and write ``out`` (Parquet) and its manifest.

    ``known_at`` (default: now) freezes what was known: rows published later are not used.
    ``full`` keeps each view's age in seconds and whether a row was found. Labels newer than a
    log's watermark are a warning in the manifest.

    Raises:
        SkewlessError: no such service, unusable labels, or the database failed; no file then.
    """
    return _take(store, service, labels, out, known_at, full=full, progress=progress, expected=None)


def take_again(
    store: FeatureStore, manifest: Path, out: Path, *, progress: Progress | None = None
) -> TrainingSet:
    """Take the manifest's training set once more; the result is identical or nothing is written.

    Raises:
        ConflictError: labels or versions are not the manifest's, or rows dated back have been
            appended to a log since (a backfill).
    """
    made = read_manifest(manifest)
    if made.labels.sql is not None and made.labels.path is None:
        labels = read_labels(made.labels.sql)
    else:
        labels = read_labels(manifest.parent / str(made.labels.path))
    if labels.sha256 != made.labels.sha256:
        raise ConflictError(
            f"The labels in {made.labels.path} have changed since the manifest was written: "
            "bring back the old file, or take a new training set."
        )
    return _take(
        store,
        made.service,
        labels,
        out,
        made.known,
        full=made.full,
        progress=progress,
        expected=made,
    )


def _take(
    store: FeatureStore,
    service: str,
    labels: Labels,
    out: Path,
    known_at: datetime | None,
    *,
    full: bool,
    progress: Progress | None,
    expected: Manifest | None,
) -> TrainingSet:
    try:
        features = store.get_feature_service(service)
    except FeatureServiceNotFoundException as error:
        names = sorted(s.name for s in store.list_feature_services())
        raise InputError(
            f"There is no feature service {service}: there are {', '.join(names)}."
            f"{did_you_mean(service, names)}"
        ) from error
    output_path(out)
    output_path(manifest_path(out))
    labels = labels.with_texts(_texts(store, features))
    job = store.get_historical_features(entity_df=labels.rows, features=features)
    if not isinstance(job, SkewlessRetrievalJob) or not isinstance(job.request, PointInTimeRequest):
        raise ConfigurationError(
            "Training sets need this project's offline store: set offline_store.type in "
            "feature_store.yaml to extensions.stores.offline.store.SkewlessPostgresOfflineStore."
        )
    job.check_names(service, full=True)
    if expected is not None:
        _check_versions(service, expected, _versions(job.request))
    known_at = known_at or _settled(store)
    job = job.in_full().as_known_at(known_at)
    request = job.request
    assert isinstance(request, PointInTimeRequest)
    if expected is not None and request.lake is not None:
        request.lake.pinned.update(expected.lake)
    total = request.labels.count
    counts = QualityCounts(
        request.labels.timestamp_column,
        _watched(store, request),
        known_at,
        transforms=_transforms(job),
        full=full,
    )
    with whole_file(out) as partial:
        _write(job, counts, partial, progress, total)
        manifest = _manifest(store, service, labels, out, counts, request)
        if expected is not None and manifest.sha256 != expected.sha256:
            raise ConflictError(
                "The training set is not the same any more: rows dated back were appended to a "
                f"log since {expected.known_at} (a backfill or a push of old values), or a "
                "transform was edited; take a new one."
            )
    described = manifest_path(out)
    with whole_file(described) as partial:
        partial.write_text(manifest.to_json())
    return TrainingSet(out, described, manifest)


def _texts(store: FeatureStore, service: FeatureService) -> set[str]:
    """The labels' columns that the service declares as texts: keys and request fields."""
    views, transforms = feature_views_to_use(store.registry, store.project, service)
    names = {
        view.projection.join_key_map.get(column.name, column.name)
        for view in views
        for column in view.entity_columns
        if column.dtype == String
    }
    fields = request_fields(transforms).values()
    return names | {field.name for field in fields if field.dtype == String}


def _write(
    job: SkewlessRetrievalJob,
    counts: "QualityCounts",
    path: Path,
    progress: Progress | None,
    total: int | None,
) -> None:
    writer = None
    try:
        for batch in job.to_batches():
            kept = counts.count(as_stored(batch))
            if writer is None:
                writer = pq.ParquetWriter(path, kept.schema, compression="zstd")
            writer.write_table(kept.cast(writer.schema))
            if progress:
                progress(counts.rows, total)
    finally:
        if writer is not None:
            writer.close()


def _manifest(
    store: FeatureStore,
    service: str,
    labels: Labels,
    out: Path,
    counts: "QualityCounts",
    request: PointInTimeRequest,
) -> Manifest:
    rates = counts.default_rates()
    path = os.path.relpath(labels.path, out.parent) if labels.path else None
    return Manifest(
        service=service,
        project=store.project,
        known_at=counts.known_at.astimezone(UTC).isoformat(),
        bitemporal=request.options.bitemporal,
        full=counts.full,
        rows=counts.rows,
        first_label=counts.first.isoformat() if counts.first else None,
        last_label=counts.last.isoformat() if counts.last else None,
        labels=LabelsUsed(path=path, sql=labels.sql, sha256=labels.sha256),
        views=counts.used(),
        transforms=counts.transforms(),
        columns=counts.columns(
            {
                feature.output: rates[view.label]
                for view in request.views
                for feature in view.features
                if feature.default is not None and not feature.output.startswith(HIDDEN)
            }
        ),
        warnings=tuple(counts.warnings()),
        sha256=counts.digest.hexdigest(),
        lake=dict(request.lake.used) if request.lake else {},
    )


def _check_versions(service: str, expected: Manifest, there: list[WatchedVersion]) -> None:
    logs = {(one.view, one.version) for one in there if one.table is not None}
    lost = [
        one
        for one in expected.views
        if one.table is not None and (one.view, one.version) not in logs
    ]
    if lost:
        were = ", ".join(f"{one.view} v{one.version}" for one in lost)
        raise ConflictError(
            f"The service {service} does not use the manifest's versions any more, or their logs "
            f"are gone ({were}): let the service follow the pointer, or take a new training set."
        )


def _versions(request: PointInTimeRequest) -> list[WatchedVersion]:
    """The versions that labels may get: the one that is named, or all that were ever served.

    By view, in the order of the question; the default is the last one of its view.
    """
    found = []
    for view in request.views:
        name, _, pinned = view.name.partition("@v")
        of_log = re.search(r"_v(\d+)$", view.table)
        number = int(pinned or (of_log.group(1) if of_log else 1))
        keys = tuple(key.label_column for key in view.keys)
        if not view.eras:
            found.append(WatchedVersion(name, view.label, number, view.table, keys=keys))
            continue
        found += [
            WatchedVersion(
                name, view.label, era.version, era.table, _spans(era.valid_times), keys=keys
            )
            for era in sorted(view.eras, key=lambda era: (era.version == number, era.version))
        ]
    return found


def _transforms(job: SkewlessRetrievalJob) -> list[WatchedTransform]:
    """The transforms that may run: the one that is named, or all that were ever served."""
    found = []
    for transform in job.on_demand_feature_views:
        if isinstance(transform, VersionedTransform):
            found += [
                WatchedTransform(transform.name, one.version or None)
                if one.valid_times is None
                else WatchedTransform(transform.name, one.version, _spans(one.valid_times))
                for one in transform.versions
            ]
        else:
            version = transform.projection.version_tag or transform.current_version_number
            found.append(WatchedTransform(transform.name, version or None))
    return found


def _spans(multirange: str) -> tuple[Span, ...]:
    """The spans of a tstzmultirange in PostgreSQL's text form, in UTC."""
    loader = psycopg.adapters.get_loader(_TSTZMULTIRANGE, Format.TEXT)
    assert loader is not None  # psycopg knows PostgreSQL's own types
    ranges: Multirange[datetime] = loader(_TSTZMULTIRANGE).load(multirange.encode())
    return tuple((one.lower, one.upper) for one in ranges)


def _watched(store: FeatureStore, request: PointInTimeRequest) -> list[WatchedVersion]:
    """The versions with their watermarks and coverage, where these are recorded."""
    through: dict[str, datetime] = {}
    covered: dict[str, Coverage] = {}
    retired: set[tuple[str, int]] = set()
    with arrow_session(store.config, "reading watermarks") as session:
        if session.has("watermarks"):
            marks = session.table(
                f"SELECT {log_table_sql('w')} AS log, processed_through FROM watermarks AS w"
            ).to_pylist()
            through = {mark["log"]: mark["processed_through"] for mark in marks}
        covered = read_coverages(session)
        logs = {
            str(table): [key.column for key in view.keys]
            for view in request.views
            for table in (view.table, *(era.table for era in view.eras))
        }
        holes = read_holes(session, logs)
        if session.has("view_versions"):
            gone = session.table(
                "SELECT view_name, version FROM view_versions WHERE state = 'retired'"
            ).to_pylist()
            retired = {(one["view_name"], one["version"]) for one in gone}
    return [
        replace(
            one,
            processed_through=through.get(str(one.table)),
            complete=(one.view, one.version) in retired,
            coverage=covered.get(str(one.table), NOT_KNOWN),
            holes=holes.get(str(one.table), NO_HOLES),
        )
        for one in _versions(request)
    ]


def _settled(store: FeatureStore) -> datetime:
    """The latest instant up to which every published row is visible."""
    with arrow_session(store.config, "reading the clock") as session:
        at: datetime = session.table(
            sql.SQL("SELECT s.settled - interval '1 microsecond' AS at FROM ({}) AS s").format(
                SETTLED
            )
        )["at"][0].as_py()
    return at

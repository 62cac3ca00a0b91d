"""Taking a training set: labels joined to a service's features, written whole or not at all."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
from feast import FeatureStore
from feast.errors import FeatureServiceNotFoundException
from psycopg import sql

from extensions.errors import SkewlessError
from extensions.stores.arrow_session import arrow_session
from extensions.stores.materialization import SETTLED
from extensions.stores.retrieval_job import PointInTimeQuestion, SkewlessRetrievalJob
from extensions.training.labels import Labels, read_labels
from extensions.training.manifest import (
    LabelsUsed,
    Manifest,
    ViewUsed,
    manifest_path,
    read_manifest,
)
from extensions.training.tally import Tally, WatchedView

# Rows done, and of how many; None where a query's labels were not counted beforehand.
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class TrainingSet:
    """A training set on disk."""

    path: Path
    manifest_path: Path
    manifest: Manifest


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
        SkewlessError: labels or versions are not the manifest's, or rows dated back have been
            appended to a log since (a backfill).
    """
    made = read_manifest(manifest)
    if made.labels.sql is not None and made.labels.path is None:
        labels = read_labels(made.labels.sql)
    else:
        labels = read_labels(manifest.parent / str(made.labels.path))
    if labels.sha256 != made.labels.sha256:
        raise SkewlessError(
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
        names = ", ".join(sorted(s.name for s in store.list_feature_services()))
        raise SkewlessError(f"There is no feature service {service}: there are {names}.") from error
    job = store.get_historical_features(entity_df=labels.rows, features=features)
    if not isinstance(job, SkewlessRetrievalJob) or not isinstance(
        job.question, PointInTimeQuestion
    ):
        raise SkewlessError(
            "Training sets need this project's offline store: set offline_store.type in "
            "feature_store.yaml to extensions.stores.offline.SkewlessPostgresOfflineStore."
        )
    if expected is not None:
        _check_versions(service, expected, _served(job.question))
    known_at = known_at or _settled(store)
    job = job.in_full().as_known_at(known_at)
    question = job.question
    assert isinstance(question, PointInTimeQuestion)
    total = question.labels.count
    tally = Tally(question.labels.timestamp_column, _watched(store, question), known_at, full=full)
    with _whole_file(out) as partial:
        _write(job, tally, partial, progress, total)
        manifest = _manifest(store, service, labels, out, tally, question)
        if expected is not None and manifest.sha256 != expected.sha256:
            raise SkewlessError(
                "The training set is not the same any more: rows dated back were appended to a "
                f"log since {expected.known_at} (a backfill or a push of old values), or a "
                "transform was edited; take a new one."
            )
    described = manifest_path(out)
    with _whole_file(described) as partial:
        partial.write_text(manifest.to_json())
    return TrainingSet(out, described, manifest)


def _write(
    job: SkewlessRetrievalJob,
    tally: "Tally",
    path: Path,
    progress: Progress | None,
    total: int | None,
) -> None:
    writer = None
    try:
        for piece in job.to_batches():
            kept = tally.count(piece)
            if writer is None:
                writer = pq.ParquetWriter(path, kept.schema, compression="zstd")
            writer.write_table(kept.cast(writer.schema))
            if progress:
                progress(tally.rows, total)
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _manifest(
    store: FeatureStore,
    service: str,
    labels: Labels,
    out: Path,
    tally: "Tally",
    question: PointInTimeQuestion,
) -> Manifest:
    rates = tally.default_rates()
    path = os.path.relpath(labels.path, out.parent) if labels.path else None
    return Manifest(
        service=service,
        project=store.project,
        known_at=tally.known_at.astimezone(UTC).isoformat(),
        bitemporal=question.options.bitemporal,
        full=tally.full,
        rows=tally.rows,
        first_label=tally.first.isoformat() if tally.first else None,
        last_label=tally.last.isoformat() if tally.last else None,
        labels=LabelsUsed(path=path, sql=labels.sql, sha256=labels.sha256),
        views=tuple(
            ViewUsed(name, version, view.table, default_rate=rates[view.label])
            for view, (name, version) in zip(question.views, _used(question), strict=True)
        ),
        columns=tally.columns(
            {
                feature.output: rates[view.label]
                for view in question.views
                for feature in view.features
                if feature.default is not None
            }
        ),
        warnings=tuple(tally.warnings()),
        sha256=tally.digest.hexdigest(),
    )


def _check_versions(service: str, expected: Manifest, used: list[tuple[str, int]]) -> None:
    changed = [view for view in expected.views if (view.view, view.version) not in used]
    if changed:
        were = ", ".join(f"{view.view} was v{view.version}" for view in changed)
        raise SkewlessError(
            f"The service {service} does not use the manifest's versions any more ({were}): "
            "roll back, or take a new training set."
        )


def _used(question: PointInTimeQuestion) -> list[tuple[str, int]]:
    """Each view's name and version: the one that is pinned, or else that of its log."""
    used = []
    for view in question.views:
        name, _, pinned = view.name.partition("@v")
        of_log = re.search(r"_v(\d+)$", view.table)
        used.append((name, int(pinned or (of_log.group(1) if of_log else 1))))
    return used


def _served(question: PointInTimeQuestion) -> list[tuple[str, int]]:
    """Each view's versions that the question may use: of one without a version, all served ever."""
    eras = [
        (view.name, era.version)
        for view in question.views
        for era in view.eras
        if era.table is not None
    ]
    return [*_used(question), *eras]


def _watched(store: FeatureStore, question: PointInTimeQuestion) -> list[WatchedView]:
    """The views with the moments up to which their logs are complete; None where none is noted."""
    with arrow_session(store.config, "reading watermarks") as session:
        if not session.table("SELECT WHERE to_regclass('watermarks') IS NOT NULL").num_rows:
            return [WatchedView(view.label, None) for view in question.views]
        marks = session.table(
            "SELECT view_name || '_v' || version AS log, processed_through FROM watermarks"
        ).to_pylist()
    through = {mark["log"]: mark["processed_through"] for mark in marks}
    return [WatchedView(view.label, through.get(view.table)) for view in question.views]


def _settled(store: FeatureStore) -> datetime:
    """A moment just before which every publication is visible."""
    with arrow_session(store.config, "reading the clock") as session:
        at: datetime = session.table(
            sql.SQL("SELECT s.settled - interval '1 microsecond' AS at FROM ({}) AS s").format(
                SETTLED
            )
        )["at"][0].as_py()
    return at

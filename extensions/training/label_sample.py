"""A seeded sample of (entity, timestamp) pairs from history: labels to start a training set from.

A label is a row of a history source that carries the service's join keys, at the time when it
happened. PostgreSQL chooses the rows by a hash of keys, time and seed and keeps only the sample,
so that neither side's memory depends on the length of the history.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore
from feast.errors import FeatureServiceNotFoundException
from feast.on_demand_feature_view import OnDemandFeatureView
from psycopg import sql

from extensions.asof import load_computations
from extensions.asof.computation import Computation, HistorySource
from extensions.asof.history_span import why_nothing
from extensions.asof.log_coverage import coverage
from extensions.asof.watermarks import read_watermark
from extensions.database import connect, connect_arrow
from extensions.database.connection import identifiers
from extensions.errors import InputError
from extensions.feature_types import arrow_type
from extensions.output_files import output_path, whole_file
from extensions.stores.offline.feast_source_connections import url_of
from extensions.stores.request_fields import RequestField, request_fields
from extensions.value_text import time_text
from extensions.versions.maintained_versions import live_computations

TIMESTAMP = "event_timestamp"


@dataclass(frozen=True)
class LabelSample:
    """What was written: ``rows`` labels with ``columns`` (join keys, time, request fields).

    ``first`` and ``last`` are the earliest and the latest label. ``invented``: request fields
    that have no declared default, and are zero or empty. ``covered``: whether the range is the
    one that the logs of all views cover.
    """

    path: Path
    service: str
    rows: int
    columns: tuple[str, ...]
    first: datetime
    last: datetime
    covered: bool
    invented: tuple[str, ...]

    def sentence(self) -> str:
        """What the labels are, for a person."""
        where = ", where the logs of all its views are complete" if self.covered else ""
        invented = ""
        if self.invented:
            invented = f" {', '.join(self.invented)}: zero or empty; put in what requests bring."
        return (
            f"{self.rows} labels for {self.service} ({', '.join(self.columns)}) from "
            f"{time_text(self.first)} to {time_text(self.last)}{where}.{invented}"
        )


def sample_labels(
    store: FeatureStore,
    service: str,
    out: Path,
    *,
    rows: int = 5_000,
    seed: int = 1,
    start: datetime | None = None,
    end: datetime | None = None,
) -> LabelSample:
    """Write ``rows`` labels for ``service`` to ``out`` (CSV or Parquet), or all where fewer are.

    The same seed gives the same labels as long as the history is the same. Without ``start`` and
    ``end`` they lie where the logs of all the service's views are complete, or anywhere in the
    history where that is nowhere.

    Raises:
        SkewlessError: no such service, no history source for its keys, no rows in the range, or
            ``out`` is no CSV or Parquet file.
    """
    if rows < 1:
        raise InputError("A sample has labels: say --sample 1 or more.")
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{out} must end in .csv or .parquet.")
    output_path(out)
    url = url_of(store.config)
    with connect(url, autocommit=True, name="skewless labels") as conn:
        needs = _Needs.of(store, conn, service)
        sources = _sources(needs)
        span = None
        if start is None and end is None:
            span = _covered(conn, needs.computations)
            start, end = span or (None, None)
        parts = [_sample(url, source, keys, rows, seed, start, end) for source, keys in sources]
        if not all(part.num_rows for part in parts):
            raise InputError(
                why_nothing(conn, [source for source, _ in sources], start, end)
                or f"No events of {sources[0][0].table} lie in that range: choose a longer one."
            )
    labels = _with_request_fields(_paired(parts), needs.requests)
    with whole_file(out) as partial:
        (pq.write_table if out.suffix.lower() == ".parquet" else pyarrow.csv.write_csv)(
            labels, partial
        )
    times = pc.min_max(labels[TIMESTAMP]).as_py()
    return LabelSample(
        out, service, labels.num_rows, tuple(labels.column_names), times["min"], times["max"],
        span is not None, tuple(f.name for f in needs.requests if f.default_at is None),
    )  # fmt: skip


@dataclass(frozen=True)
class _Needs:
    """What labels of a service must have: join keys and what requests bring."""

    service: str
    keys: tuple[str, ...]
    computations: tuple[Computation, ...]
    requests: tuple[RequestField, ...]

    @classmethod
    def of(cls, store: FeatureStore, conn: psycopg.Connection, service: str) -> "_Needs":
        try:
            features: FeatureService = store.get_feature_service(service)
        except FeatureServiceNotFoundException as error:
            names = ", ".join(sorted(each.name for each in store.list_feature_services()))
            raise InputError(
                f"There is no feature service {service}: there are {names}."
            ) from error
        views: set[str] = set()
        transforms: list[OnDemandFeatureView] = []
        for projection in features.feature_view_projections:
            view = store.registry.get_any_feature_view(projection.name, store.project)
            views.add(view.name)
            if isinstance(view, OnDemandFeatureView):
                views |= set(view.source_feature_view_projections)
                transforms.append(view)
        live = live_computations(conn, load_computations(Path(store.repo_path)))
        chosen = tuple(each for each in live.values() if each.view in views)
        keys = tuple(dict.fromkeys(key for each in chosen for key in each.join_keys))
        return cls(service, keys, chosen, tuple(request_fields(transforms).values()))


def _sources(needs: _Needs) -> list[tuple[HistorySource, tuple[str, ...]]]:
    """History sources that have the keys, the one with most of them first, and what each gives.

    Keys that no one table has together are sampled apart, and paired at random.

    Raises:
        SkewlessError: no history source has one of the keys.
    """
    known = {source.table: source for each in needs.computations for source in each.reads}
    left, found = list(needs.keys), []
    while left:
        best = max(known.values(), key=lambda source: len({*source.keys} & {*left}), default=None)
        keys = tuple(key for key in left if best is not None and key in best.keys)
        if best is None or not keys:
            raise InputError(
                f"No history source that {needs.service} reads has {', '.join(left) or 'keys'}: "
                "labels for it are yours to write."
            )
        found.append((best, keys))
        left = [key for key in left if key not in keys]
    if not found:
        raise InputError(
            f"No view of {needs.service} is computed from history: labels for it are yours to "
            "write."
        )
    return found


def _covered(
    conn: psycopg.Connection, computations: Sequence[Computation]
) -> tuple[datetime, datetime] | None:
    """The latest range in which the logs of all views are complete; None where there is none."""
    spans = [coverage(conn, each).spans for each in computations]
    if not all(spans):
        return None
    start = max(each[-1].start for each in spans)
    marks = [read_watermark(conn, each) for each in computations]
    # A backfill may end within an hour or a day whose tick is still to come.
    end = min(
        min(span[-1].end, mark.processed_through if mark else span[-1].end)
        for span, mark in zip(spans, marks, strict=True)
    )
    return (start, end) if start < end else None


def _sample(
    url: str,
    source: HistorySource,
    keys: tuple[str, ...],
    rows: int,
    seed: int,
    start: datetime | None,
    end: datetime | None,
) -> pa.Table:
    """Rows (keys…, event_timestamp), the first ``rows`` by a hash that the seed changes."""
    time = sql.Identifier(source.time)
    conditions = [sql.SQL("{} IS NOT NULL").format(sql.Identifier(key)) for key in keys]
    if start is not None:
        conditions.append(sql.SQL("{} > {}").format(time, sql.Literal(start)))
    if end is not None:
        conditions.append(sql.SQL("{} <= {}").format(time, sql.Literal(end)))
    query = sql.SQL(
        "SELECT {keys}, {time} AS {timestamp} FROM {table} WHERE {conditions} "
        "ORDER BY hashtextextended(concat_ws(chr(31), {keys}, extract(epoch FROM {time})), {seed})"
        ", {keys}, {time} LIMIT {rows}"
    ).format(
        keys=identifiers(keys),
        time=time,
        timestamp=sql.Identifier(TIMESTAMP),
        table=sql.Identifier(source.table),
        conditions=sql.SQL(" AND ").join(conditions),
        seed=sql.Literal(seed),
        rows=sql.Literal(rows),
    )
    with connect_arrow(url) as conn, conn.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        cursor.execute(query.as_string(None))
        table: pa.Table = cursor.fetch_arrow_table()
    return table


def _paired(parts: Sequence[pa.Table]) -> pa.Table:
    """One table with the keys of all parts; a shorter part begins again at its end."""
    first, *others = parts
    rows = max(part.num_rows for part in parts)
    labels = first.take(pa.array([row % first.num_rows for row in range(rows)]))
    for part in others:
        again = part.take(pa.array([row % part.num_rows for row in range(rows)]))
        for name in again.column_names:
            if name != TIMESTAMP:
                labels = labels.add_column(0, name, again[name])
    place = labels.column_names.index(TIMESTAMP)
    at = labels[TIMESTAMP].cast(pa.timestamp("us", "UTC"))
    return labels.set_column(place, TIMESTAMP, at)


def _with_request_fields(labels: pa.Table, requests: Iterable[RequestField]) -> pa.Table:
    """Add what a request of the label's time would bring: declared defaults, else zeros."""
    for field in requests:
        kind = arrow_type(field.dtype)
        if field.default_at is not None:
            column: Any = field.defaults_at(labels[TIMESTAMP])
        elif pa.types.is_string(kind):
            column = pa.repeat("", labels.num_rows)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            column = pa.repeat(pa.scalar(0).cast(kind), labels.num_rows)
        else:
            column = pa.nulls(labels.num_rows, kind)
        labels = labels.append_column(field.name, column)
    return labels

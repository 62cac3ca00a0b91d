"""Publishing: from a view version's log to Redis, what came since the last time."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.errors import FeatureViewNotFoundException, FeatureViewVersionNotFound
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.unpublished_ranges import UnpublishedRange, forget_unpublished, unpublished
from extensions.asof.watermarks import advance_published, read_watermark
from extensions.database import connect_arrow
from extensions.database.adbc_connections import record_batches
from extensions.database.connection import identifiers
from extensions.errors import ConfigurationError
from extensions.feast_internals import provider_of
from extensions.stores.offline.feast_source_connections import url_of
from extensions.stores.offline.join.latest_rows import sorted_rows
from extensions.stores.offline.join.newest_row_rule import RowOrder
from extensions.stores.online.store import SkewlessRedisOnlineStore
from extensions.stores.restore_detection import publishing
from extensions.stores.values.future_rows import not_future_condition

_NEVER = datetime.min.replace(tzinfo=UTC)
# Rows that Redis is sent at a time: enough to keep numpy busy, small in memory.
ROWS_PER_BATCH = 50_000


def publish(store: FeatureStore, conn: psycopg.Connection, computation: Computation) -> int:
    """Write the log's rows that are newer than the published watermark, then advance it.

    Returns how many rows Redis took. At least once: a crash in between leaves the watermark
    where it was, and rows that come again change nothing. ``conn`` must be in autocommit.

    Raises:
        SkewlessError: the view or the version has not been applied, or the log and Redis have
            not one history (`extensions.stores.rebuild.reconcile` mends it).
    """
    mark = read_watermark(conn, computation)
    behind = unpublished(conn, computation)
    wanted = [
        sql.SQL("event_timestamp BETWEEN {} AND {}").format(
            sql.Literal(each.start), sql.Literal(each.end)
        )
        for each in _joined(behind)
    ]
    if mark is not None and (mark.published_through or _NEVER) < mark.processed_through:
        # Rows of an earlier time that are logged later (a backfill) are history to Redis, too.
        newer = sql.SQL("event_timestamp <= {}").format(sql.Literal(mark.processed_through))
        if mark.published_through is not None:
            newer = sql.SQL("event_timestamp > {} AND {}").format(
                sql.Literal(mark.published_through), newer
            )
        wanted.append(newer)
    if not wanted:
        return 0
    view = registered(store, computation)
    condition = sql.SQL("({})").format(sql.SQL(" OR ").join(wanted))
    with publishing(conn, store, computation):
        query = latest(computation, condition, allowed=store.config)
        written = write_query(store, view, query)
    if mark is not None:
        advance_published(conn, computation, mark.processed_through)
    forget_unpublished(conn, behind)
    return written


def _joined(ranges: Sequence[UnpublishedRange]) -> list[UnpublishedRange]:
    """The same range in as few parts as can be: a backfill notes each of its days."""
    joined: list[UnpublishedRange] = []
    for each in sorted(ranges, key=lambda span: span.start):
        if joined and each.start <= joined[-1].end:
            joined[-1] = replace(joined[-1], end=max(joined[-1].end, each.end))
        else:
            joined.append(each)
    return joined


def registered(store: FeatureStore, computation: Computation) -> FeatureView:
    """The view of the computation's version, whichever version is active.

    Raises:
        ConfigurationError: it has not been applied.
    """
    try:
        view: FeatureView = store.registry.get_feature_view(computation.view, store.project)
        if view.current_version_number != computation.version:
            versioned: Any = store.registry.get_feature_view_by_version(
                computation.view, store.project, computation.version
            )
            view = versioned
            view.projection.version_tag = computation.version
    except (FeatureViewNotFoundException, FeatureViewVersionNotFound):
        raise ConfigurationError(
            f"{computation.name} is not in the registry: run `feast apply` first."
        ) from None
    return view


def latest(
    computation: Computation,
    condition: sql.Composable,
    limit: int | None = None,
    *,
    allowed: Any = None,
) -> sql.Composed:
    """Each entity's newest row of the log among those that the condition admits, by key.

    Rows from the future are passed over; ``allowed``: the configuration that says how far.
    """
    names = ("event_timestamp", "created_timestamp")
    keys, times = computation.join_keys, RowOrder(*names)
    columns = [*keys, *names, *(feature.name for feature in computation.features)]
    log = sql.Identifier(computation.log_table).as_string(None)
    condition = sql.SQL("{} AND {}").format(condition, not_future_condition(allowed, list(names)))
    rows = sorted_rows(log, keys, times, identifiers(columns, "l"), condition)
    return sql.SQL("{} LIMIT {}").format(rows, sql.Literal(limit))


def write_query(store: FeatureStore, view: FeatureView, query: sql.Composed) -> int:
    """Stream the query's rows into Redis; returns how many were newer than what was there.

    The query passes over rows from the future (`latest`), by the database's clock.
    """
    online = online_store(store)
    written = 0
    with connect_arrow(url_of(store.config)) as conn, conn.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        cursor.execute(query.as_string(None))
        waiting: list[pa.RecordBatch] = []
        for batch in record_batches(cursor):
            waiting.append(batch)
            if sum(rows.num_rows for rows in waiting) >= ROWS_PER_BATCH:
                rows = pa.Table.from_batches(waiting)
                written += online.write_arrow(store.config, view, rows, checked=True)
                waiting = []
        if waiting:
            rows = pa.Table.from_batches(waiting)
            written += online.write_arrow(store.config, view, rows, checked=True)
    return written


def online_store(store: FeatureStore) -> SkewlessRedisOnlineStore:
    """The online store that the repository names.

    Raises:
        ConfigurationError: it is another one than ours.
    """
    online = provider_of(store).online_store
    if not isinstance(online, SkewlessRedisOnlineStore):
        raise ConfigurationError(
            "The online_store of feature_store.yaml must be "
            "extensions.stores.online.store.SkewlessRedisOnlineStore."
        )
    return online

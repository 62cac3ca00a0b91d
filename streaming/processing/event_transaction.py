"""The transaction: a batch of events and the offsets they bring, or neither."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa

from extensions.database import connect
from extensions.database.event_ingest import INSERT_BATCH, take_ingest_lock
from extensions.failpoints import point
from extensions.history.postgres_binary_copy import copy_batch
from streaming.failpoints import Fault
from streaming.kafka.message_decoder import WatchEvent
from streaming.processing.offsets import Progress, move
from streaming.settings import Settings

_SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("watched_at", pa.timestamp("us", tz="UTC")),
        ("duration_ms", pa.int32()),
        ("progress", pa.float32()),
        ("arrival", pa.int64()),
    ]
)

# Months further back have no partition of their own; their rows wait in the default one.
OLDEST_PARTITION = timedelta(days=3 * 366)


def open_store(url: str, name: str) -> psycopg.Connection:
    """A connection in autocommit with the session's table for a batch of events."""
    conn = connect(url, autocommit=True, name=name)
    conn.execute(
        'CREATE TEMP TABLE batch (event_id text COLLATE "C", user_id bigint, item_id bigint, '
        "watched_at timestamptz, ingested_at timestamptz, duration_ms integer, progress real, "
        "arrival bigint) ON COMMIT DELETE ROWS"
    )
    return conn


def store(
    conn: psycopg.Connection,
    settings: Settings,
    events: Sequence[WatchEvent],
    moves: Sequence[Progress],
) -> int:
    """Store ``events`` (in order of arrival) and move the offsets; returns how many were new.

    Raises:
        FencedError: a partition is no longer this worker's; nothing was stored.
    """
    with conn.transaction():
        stored = 0
        if events:
            take_ingest_lock(conn)
            copy_batch(conn, "batch", _columns(events), _SCHEMA.names)
            stored = conn.execute(INSERT_BATCH).rowcount
            point(Fault.EVENTS_COPIED)
        move(conn, settings, moves)
        point(Fault.OFFSETS_WRITTEN)
    return stored


def _columns(events: Sequence[WatchEvent]) -> pa.RecordBatch:
    columns = [*zip(*events, strict=True), range(len(events))]
    return pa.record_batch(
        [pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)],
        schema=_SCHEMA,
    )


def months_of(events: Sequence[WatchEvent], now: datetime) -> set[datetime]:
    """The months, as their first moments, that the events want a partition for."""
    oldest = now - OLDEST_PARTITION
    return {
        datetime(year, month, 1, tzinfo=UTC)
        for year, month in {
            (event.watched_at.year, event.watched_at.month)
            for event in events
            if event.watched_at > oldest
        }
    }


def ensure_months(conn: psycopg.Connection, months: set[datetime]) -> None:
    """Make the partitions of these months, those that are there left alone."""
    for month in sorted(months):
        conn.execute("SELECT ensure_watch_event_partitions(%s, %s)", [month, month])

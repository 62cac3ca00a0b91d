"""The transaction: a batch of events and the offsets they bring, or neither."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa

from extensions.database import connect
from extensions.database.event_ingest import take_ingest_lock
from extensions.failpoints import point
from extensions.sources import HistoryTable
from extensions.sources.ingest import BatchTable
from extensions.sources.storage import ensure_partitions
from streaming.failpoints import Fault
from streaming.processing.offsets import Progress, move
from streaming.settings import Settings

# Times further back have no partition of their own; their rows wait in the default one.
OLDEST_PARTITION = timedelta(days=3 * 366)


def open_store(url: str, name: str, batches: BatchTable) -> psycopg.Connection:
    """A connection in autocommit with the session's table for a batch of events."""
    conn = connect(url, autocommit=True, name=name)
    batches.create(conn)
    return conn


def store(
    conn: psycopg.Connection,
    settings: Settings,
    batches: BatchTable,
    events: pa.RecordBatch,
    moves: Sequence[Progress],
) -> int:
    """Store ``events`` (in order of arrival) and move the offsets; returns how many were new.

    Raises:
        FencedError: a partition is no longer this worker's; nothing was stored.
        psycopg.Error: the table refuses a row (`extensions.sources.ingest.refuses_a_row`);
            nothing was stored.
    """
    with conn.transaction():
        stored = 0
        if events.num_rows:
            take_ingest_lock(conn, batches.table.table)
            stored = batches.insert(conn, events)
            point(Fault.EVENTS_COPIED)
        move(conn, settings, moves)
        point(Fault.OFFSETS_WRITTEN)
    return stored


class Partitions:
    """Makes the partitions that events want, each once."""

    def __init__(self, table: HistoryTable) -> None:
        self._table = table
        self._made: set[datetime] = set()

    def ensure(self, conn: psycopg.Connection, times: Sequence[datetime], now: datetime) -> None:
        """Make the missing partitions of these event times; those too far back want none."""
        table = self._table
        if table.partition is None:
            return
        oldest = now - OLDEST_PARTITION
        daily = table.partition == "day"
        wanted = {
            datetime(year, month, day, tzinfo=UTC)
            for year, month, day in {
                (time.year, time.month, time.day if daily else 1)
                for time in times
                if time is not None and time > oldest
            }
        }
        for begin in sorted(wanted - self._made):
            ensure_partitions(conn, table, begin, begin)
        self._made |= wanted

"""Getting generated histories into a database, by the store's own insert statement."""

import functools
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import psycopg
from feast.repo_contents import RepoContents

from extensions.asof.computation_loading import read_repository
from extensions.database.connection import connect
from extensions.database.event_ingest import take_ingest_lock
from extensions.sources import EventStream, HistoryTable, Sources, load_sources
from extensions.sources.ingest import BatchTable
from tests.oracle.records import Classification, GenrePlace, History, Watch

HISTORY_TABLES = ("watch_events", "watch_events_ids", "items", "genres")
BATCHES = 3


def clear(conn: psycopg.Connection) -> None:
    """Empty the history tables; partitions stay."""
    conn.execute(f"TRUNCATE {', '.join(HISTORY_TABLES)}")


def watch(
    conn: psycopg.Connection, name: str, user: int, at: datetime, arrival: datetime | None = None
) -> None:
    """One event of item 1; it arrived as it happened unless ``arrival`` says when."""
    conn.execute(
        "INSERT INTO watch_events "
        "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
        "VALUES (%s, %s, 1, %s, %s, 60000, 0.5)",
        [name, user, at, arrival or at],
    )


def load(url: str, history: History, *, batches: int = BATCHES) -> None:
    """Replace what the database holds by `history`.

    Deliveries go in in several batches in order of arrival, so that a repeated event meets its
    first arrival in the same batch or in an earlier one.
    """
    with connect(url) as conn:
        clear(conn)
        load_classifications(conn, history.classifications)
        load_places(conn, history.places)
        size = len(history.deliveries) // batches + 1
        for start in range(0, len(history.deliveries), size):
            deliver(conn, history.deliveries[start : start + size])
        _shuffle(conn)
        conn.execute("ANALYZE")


def deliver(conn: psycopg.Connection, deliveries: Sequence[Watch]) -> None:
    """Store one batch of deliveries, in their order, with the arrival times that they carry."""
    if not deliveries:
        return
    _make_partitions(conn, [w.watched_at for w in deliveries])
    take_ingest_lock(conn, "watch_events")
    batches = BatchTable(_table(conn))
    conn.execute("DROP TABLE IF EXISTS batch_watch_events")
    batches.create(conn)
    rows = [
        (w.event_id, w.user_id, w.item_id, w.watched_at, w.ingested_at, w.duration_ms, w.progress)
        for w in deliveries
    ]
    batches.insert(conn, batches.batch([c.name for c in batches.columns], rows))


def watch_events_stream(url: str) -> EventStream:
    """The declared stream of events."""
    with connect(url) as conn:
        return load_sources(_repository(), conn, "skewless").stream("watch_events_stream")


def media_sources(url: str) -> Sources:
    """The declared tables and streams of this repository."""
    with connect(url) as conn:
        return load_sources(_repository(), conn, "skewless")


def _table(conn: psycopg.Connection) -> HistoryTable:
    return load_sources(_repository(), conn, "skewless").table("watch_events")


@functools.cache
def _repository() -> RepoContents:
    return read_repository(Path(__file__).resolve().parents[2])


def _shuffle(conn: psycopg.Connection) -> None:
    """Put the rows in another physical order: how they were stored must not decide an answer."""
    conn.execute("CREATE TEMP TABLE shuffled ON COMMIT DROP AS SELECT * FROM watch_events")
    conn.execute("TRUNCATE watch_events")
    conn.execute("INSERT INTO watch_events SELECT * FROM shuffled ORDER BY md5(event_id)")


def load_classifications(conn: psycopg.Connection, rows: Iterable[Classification]) -> None:
    """Append to the items' history."""
    with conn.cursor().copy(
        "COPY items (item_id, genre, valid_from, ingested_at) FROM STDIN"
    ) as copy:
        for row in rows:
            copy.write_row((row.item_id, row.genre, row.valid_from, row.ingested_at))


def load_places(conn: psycopg.Connection, rows: Iterable[GenrePlace]) -> None:
    """Append to the genres' history."""
    with conn.cursor().copy("COPY genres (genre, embedding, ingested_at) FROM STDIN") as copy:
        for row in rows:
            copy.write_row((row.genre, list(row.embedding), row.ingested_at))


def _make_partitions(conn: psycopg.Connection, moments: list[datetime]) -> None:
    """Partitions for every month in use (not for those between: eras lie decades apart)."""
    months = {
        moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0) for moment in moments
    }
    for month in sorted(months):
        conn.execute(
            "SELECT ensure_time_partitions('watch_events', 'month', %s, %s)", [month, month]
        )

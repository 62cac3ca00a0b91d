"""Bulk loading: history into the database by COPY, each event id once, first arrival wins.

A chunk is one transaction. An interrupted load leaves whole chunks; the same load again adds
what is missing and nothing else, because ids that are there already are duplicates.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, LiteralString, Protocol, TypeVar

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from extensions.database import connect
from extensions.database.event_ingest import take_ingest_lock
from extensions.database.history_change_notes import note_insert
from extensions.database.scalars import clock
from extensions.errors import ConfigurationError
from extensions.history.arrow_schemas import EVENT_SCHEMA, ITEM_SCHEMA, MOMENT
from extensions.history.monthly_partitions import Months
from extensions.history.postgres_binary_copy import copy_batch

# Called with the rows done and, where it is known or can be estimated, the rows in all.
Progress = Callable[[int, int | None], None]

# One transaction, and one COPY within it.
CHUNK_ROWS = 1_000_000
COPY_ROWS = 100_000
_ARRIVAL = pa.field("arrival", pa.int64(), nullable=False)

_INSERT_ITEMS = """
INSERT INTO items (item_id, genre, valid_from, ingested_at)
SELECT DISTINCT ON (item_id, valid_from, ingested_at) item_id, genre, valid_from, ingested_at
FROM item_batch AS b
WHERE
    -- What is loaded again, and only then would arrive, is there already.
    b.ingested_at <> %(now)s OR NOT EXISTS (
        SELECT FROM items AS i
        WHERE i.item_id = b.item_id AND i.valid_from = b.valid_from AND i.genre = b.genre
    )
ORDER BY item_id, valid_from, ingested_at, arrival
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True)
class LoadResult:
    """What a load did: ``read == inserted + duplicates``. ``seconds`` is its wall time."""

    read: int
    inserted: int
    duplicates: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows read per second of wall time."""
        return self.read / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields and the rate, as JSON's own types."""
        return {**asdict(self), "rows_per_second": round(self.rows_per_second, 1)}


def load_events(
    url: str,
    batches: Iterable[pa.RecordBatch],
    *,
    total: int | None = None,
    progress: Progress | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> LoadResult:
    """Load watch events (`EVENT_SCHEMA`, in order of arrival), ``chunk_rows`` to a transaction.

    ``batches`` is consumed in another thread, up to `COPY_ROWS` ahead of the database.

    Raises:
        SkewlessError: the database does not answer, or has no tables yet.
    """
    target = _Target(EVENT_SCHEMA, _EventWriter, "watch_events, watch_event_ids")
    return _load(url, target, batches, total=total, progress=progress, chunk_rows=chunk_rows)


def load_items(
    url: str,
    batches: Iterable[pa.RecordBatch],
    *,
    total: int | None = None,
    progress: Progress | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> LoadResult:
    """Load rows of the items' history (`ITEM_SCHEMA`); of equal keys the first one stays.

    Raises:
        SkewlessError: as `load_events`.
    """
    target = _Target(ITEM_SCHEMA, _ItemWriter, "items")
    return _load(url, target, batches, total=total, progress=progress, chunk_rows=chunk_rows)


class _Arrivals:
    """When a transaction's rows arrived: when they claim to, or else now, by its clock.

    Rows that claim to have arrived before they can be seen are noted, so that whatever was
    computed without them is computed again.
    """

    def __init__(self, conn: psycopg.Connection, table: str) -> None:
        self._conn, self._table = conn, table
        self._claimed: datetime | None = None
        self.now = datetime.min.replace(tzinfo=UTC)

    def begin(self) -> None:
        """A transaction has begun, and holds the ingest lock."""
        # The note is written here, once, and not by the tables' triggers.
        self._conn.execute("SET LOCAL skewless.noted = 'on'")
        self.now, self._claimed = clock(self._conn), None

    def filled(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, each with its arrival."""
        place = rows.schema.get_field_index("ingested_at")
        arrival = rows.column(place)
        if not arrival.null_count:
            return rows
        return rows.set_column(
            place, rows.schema.field(place), pc.fill_null(arrival, pa.scalar(self.now, MOMENT))
        )

    def stored(self, rows: pa.RecordBatch) -> None:
        """Some of these rows are new in the table."""
        least = pc.min(rows.column("ingested_at")).as_py()
        if least is not None and least < self.now:
            self._claimed = min(filter(None, (self._claimed, least)))

    def complete(self) -> None:
        """The transaction is about to end."""
        if self._claimed is not None:
            note_insert(self._conn, self._table, self._claimed)


class _EventWriter:
    """Writes events straight into the tables, past the ids that are known."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn
        self._months = Months(conn)
        self._arrivals = _Arrivals(conn, "watch_events")
        conn.execute('CREATE TEMP TABLE asked (event_id text COLLATE "C")')

    def prepare(self, events: pa.RecordBatch) -> pa.RecordBatch:
        """The first arrival of each id, in order of arrival."""
        events = _with_arrival(events)
        by_id = pa.Table.from_batches([events]).group_by("event_id")
        first = by_id.aggregate([("arrival", "min")]).column("arrival_min").to_numpy()
        if len(first) == events.num_rows:
            return events
        return events.take(pa.array(np.sort(first)))

    def begin(self) -> None:
        """A transaction has begun."""
        self._months = Months(self._conn)
        self._arrivals.begin()

    def write(self, events: pa.RecordBatch) -> int:
        """Store prepared events; returns how many of their ids were new."""
        events = self._arrivals.filled(events)
        self._months.make_missing(events)
        while events.num_rows:
            try:
                with self._conn.transaction():
                    self._copy(events)
            except psycopg.errors.UniqueViolation:
                # None of these events was stored. What is known by now leaves, so this ends.
                unknown = self._without_known(events)
                if unknown.num_rows == events.num_rows:
                    raise
                events = unknown
            else:
                self._arrivals.stored(events)
                return int(events.num_rows)
        return 0

    def complete(self) -> None:
        """The transaction is about to end."""
        self._months.attach()
        self._arrivals.complete()

    def _copy(self, events: pa.RecordBatch) -> None:
        # Ordered ids are the cheapest for the index, and two writers of the same ids then wait
        # for each other and do not deadlock.
        ids = events.select(["event_id", "watched_at"]).sort_by("event_id")
        copy_batch(self._conn, "watch_event_ids", ids, ids.schema.names)
        self._months.copy(events)

    def _without_known(self, events: pa.RecordBatch) -> pa.RecordBatch:
        self._conn.execute("TRUNCATE asked")
        copy_batch(self._conn, "asked", events, ["event_id"])
        # Without statistics the planner may join the ids by nested loops.
        self._conn.execute("ANALYZE asked")
        known = self._conn.execute(
            "SELECT event_id FROM asked INNER JOIN watch_event_ids USING (event_id)"
        ).fetchall()
        ids = pa.array([row[0] for row in known], pa.string())
        return events.filter(pc.invert(pc.is_in(events.column("event_id"), value_set=ids)))


class _ItemWriter:
    """Writes the items' history."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn
        self._arrivals = _Arrivals(conn, "items")
        conn.execute(
            "CREATE TEMP TABLE item_batch (item_id bigint, genre text, valid_from timestamptz,"
            " ingested_at timestamptz, arrival bigint)"
        )

    def prepare(self, items: pa.RecordBatch) -> pa.RecordBatch:
        """The rows with their place in the order of arrival."""
        return _with_arrival(items)

    def begin(self) -> None:
        """A transaction has begun."""
        self._arrivals.begin()

    def write(self, items: pa.RecordBatch) -> int:
        """Store prepared rows; returns how many of their keys were new."""
        items = self._arrivals.filled(items)
        self._conn.execute("TRUNCATE item_batch")
        copy_batch(self._conn, "item_batch", items, items.schema.names)
        stored = self._conn.execute(_INSERT_ITEMS, {"now": self._arrivals.now}).rowcount
        if stored:
            self._arrivals.stored(items)
        return stored

    def complete(self) -> None:
        """The transaction is about to end."""
        self._arrivals.complete()


class _Writer(Protocol):
    """What `_load` asks of a table's writer; `prepare` runs in another thread."""

    def prepare(self, batch: pa.RecordBatch) -> pa.RecordBatch: ...
    def begin(self) -> None: ...
    def write(self, batch: pa.RecordBatch) -> int: ...
    def complete(self) -> None: ...


@dataclass(frozen=True)
class _Target:
    """A table to load: the batches' schema, its writer, and what to analyse in the end."""

    schema: pa.Schema
    writer: Callable[[psycopg.Connection], _Writer]
    tables: LiteralString


def _load(
    url: str,
    target: _Target,
    batches: Iterable[pa.RecordBatch],
    *,
    total: int | None,
    progress: Progress | None,
    chunk_rows: int,
) -> LoadResult:
    begun = time.perf_counter()
    read = inserted = 0
    with connect(url, autocommit=True, name="skewless load") as conn, _missing_tables_explained():
        # Losing the last chunks with the machine is the same as being interrupted before them.
        conn.execute("SET synchronous_commit = off")
        # Indexes of a month are small; helpers would cost more than they carry.
        conn.execute("SET max_parallel_maintenance_workers = 0")
        writer = target.writer(conn)
        copy_rows = min(COPY_ROWS, chunk_rows)
        prepared = _ahead(
            (batch.num_rows, writer.prepare(batch))
            for batch in rechunk(batches, target.schema, copy_rows)
        )
        for first in prepared:
            with conn.transaction():
                take_ingest_lock(conn)
                writer.begin()
                for rows, batch in chain([first], islice(prepared, chunk_rows // copy_rows - 1)):
                    inserted += writer.write(batch)
                    read += rows
                    if progress:
                        progress(read, total)
                writer.complete()
        conn.execute("ANALYZE " + target.tables)
    return LoadResult(read, inserted, read - inserted, time.perf_counter() - begun)


T = TypeVar("T")


def _ahead(values: Iterator[T]) -> Iterator[T]:
    """The same values; the next one is made in another thread while one is used."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = thread.submit(next, values, None)
            yield value


def rechunk(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int
) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of ``rows``; the last one may be shorter, none is empty."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count < rows:
            continue
        table = pa.Table.from_batches(held, schema)
        for begin in range(0, count - rows + 1, rows):
            yield _one_batch(table.slice(begin, rows))
        held = table.slice(count - count % rows).to_batches()
        count %= rows
    if count:
        yield _one_batch(pa.Table.from_batches(held, schema))


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    (batch,) = table.combine_chunks().to_batches()
    return batch


def _with_arrival(chunk: pa.RecordBatch) -> pa.RecordBatch:
    return chunk.append_column(_ARRIVAL, pa.array(np.arange(chunk.num_rows)))


class _missing_tables_explained:  # noqa: N801 - reads as what it does in a with statement
    """Turns the database's complaint about a missing table into what to do about it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedFunction):
            raise ConfigurationError(
                "The database has no Skewless tables yet: run `skewless migrate` first."
            ) from error

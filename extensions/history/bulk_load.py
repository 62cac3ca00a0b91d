"""Bulk loading: history into its table by COPY, each id once, first arrival wins.

A chunk is one transaction. An interrupted load leaves whole chunks; the same load again adds
what is missing and nothing else, because rows that are there already are duplicates.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.database import connect
from extensions.database.event_ingest import take_ingest_lock
from extensions.errors import ConfigurationError
from extensions.history.row_refusals import Refused
from extensions.history.table_writers import writer_of
from extensions.sources import HistoryTable

# Called with the rows done and, where it is known or can be estimated, the rows in all.
Progress = Callable[[int, int | None], None]

# One transaction, and one COPY within it.
CHUNK_ROWS = 1_000_000
COPY_ROWS = 100_000


@dataclass(frozen=True)
class LoadResult:
    """What a load did: ``read == inserted + duplicates + rejected``.

    ``reasons`` counts the rejected rows by the database's reason. ``seconds`` is wall time.
    """

    read: int
    inserted: int
    duplicates: int
    seconds: float
    rejected: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def rows_per_second(self) -> float:
        """Rows read per second of wall time."""
        return self.read / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """The fields and the rate, as JSON's own types."""
        return {**asdict(self), "rows_per_second": round(self.rows_per_second, 1)}


def load(
    url: str,
    table: HistoryTable,
    batches: Iterable[pa.RecordBatch],
    *,
    total: int | None = None,
    progress: Progress | None = None,
    refused: Refused | None = None,
    chunk_rows: int = CHUNK_ROWS,
    copy_rows: int = COPY_ROWS,
    keep: bool = True,
) -> LoadResult:
    """Load rows of a history table, in order of arrival, ``chunk_rows`` to a transaction.

    Of rows with equal ids the first one stays; of a table without an id, a row is stored unless
    one that equals it in all its values is there.

    Args:
        url: The database.
        table: The table; a database without it is refused.
        batches: Rows as Arrow columns named as the table's; columns with a default and the
            arrival may be left out or null, and an arrival that is null is the time of the load.
            All batches have the same columns. They are consumed in another thread, up to
            ``copy_rows`` ahead of the database.
        total: How many rows there are, for ``progress``.
        progress: Called after each COPY.
        refused: Called with rows that the database refuses (CHECK, NOT NULL, too long, a text
            that is no value of the column's type) and the reason; they are not stored, and
            counted as rejected.
        chunk_rows: Rows to a transaction.
        copy_rows: Rows to a COPY.
        keep: False rolls every chunk back: a trial.

    Raises:
        SkewlessError: the database does not answer or has no such table, or a column is none of
            the table's.
    """
    begun = time.perf_counter()
    read = inserted = 0
    reasons: Counter[str] = Counter()

    def refuse(rows: pa.RecordBatch, why: str) -> None:
        reasons[why] += rows.num_rows
        if refused:
            refused(rows, why)

    with connect(url, autocommit=True, name="skewless load") as conn, _missing_tables_explained():
        # Losing the last chunks with the machine is the same as being interrupted before them.
        conn.execute("SET synchronous_commit = off")
        # Indexes of a partition are small; helpers would cost more than they carry.
        conn.execute("SET max_parallel_maintenance_workers = 0")
        writer = writer_of(conn, table, refuse)
        copy_rows = min(copy_rows, chunk_rows)
        prepared = _ahead(writer.prepare(batch) for batch in rechunk(batches, copy_rows))
        for first in prepared:
            with conn.transaction(force_rollback=not keep):
                take_ingest_lock(conn, table.table)
                writer.begin()
                for batch in chain([first], islice(prepared, chunk_rows // copy_rows - 1)):
                    inserted += writer.write(batch)
                    read += batch.num_rows
                    if progress:
                        progress(read, total)
                writer.complete()
        for name in (table.table, table.id_table)[: 2 if table.id else 1]:
            conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(name)))
    rejected = reasons.total()
    return LoadResult(
        read,
        inserted,
        read - inserted - rejected,
        time.perf_counter() - begun,
        rejected,
        dict(reasons.most_common()),
    )


T = TypeVar("T")


def _ahead(values: Iterator[T]) -> Iterator[T]:
    """The same values; the next one is made in another thread while one is used."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = thread.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = thread.submit(next, values, None)
            yield value


def rechunk(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of ``rows``; the last one may be shorter, none is empty."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        if count < rows:
            continue
        table = pa.Table.from_batches(held)
        for begin in range(0, count - rows + 1, rows):
            yield _one_batch(table.slice(begin, rows))
        held = table.slice(count - count % rows).to_batches()
        count %= rows
    if count:
        yield _one_batch(pa.Table.from_batches(held))


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    (batch,) = table.combine_chunks().to_batches()
    return batch


class _missing_tables_explained:  # noqa: N801 - reads as what it does in a with statement
    """Turns the database's complaint about a missing table into what to do about it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedFunction):
            raise ConfigurationError(
                "The database has no Skewless tables yet: run `skewless migrate` first."
            ) from error

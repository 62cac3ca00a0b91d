"""DuckDB as the engine of a backfill: history once into a session, chunks within its memory.

The spine of a chunk is built by `extensions.asof` as for PostgreSQL and run by DuckDB; its answers
go into the log by `extensions.asof.engine.append_answers`. Of each chunk some questions are put to
PostgreSQL as well: portable is what was seen, and more is seen here than when it was judged.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_postgresql import dbapi

from extensions.asof.backfill_chunks import (
    DAY,
    Chunk,
    ChunkTooLargeError,
    append_or_refuse,
    spine_of,
    whole_spine,
)
from extensions.asof.computation import Computation
from extensions.asof.engine import append_answers
from extensions.asof.failpoints import Fault
from extensions.asof.spine import Spine
from extensions.database.connection import connect_arrow
from extensions.database.scalars import scalar
from extensions.engines.duckdb import ENGINE_VERSION, Limits, answers, quoted, session, spine_rows
from extensions.engines.history_tables import HistoryTables, Instants
from extensions.engines.portability import first_difference
from extensions.engines.postgresql import compute_as_logged
from extensions.engines.spill import DEFAULT_MEMORY, out_of_memory, spilling_session
from extensions.engines.verdict import ENGINE, Example
from extensions.errors import ConflictError, DefinitionError, UnavailableError
from extensions.failpoints import point

# The longest slice of a view with a horizon, and the shortest to which an entity of many rows cuts.
LONGEST, SHORTEST = 7 * DAY, timedelta(minutes=1)
# What a pair of a question and a row that counts for it takes at most, measured; and the share of
# the session's memory that is for them, beside the history.
BYTES_OF_PAIR, SHARE = 100, 0.5
# Of each chunk so many answers are compared with PostgreSQL's, and so many that are odd: null or
# not finite.
COMPARED, COMPARED_ODD = 16, 16


class DifferentAnswerError(ConflictError):
    """A text that was judged portable is not: PostgreSQL answers a question otherwise."""

    def __init__(self, computation: Computation, example: Example) -> None:
        super().__init__(
            f"{computation.name} is not portable after all: {example.sentence()}. What DuckDB "
            f"computed of it is replaced by `skewless backfill {computation.view} --again "
            "--engine postgresql`."
        )
        self.example = example


@contextmanager
def duckdb_chunks(
    url: str, computation: Computation, limits: Limits | None = None
) -> Iterator["DuckDBChunks"]:
    """DuckDB as the engine of one backfill.

    Args:
        url: Of the database that history is read from.
        computation: The view.
        limits: Memory `DEFAULT_MEMORY` and a temporary folder to spill to, unless given.
    """
    with spilling_session(limits) as made, connect_arrow(url) as arrow:
        yield DuckDBChunks(arrow, made, computation, memory_of(made))


def pairs_of_memory(memory: str | int | None) -> int:
    """The most pairs of a question and a row that a chunk may have.

    Args:
        memory: Bytes, or as DuckDB reads them; None: `DEFAULT_MEMORY`.
    """
    if not isinstance(memory, int):
        with session(Limits(memory=memory or DEFAULT_MEMORY)) as made:
            memory = memory_of(made)
    return max(1, int(memory * SHARE / BYTES_OF_PAIR))


def memory_of(conn: duckdb.DuckDBPyConnection) -> int:
    """The memory limit of a session, in bytes."""
    [[limit]] = conn.execute(
        "SELECT parse_formatted_bytes(current_setting('memory_limit'))"
    ).fetchall()
    return int(limit)


@dataclass
class DuckDBChunks:
    """A `BackfillEngine` over an open session; ``pairs``: the most of a chunk."""

    arrow: dbapi.Connection
    session: duckdb.DuckDBPyConnection
    computation: Computation
    memory: int
    name: str = field(default=f"{ENGINE} {ENGINE_VERSION}", init=False)

    def __post_init__(self) -> None:
        self.pairs = pairs_of_memory(self.memory)
        self._longest = LONGEST if self.computation.horizon is not None else timedelta.max
        self._asked: tuple[Chunk, pa.Table] | None = None
        self.history: HistoryTables | None = None

    def begin(self, after: datetime, end: datetime) -> None:
        """Read what the range needs of history, in one statement for each table."""
        with self.arrow.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET LOCAL timezone = 'UTC'")
            cursor.execute("SELECT clock_timestamp() AS at")
            self._read_at: datetime = cursor.fetch_arrow_table()["at"][0].as_py()
        self._first = after
        instants = Instants.of_chunk(self.computation, after, end)
        self.history = HistoryTables.read(self.arrow, self.session, self.computation, instants)
        self.arrow.rollback()

    def cut(self, after: datetime, end: datetime) -> tuple[datetime, int]:
        """As much time as fits into the memory, or, of a shorter time, as many buckets as needed.

        Several days at once cost less than one by one, so a view with a horizon gets as many as
        fit. One without a horizon costs its whole history each time, so it is cut by key. An entity
        that is too much by itself cuts the time.
        """
        length = min(end - after, self._longest)
        while True:
            chunk = Chunk(after, after + length)
            pairs, most = self._pairs_of(chunk)
            least = SHORTEST if most > self.pairs else DAY
            large = most if self.computation.horizon is None else pairs
            if max(large, most) <= self.pairs or length <= least:
                return chunk.through, max(1, -(-pairs // self.pairs))
            shorter = max(length * 0.9 * self.pairs / max(large, most), least)
            length = min(shorter, length * 0.9)

    def shrink(self) -> None:
        """Take half as much at once."""
        self.pairs = max(1, self.pairs // 2)

    def append(self, conn: psycopg.Connection, chunk: Chunk) -> int:
        """Compute a chunk and append it; see `BackfillEngine`.

        A chunk whose data the text fails on, in DuckDB or at a question that PostgreSQL is asked,
        is PostgreSQL's, day by day, which leaves out the entities that are the cause.
        """
        try:
            with conn.transaction():
                return self._append(conn, chunk)
        except DefinitionError:
            return sum(
                append_or_refuse(conn, self.computation, spine_of(self.computation, part))
                for part in self._days_of(chunk)
            )

    def _days_of(self, chunk: Chunk) -> Iterator[Chunk]:
        """The chunk in PostgreSQL's days, which begin where the backfill did.

        An entity is left out of all of a chunk, so that its length decides what is missing.
        """
        at = chunk.after
        if chunk.is_state:
            yield chunk
        while at < chunk.through:
            through = min(self._first + ((at - self._first) // DAY + 1) * DAY, chunk.through)
            yield replace(chunk, after=at, through=through)
            at = through

    def _append(self, conn: psycopg.Connection, chunk: Chunk) -> int:
        with self._too_large():
            asked = self._spine(chunk).num_rows
            sample = _Sample(self.computation, max(1, asked // COMPARED))
            rows = append_answers(
                conn, self.computation, asked, sample.of(self.answers(chunk)), as_it_happened=True
            )
        if sample.rows:
            self._compare(conn, sample.table())
        return rows

    def answers(self, chunk: Chunk) -> Iterable[pa.RecordBatch]:
        """The answers of a chunk; to be read before the next one is asked for."""
        spine = self._spine(chunk)
        point(Fault.CHUNK_ASKED)
        self._show(chunk, changes=False)
        self._asked = None
        return answers(self.session, self.computation, spine) if spine.num_rows else ()

    def _show(self, chunk: Chunk, *, changes: bool) -> None:
        assert self.history is not None
        instants = Instants.of_chunk(self.computation, chunk.after, chunk.through)
        if not changes:
            instants = Instants(chunk.after, chunk.through)
        self.history.show(instants, chunk)

    def _spine(self, chunk: Chunk) -> pa.Table:
        if self._asked is None or self._asked[0] != chunk:
            self._show(chunk, changes=True)
            spine = whole_spine(self.computation, chunk)
            self._asked = (chunk, _typed(spine_rows(self.session, spine)))
        return self._asked[1]

    def _pairs_of(self, chunk: Chunk) -> tuple[int, int]:
        """Pairs of a question and a row of its entity: of the chunk, and of one entity at most."""
        assert self.history is not None
        spine = self._spine(chunk)
        self.session.register("skewless_asked", spine)
        keys = ", ".join(map(quoted, self.computation.join_keys))
        [[pairs, most]] = self.session.execute(
            f"SELECT coalesce(sum(n * rows), 0), coalesce(max(n * rows), 0) FROM (SELECT {keys}, "
            f"count(*) AS n FROM skewless_asked GROUP BY {keys}) AS a INNER JOIN "
            f"({self.history.counts_of_keys()}) AS h USING ({keys})"
        ).fetchall()
        self.session.unregister("skewless_asked")
        return int(pairs), int(most)

    def _compare(self, conn: psycopg.Connection, sample: pa.Table) -> None:
        """Ask PostgreSQL the sampled questions, too.

        Raises:
            DifferentAnswerError: an answer differs, and history has not changed since it was read.
        """
        asked = [*self.computation.join_keys, "as_of"]
        rows = list(zip(*(sample[name].to_pylist() for name in asked), strict=True))
        spine = Spine.of(rows, self.computation)
        try:
            example = first_difference(
                self.computation, compute_as_logged(self.arrow, self.computation, spine), sample
            )
        finally:
            self.arrow.rollback()
        if example is not None and not scalar(
            conn,
            "SELECT EXISTS (SELECT FROM history_changes WHERE source_table = ANY(%s) "
            "AND changed_at > %s)",
            [list(self.computation.tables), self._read_at],
        ):
            raise DifferentAnswerError(self.computation, example)

    @contextmanager
    def _too_large(self) -> Iterator[None]:
        try:
            yield
        except UnavailableError as error:
            if out_of_memory(error):
                raise ChunkTooLargeError(error.message) from error
            raise


def _typed(spine: pa.Table) -> pa.Table:
    """The spine as DuckDB made it; times with UTC's name, as the text's own tables have them."""
    place = spine.schema.get_field_index("as_of")
    return spine.set_column(place, "as_of", spine["as_of"].cast(pa.timestamp("us", "UTC")))


class _Sample:
    """Some answers of a chunk: each so-manieth, and the first that are null or not finite.

    What is an error in PostgreSQL (a division by zero, an overflow) is one of these in DuckDB.
    """

    def __init__(self, computation: Computation, step: int) -> None:
        self._features = [(f.name, f.pg_type in _FLOATS) for f in computation.features]
        self._step, self._seen, self._left = step, 0, COMPARED_ODD
        self.rows: list[pa.RecordBatch] = []

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches as they are, while some of their rows are kept."""
        for batch in batches:
            if batch.num_rows:
                self._take(batch)
                yield batch

    def table(self) -> pa.Table:
        """What was kept, each question once."""
        return pa.Table.from_batches(self.rows)

    def _take(self, batch: pa.RecordBatch) -> None:
        wanted = set(range(-self._seen % self._step, batch.num_rows, self._step))
        self._seen += batch.num_rows
        for name, is_float in self._features:
            finite = pc.is_finite(batch[name]) if is_float else batch[name].is_valid()
            odd = pc.indices_nonzero(pc.invert(pc.fill_null(finite, False)))
            few = odd[: self._left].to_pylist()
            self._left -= len(few)
            wanted |= set(few)
        if wanted:
            self.rows.append(batch.take(pa.array(sorted(wanted), pa.int64())))


_FLOATS = ("real", "double precision")

"""History read from PostgreSQL once, into a DuckDB session, and shown to a text part by part.

What is read is what a range of instants can need: of sources that bear the join keys the rows
within the horizon, of others all that was known by the end. A part is a view by the table's name,
so that a text sees its own tables; parts are cut by time and by the hash of the join keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof.backfill_chunks import Chunk, hash_of
from extensions.asof.computation import Computation, HistorySource
from extensions.asof.spine import SpineFragments
from extensions.database.adbc_connections import record_batches
from extensions.engines.duckdb import duckdb_failures, quoted
from extensions.engines.postgresql import DIGITS, fetched, numeric_modifier, readable

# The column that holds the hash of a row's join keys; no view shows it.
_HASH = "skewless_hash"


@dataclass(frozen=True)
class Instants:
    """The instants of a spine: from the first to the last, both inclusive.

    ``changed_after``: rows that arrived later may make a row of the spine, whenever they happened;
    None: the spine is given.
    """

    first: datetime
    last: datetime
    changed_after: datetime | None = None

    @classmethod
    def of_chunk(cls, computation: Computation, after: datetime, through: datetime) -> "Instants":
        """Those of a spine of changes; a tick may show a change of the period before."""
        period = computation.freshness.period or timedelta(0)
        return cls(after - period, through, after - period)


@dataclass(frozen=True)
class HistoryTables:
    """The tables of a computation in a session, as `read` left them there."""

    session: duckdb.DuckDBPyConnection
    computation: Computation
    # By table, what holds it in the session.
    held: dict[str, str]
    rows: int

    @classmethod
    def read(
        cls,
        conn: dbapi.Connection,
        session: duckdb.DuckDBPyConnection,
        computation: Computation,
        instants: Instants,
    ) -> "HistoryTables":
        """Read what a spine of these instants can need; nothing is held in Python but a batch.

        Raises:
            DefinitionError: a numeric has more than 38 digits, or is no number.
            UnavailableError: the session's memory and its spill folder do not suffice.
        """
        held, count = {}, 0
        for place, source in enumerate({s.table: s for s in computation.reads}.values()):
            held[source.table] = f"skewless_history_{place}"
            for batch in _batches(conn, computation, source, instants):
                count += batch.num_rows
                _store(session, held[source.table], batch)
        return cls(session, computation, held, count)

    def show(self, instants: Instants, chunk: Chunk | None = None) -> None:
        """Show what these instants can need; of a chunk its bucket's rows."""
        bearing = SpineFragments(self.computation).bearing
        for source in {s.table: s for s in self.computation.reads}.values():
            conditions = (
                sql.SQL(" OR ")
                .join(
                    sql.SQL("({})").format(part)
                    for part in _needed(self.computation, source, instants)
                )
                .as_string(None)
            )
            if source in bearing and chunk is not None and chunk.buckets > 1:
                conditions = f"({conditions}) AND {_HASH} % {chunk.buckets} = {chunk.bucket}"
            self.session.execute(
                f"CREATE OR REPLACE TEMP VIEW {quoted(source.table)} AS "
                f"SELECT * EXCLUDE ({_HASH}) FROM {self.held[source.table]} WHERE {conditions}"
            )

    def counts_of_keys(self) -> str:
        """SQL of (join keys…, rows): how many rows each entity has in what is shown."""
        keys = ", ".join(map(quoted, self.computation.join_keys))
        bearing = SpineFragments(self.computation).bearing
        parts = " UNION ALL ".join(
            f"SELECT {keys} FROM {quoted(table)}"
            for table in dict.fromkeys(source.table for source in bearing)
        )
        return f"SELECT {keys}, count(*) AS rows FROM ({parts}) AS b GROUP BY {keys}"


def _needed(
    computation: Computation, source: HistorySource, instants: Instants
) -> Iterator[sql.Composable]:
    """Conditions of which one holds for each row that is needed, and two for none."""
    names = {
        "time": sql.Identifier(source.time),
        "arrival": sql.Identifier(source.arrival),
        "last": sql.Literal(instants.last),
    }
    known = sql.SQL("{time} <= {last} AND {arrival} <= {last}").format(**names)
    if computation.horizon is None or source not in SpineFragments(computation).bearing:
        yield known
        return
    names |= {"known": known, "first": sql.Literal(instants.first - computation.horizon)}
    yield sql.SQL("{known} AND {time} > {first}").format(**names)
    if instants.changed_after is not None:
        yield sql.SQL("{known} AND {time} <= {first} AND {arrival} > {changed}").format(
            **names, changed=sql.Literal(instants.changed_after)
        )


def history_query(
    conn: dbapi.Connection, computation: Computation, source: HistorySource, instants: Instants
) -> sql.Composed:
    """SQL of a table's rows that are needed, with the hash of their join keys."""
    table = sql.Identifier(source.table)
    bearing = source in SpineFragments(computation).bearing
    columns = _columns(conn, table)
    columns.append(
        sql.SQL("{} AS {}").format(
            hash_of(computation) if bearing else sql.SQL("0::bigint"), sql.Identifier(_HASH)
        )
    )
    # Two range scans, rather than one of which no index serves both halves.
    return sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} FROM {} WHERE {}").format(sql.SQL(", ").join(columns), table, part)
        for part in _needed(computation, source, instants)
    )


def _batches(
    conn: dbapi.Connection, computation: Computation, source: HistorySource, instants: Instants
) -> Iterator[pa.Table]:
    query = history_query(conn, computation, source, instants)
    with conn.cursor() as cursor:
        cursor.execute(query.as_string(None))
        reader = record_batches(cursor)
        yield readable(reader.schema.empty_table(), source.table)
        for batch in reader:
            if batch.num_rows:
                yield readable(pa.Table.from_batches([batch]), source.table)


def _columns(conn: dbapi.Connection, table: sql.Composable) -> list[sql.Composable]:
    """The table's columns; a numeric without a scale gets that of its longest fraction."""
    schema = fetched(conn, sql.SQL("SELECT * FROM {} LIMIT 0").format(table)).schema
    columns: list[sql.Composable] = []
    for field in schema:
        name = sql.Identifier(field.name)
        if numeric_modifier(field) == -1:
            [scale] = fetched(
                conn, sql.SQL("SELECT max(scale({})) AS s FROM {}").format(name, table)
            )["s"].to_pylist()
            kind = sql.SQL(f"numeric({DIGITS}, {min(scale or 0, DIGITS)})")
            columns.append(sql.SQL("{0}::{1} AS {0}").format(name, kind))
        else:
            columns.append(name)
    return columns


def _store(session: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    session.register("skewless_batch", rows)
    with duckdb_failures("Reading history"):
        # The first batch is empty and brings the columns.
        session.execute(
            f"INSERT INTO {name} SELECT * FROM skewless_batch"
            if rows.num_rows
            else f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM skewless_batch"
        ).fetchall()
    session.unregister("skewless_batch")

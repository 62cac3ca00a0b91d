"""Computing values as of now: into the log, and back for Redis in the same statement."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from psycopg.types.numeric import Int8BinaryLoader

from extensions.asof import Computation, Spine, changes
from extensions.asof.engine import answers
from extensions.asof.safe_time import settled_now
from extensions.database.connection import identifiers
from extensions.errors import DefinitionError, UnavailableError
from extensions.user_code import user_sql

TICK = timedelta(microseconds=1)
_PAUSE = 0.002
_TIMES = ("event_timestamp", "created_timestamp")
# PostgreSQL sends moments as microseconds since this one; as numbers they cost a tenth.
_POSTGRES_EPOCH_US = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000

_ARROW = {
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "text": pa.string(),
    "boolean": pa.bool_(),
    "bytea": pa.binary(),
    "timestamptz": pa.timestamp("us", tz="UTC"),
}


class SettlingError(UnavailableError):
    """Somebody else's transaction has been storing events for too long to wait for."""


def moment_after(conn: psycopg.Connection, committed: datetime, patience: float) -> datetime:
    """A moment later than ``committed`` that no open ingest transaction can still precede.

    A value as of such a moment is what anybody will ever compute for it. Alone, a worker gets
    the clock itself; beside others it waits until their open transactions, milliseconds long,
    have ended; at most ``patience`` seconds.

    Raises:
        SettlingError: patience is at its end.
    """
    deadline = monotonic() + patience
    while True:
        moment = settled_now(conn)
        if moment > committed:
            return moment
        if monotonic() > deadline:
            raise SettlingError("Other transactions that store events stay open.")
        sleep(_PAUSE)


def log_values(conn: psycopg.Connection, computation: Computation, spine: Spine) -> pa.Table:
    """Answer the spine, append the answers to the view's log, and return the rows appended.

    Columns: join keys, ``event_timestamp``, ``created_timestamp``, features.

    Raises:
        DefinitionError: the computation did not answer each question exactly once; nothing was
            appended.
    """
    names = _columns(computation)
    features = [feature.name for feature in computation.features]
    statement = sql.SQL(
        "{answers}, checked AS MATERIALIZED ("
        "SELECT (SELECT count(*) FROM spine) AS asked, (SELECT count(*) FROM answered) AS n), "
        "appended AS (INSERT INTO {log} ({columns}) "
        "SELECT {keys}, as_of, clock_timestamp(), {features} FROM answered, checked "
        "WHERE asked = n ON CONFLICT DO NOTHING RETURNING {columns}) "
        "SELECT asked, n, {appended} FROM checked LEFT JOIN appended ON TRUE"
    ).format(
        answers=answers(computation, spine),
        log=sql.Identifier(computation.log_table),
        columns=identifiers(names),
        keys=identifiers(computation.join_keys),
        features=identifiers(features),
        appended=identifiers(names, "appended"),
    )
    with user_sql(computation.view, computation.version), conn.cursor(binary=True) as cursor:
        _numbers_for_times(cursor)
        rows = cursor.execute(statement).fetchall()
    asked, answered = rows[0][:2]
    if asked != answered:
        raise DefinitionError(
            f"Computation {computation.name} returned {answered} rows for {asked} questions: "
            "it must return exactly one row for each row of the spine."
        )
    width = 2 + len(computation.join_keys)
    return _table(computation, [row[2:] for row in rows if row[width] is not None])


def logged_values(
    conn: psycopg.Connection, computation: Computation, at: datetime, size: int = 20_000
) -> Iterator[pa.Table]:
    """The rows of the log as of exactly ``at``, in tables of at most ``size`` rows."""
    query = sql.SQL("SELECT {columns} FROM {log} WHERE event_timestamp = {at}").format(
        columns=identifiers(_columns(computation)),
        log=sql.Identifier(computation.log_table),
        at=sql.Literal(at),
    )
    with conn.transaction(), conn.cursor("logged_values", binary=True) as cursor:
        _numbers_for_times(cursor)
        cursor.execute(query)
        while rows := cursor.fetchmany(size):
            yield _table(computation, rows)


def entities(computation: Computation, keys: Collection[tuple[int, ...]], at: datetime) -> Spine:
    """The entities themselves, as of ``at``; in key order, so that neighbours share pages."""
    columns = zip(zip(*sorted(keys), strict=True), computation.key_types, strict=True)
    return Spine(
        sql.SQL(
            "SELECT u.*, {at}::timestamptz AS as_of FROM unnest({columns}) AS u ({keys})"
        ).format(
            at=sql.Literal(at),
            columns=sql.SQL(", ").join(_array(column, pg_type) for column, pg_type in columns),
            keys=identifiers(computation.join_keys),
        )
    )


def arrivals(computation: Computation, after: datetime, through: datetime, at: datetime) -> Spine:
    """The entities with a row of the primary source that arrived in ``(after, through]``."""
    primary = computation.reads[0]
    return Spine(
        sql.SQL(
            "SELECT DISTINCT {keys}, {at}::timestamptz AS as_of FROM {table} "
            "WHERE {arrival} > {after} AND {arrival} <= {through}"
        ).format(
            keys=identifiers(computation.join_keys),
            at=sql.Literal(at),
            table=sql.Identifier(primary.table),
            arrival=sql.Identifier(primary.arrival),
            after=sql.Literal(after),
            through=sql.Literal(through),
        )
    )


def unanswered(computation: Computation, after: datetime, through: datetime) -> Spine:
    """The entities that changed in ``(after, through]`` and have no row in the log since.

    What the steps have seen to is in the log already. What remains changed by time alone (rows
    that left a window, or whose own time came), or by another hand than the stream's.
    """
    return Spine(
        sql.SQL(
            "SELECT DISTINCT {keys}, {through}::timestamptz AS as_of FROM ({changes}) AS c "
            "WHERE NOT EXISTS (SELECT FROM {log} AS l WHERE ({logged}) = ({keys}) "
            "AND l.event_timestamp >= c.as_of)"
        ).format(
            keys=identifiers(computation.join_keys, "c"),
            through=sql.Literal(through),
            changes=changes(computation, after, through).query,
            log=sql.Identifier(computation.log_table),
            logged=identifiers(computation.join_keys, "l"),
        )
    )


def _columns(computation: Computation) -> list[str]:
    return [*computation.join_keys, *_TIMES, *(f.name for f in computation.features)]


def _array(column: tuple[int, ...], pg_type: str) -> sql.Composable:
    # psycopg quotes the elements of a list one by one; whole numbers need none of that.
    elements = sql.Literal("{" + ",".join(map(str, column)) + "}")
    return sql.SQL("{}::{}[]").format(elements, sql.SQL(pg_type))


def _numbers_for_times(cursor: psycopg.Cursor[tuple[object, ...]]) -> None:
    cursor.adapters.register_loader("timestamptz", Int8BinaryLoader)


def _table(computation: Computation, rows: list[tuple[object, ...]]) -> pa.Table:
    types = [
        *computation.key_types,
        *("timestamptz" for _ in _TIMES),
        *(feature.pg_type for feature in computation.features),
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    return pa.table(
        {
            name: _column(column, pg_type)
            for name, column, pg_type in zip(_columns(computation), columns, types, strict=True)
        }
    )


def _column(column: tuple[object, ...], pg_type: str) -> pa.Array:
    """A column as the cursor returned it, times as PostgreSQL's numbers."""
    if pg_type == "timestamptz":
        return pc.add(pa.array(column, pa.int64()), _POSTGRES_EPOCH_US).cast(_ARROW[pg_type])
    if pg_type == "timestamptz[]":
        lists = pa.array(column, pa.list_(pa.int64()))
        times = pc.add(lists.values, _POSTGRES_EPOCH_US).cast(_ARROW["timestamptz"])
        return pa.ListArray.from_arrays(lists.offsets, times, mask=lists.is_null())
    return pa.array(column, _arrow(pg_type))


def _arrow(pg_type: str) -> pa.DataType:
    if pg_type.endswith("[]"):
        return pa.list_(_arrow(pg_type.removesuffix("[]")))
    return _ARROW[pg_type]

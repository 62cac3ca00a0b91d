"""Computing values as of now: into the log, and back for Redis in the same statement."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from psycopg.types.numeric import Int8BinaryLoader

from extensions.asof import Computation, Spine
from extensions.asof.engine import answers
from extensions.asof.safe_time import settled_now
from extensions.database.connection import identifiers
from extensions.errors import DefinitionError, UnavailableError
from extensions.feature_types import UTC_MICROSECONDS, arrow_of_postgres
from extensions.user_code_errors import user_sql

TICK = timedelta(microseconds=1)
_PAUSE = 0.002
_TIMES = ("event_timestamp", "created_timestamp")
# PostgreSQL sends moments as microseconds since this one; as numbers they cost a tenth.
_POSTGRES_EPOCH_US = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


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


def _columns(computation: Computation) -> list[str]:
    return [*computation.join_keys, *_TIMES, *(f.name for f in computation.features)]


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
        return pc.add(pa.array(column, pa.int64()), _POSTGRES_EPOCH_US).cast(UTC_MICROSECONDS)
    if pg_type == "timestamptz[]":
        lists = pa.array(column, pa.list_(pa.int64()))
        times = pc.add(lists.values, _POSTGRES_EPOCH_US).cast(UTC_MICROSECONDS)
        return pa.ListArray.from_arrays(lists.offsets, times, mask=lists.is_null())
    return pa.array(column, arrow_of_postgres(pg_type))

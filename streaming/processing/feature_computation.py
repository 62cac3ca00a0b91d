"""Computing values as of now: into the log, and back for Redis in the same statement."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic, sleep

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from psycopg.types.numeric import Int8BinaryLoader

from extensions.asof import Computation, Spine
from extensions.asof.engine import answers
from extensions.asof.refused_entities import retry_refused, without_refused
from extensions.asof.safe_time import settled_now
from extensions.database.connection import identifiers
from extensions.errors import DefinitionError, UnavailableError
from extensions.feature_types import UTC_MICROSECONDS, arrow_of_postgres
from extensions.user_code_errors import user_sql
from streaming.processing.offsets import NO_CLAIM, Claim, FencedError

TICK = timedelta(microseconds=1)
_PAUSE = 0.002
_TIMES = ("event_timestamp", "created_timestamp")
# PostgreSQL sends moments as microseconds since this one; as numbers they cost a tenth.
_POSTGRES_EPOCH_US = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


class SettlingError(UnavailableError):
    """Somebody else's transaction has been storing events for too long to wait for."""


def moment_after(
    conn: psycopg.Connection, tables: Collection[str], committed: datetime, patience: float
) -> datetime:
    """A moment later than ``committed`` that no open transaction on ``tables`` can still precede.

    A value as of such a moment is what anybody will ever compute for it. Alone, a worker gets
    the clock itself; beside others it waits until their open transactions, milliseconds long,
    have ended; at most ``patience`` seconds.

    Raises:
        SettlingError: patience is at its end.
    """
    deadline = monotonic() + patience
    while True:
        moment = settled_now(conn, tables)
        if moment > committed:
            return moment
        if monotonic() > deadline:
            raise SettlingError(
                f"Other transactions that store rows of {', '.join(sorted(tables))} stay open."
            )
        sleep(_PAUSE)


def log_values(
    conn: psycopg.Connection, computation: Computation, spine: Spine, claim: Claim | None = None
) -> pa.Table:
    """Answer the spine, append the answers to the view's log, and return the rows appended.

    Columns: join keys, ``event_timestamp``, ``created_timestamp``, features. Entities that fail
    are refused alone (`extensions.asof.refused_entities`). ``claim``: the partitions that must
    still be this worker's to compute when the rows are committed.

    Raises:
        DefinitionError: the computation did not answer each question exactly once, or failed for
            more than some entities; nothing was appended.
        FencedError: another worker has computed what ``claim`` names; nothing was appended.
    """
    take = partial(_log_whole, conn, computation, claim=claim or NO_CLAIM)
    parts = without_refused(conn, computation, spine, take)
    return pa.concat_tables(parts) if parts else _table(computation, [])


def retried_values(conn: psycopg.Connection, computation: Computation, at: datetime) -> pa.Table:
    """As `log_values`, of entities that were refused some time ago, as of ``at``."""
    take = partial(_log_whole, conn, computation)
    return pa.concat_tables([_table(computation, []), *retry_refused(conn, computation, at, take)])


def _log_whole(
    conn: psycopg.Connection, computation: Computation, spine: Spine, claim: Claim = NO_CLAIM
) -> pa.Table:
    names = _columns(computation)
    features = [feature.name for feature in computation.features]
    statement = sql.SQL(
        "{answers}, held AS MATERIALIZED ({claim}), checked AS MATERIALIZED ("
        "SELECT (SELECT count(*) FROM spine) AS asked, (SELECT count(*) FROM answered) AS n, "
        "(SELECT count(*) FROM held) AS held), "
        "appended AS (INSERT INTO {log} ({columns}) "
        "SELECT {keys}, as_of, clock_timestamp(), {features} FROM answered, checked "
        "WHERE asked = n AND held = {partitions} ON CONFLICT DO NOTHING RETURNING {columns}) "
        "SELECT asked, n, held, {appended} FROM checked LEFT JOIN appended ON TRUE"
    ).format(
        answers=answers(computation, spine),
        claim=claim.query,
        partitions=sql.Literal(claim.partitions),
        log=sql.Identifier(computation.log_table),
        columns=identifiers(names),
        keys=identifiers(computation.join_keys),
        features=identifiers(features),
        appended=identifiers(names, "appended"),
    )
    with user_sql(computation.view, computation.version), conn.cursor(binary=True) as cursor:
        _numbers_for_times(cursor)
        rows = cursor.execute(statement).fetchall()
    asked, answered, held = rows[0][:3]
    if held != claim.partitions:
        raise FencedError
    if asked != answered:
        raise DefinitionError(
            f"Computation {computation.name} returned {answered} rows for {asked} questions: "
            "it must return exactly one row for each row of the spine."
        )
    width = 3 + len(computation.join_keys)
    return _table(computation, [row[3:] for row in rows if row[width] is not None])


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
    if pg_type == "uuid":  # Feast has them as texts
        return pa.array([None if value is None else str(value) for value in column], pa.string())
    return pa.array(column, arrow_of_postgres(pg_type))

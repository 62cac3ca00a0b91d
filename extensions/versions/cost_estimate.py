"""Cost estimate of a backfill: rows and seconds, extrapolated from a day of the history."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

import psycopg
from psycopg import sql

from extensions.asof import Computation, Spine, active, changes
from extensions.asof.engine import answers
from extensions.asof.spine import SpineFragments
from extensions.database.connection import identifiers, table_exists
from extensions.database.scalars import one_row, scalar

DAY = timedelta(days=1)
SAMPLED_ROWS = 300
# Statement timeout, so that a plan over a large history stays quick.
STATEMENT_TIMEOUT = "15 s"


# Of the entities with the most work those are hot that have so many times the mean.
HOT, MOST_HOT = 10, 3
# Beside its columns: a row's header and pointer, its creation and mark, and its index entry's own.
_BYTES_OF_ROW = 24 + 4 + 9 + 24


@dataclass(frozen=True)
class HotKey:
    """An entity of much work: its join keys, and its share of all pairs."""

    keys: tuple[Any, ...]
    share: float


@dataclass(frozen=True)
class Estimate:
    """``rows`` and ``seconds`` of a backfill of ``(start, end]``.

    Both are None where they were not counted, for the reason ``not_counted``. ``pairs``: of a row
    and a row of history that counts for it. ``log_bytes``: of the rows and their index.
    """

    start: datetime
    end: datetime
    rows: int | None
    seconds: float | None
    not_counted: str | None = None
    pairs: int = 0
    log_bytes: int = 0
    hot_keys: tuple[HotKey, ...] = ()


def estimate(
    conn: psycopg.Connection, computation: Computation, start: datetime, end: datetime
) -> Estimate:
    """Count the spine rows of the range's last day and time a sample of them; write nothing."""
    absent = [source.table for source in computation.reads if not table_exists(conn, source.table)]
    if absent:
        why = f"there is no table {', '.join(absent)}"
        return Estimate(start, end, None, None, why)
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(
                sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(STATEMENT_TIMEOUT))
            )
            rows = _rows_of_range(conn, computation, start, end)
            seconds, size = _cost_of_row(conn, computation, end)
            pairs, hot = _pairs(conn, computation, start, end)
            return Estimate(
                start, end, rows, round(rows * seconds, 1), None, pairs, round(rows * size), hot
            )
    except psycopg.errors.QueryCanceled:
        return Estimate(start, end, None, None, f"counting took longer than {STATEMENT_TIMEOUT}")


def spine_rows(
    conn: psycopg.Connection, computation: Computation, start: datetime, end: datetime
) -> int | None:
    """Rows of a backfill of ``(start, end]``, by those of its last day; None: too many to count."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(
                sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(STATEMENT_TIMEOUT))
            )
            return _rows_of_range(conn, computation, start, end)
    except psycopg.errors.QueryCanceled:
        return None


def _rows_of_range(
    conn: psycopg.Connection, computation: Computation, start: datetime, end: datetime
) -> int:
    rows = _count(conn, active(computation, start))
    if end > start:
        day = min(DAY, end - start)
        of_day = _count(conn, changes(computation, end - day, end))
        rows += round(of_day * ((end - start) / day))
    return rows


def _count(conn: psycopg.Connection, spine: Spine) -> int:
    return int(scalar(conn, sql.SQL("SELECT count(*) FROM ({}) AS s").format(spine.query)))


def _pairs(
    conn: psycopg.Connection, computation: Computation, start: datetime, end: datetime
) -> tuple[int, tuple[HotKey, ...]]:
    """Pairs of the range by those of its last day, and the entities that have most of them."""
    day = min(DAY, end - start)
    if not day:
        return 0, ()
    build = SpineFragments(computation)
    keys = identifiers(computation.join_keys)
    since: sql.Composable = sql.SQL("TRUE")
    held = []
    for source in build.bearing:
        time = sql.Identifier(source.time)
        if computation.horizon is not None:
            first = sql.Literal(end - day - computation.horizon)
            since = sql.SQL("{} > {}").format(time, first)
        held.append(
            sql.SQL("SELECT {keys} FROM {table} AS p WHERE {time} <= {end} AND {since}").format(
                keys=build.keys_of(source),
                table=sql.Identifier(source.table),
                time=time,
                end=sql.Literal(end),
                since=since,
            )
        )
    rows = conn.execute(
        sql.SQL(
            "WITH asked AS (SELECT {keys}, count(*) AS n FROM ({spine}) AS s GROUP BY {keys}), "
            "held AS (SELECT {keys}, count(*) AS m FROM ({held}) AS h GROUP BY {keys}) "
            "SELECT {keys}, n * m, sum(n * m) OVER (), avg(n * m) OVER () FROM asked "
            "INNER JOIN held USING ({keys}) ORDER BY n * m DESC LIMIT {most}"
        ).format(
            keys=keys,
            spine=changes(computation, end - day, end).query,
            held=sql.SQL(" UNION ALL ").join(held),
            most=sql.Literal(MOST_HOT),
        )
    ).fetchall()
    if not rows:
        return 0, ()
    width, total, mean = len(computation.join_keys), int(rows[0][-2]), float(rows[0][-1])
    hot = tuple(
        HotKey(tuple(row[:width]), round(row[width] / total, 4))
        for row in rows
        if row[width] > HOT * mean
    )
    return round(total * ((end - start) / day)), hot


def _cost_of_row(
    conn: psycopg.Connection, computation: Computation, at: datetime
) -> tuple[float, float]:
    """Seconds and bytes of a row, by a sample of active entities."""
    sampled = Spine(
        sql.SQL("SELECT * FROM ({}) AS s LIMIT {}").format(
            active(computation, at).query, sql.Literal(SAMPLED_ROWS)
        )
    )
    rows = _count(conn, sampled)
    if not rows:
        return 0.0, 0.0
    began = perf_counter()
    columns = identifiers(computation.columns)
    keys = identifiers([*computation.join_keys, "as_of"])
    row, entry = one_row(
        conn,
        sql.SQL(
            "{} SELECT avg(pg_column_size(ROW({}))), avg(pg_column_size(ROW({}))) FROM answered"
        ).format(answers(computation, sampled), columns, keys),
    )
    # Appending to the log and its index takes about as long as computing.
    seconds = 2 * (perf_counter() - began) / rows
    # A row's own size has a header of 24 bytes.
    return seconds, float(row) + float(entry) - 2 * 24 + _BYTES_OF_ROW

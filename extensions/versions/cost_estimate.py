"""Cost estimate of a backfill: rows and seconds, extrapolated from a day of the history."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter

import psycopg
from psycopg import sql

from extensions.asof import Computation, Spine, active, changes
from extensions.asof.engine import answers
from extensions.database.connection import table_exists
from extensions.database.scalars import scalar

DAY = timedelta(days=1)
SAMPLED_ROWS = 300
# Statement timeout, so that a plan over a large history stays quick.
STATEMENT_TIMEOUT = "15 s"


@dataclass(frozen=True)
class Estimate:
    """``rows`` and ``seconds`` of a backfill of ``(start, end]``.

    Both are None where they were not counted, for the reason ``not_counted``.
    """

    start: datetime
    end: datetime
    rows: int | None
    seconds: float | None
    not_counted: str | None = None


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
            rows = _count(conn, active(computation, start))
            if end > start:
                day = min(DAY, end - start)
                of_day = _count(conn, changes(computation, end - day, end))
                rows += round(of_day * ((end - start) / day))
            return Estimate(
                start, end, rows, round(rows * _seconds_each(conn, computation, end), 1)
            )
    except psycopg.errors.QueryCanceled:
        return Estimate(start, end, None, None, f"counting took longer than {STATEMENT_TIMEOUT}")


def _count(conn: psycopg.Connection, spine: Spine) -> int:
    return int(scalar(conn, sql.SQL("SELECT count(*) FROM ({}) AS s").format(spine.query)))


def _seconds_each(conn: psycopg.Connection, computation: Computation, at: datetime) -> float:
    sampled = Spine(
        sql.SQL("SELECT * FROM ({}) AS s LIMIT {}").format(
            active(computation, at).query, sql.Literal(SAMPLED_ROWS)
        )
    )
    rows = _count(conn, sampled)
    if not rows:
        return 0.0
    began = perf_counter()
    conn.execute(sql.SQL("{} SELECT count(*) FROM answered").format(answers(computation, sampled)))
    # Appending to the log and its index takes about as long as computing.
    return 2 * (perf_counter() - began) / rows

"""Logs of some months of 2024, with a partition for each, and rows in them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

import psycopg
from psycopg import sql

from extensions.asof import Computation
from extensions.asof.log_partitions import partitions

MONTHS = tuple(datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3, 4))


def monthly(conn: psycopg.Connection, log: str, bounds: Sequence[datetime] = MONTHS) -> None:
    """Give an empty log a partition for each span between the bounds, and two open ones."""
    for part in partitions(conn, log):
        conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(part.name)))
    ends = [None, *bounds, None]
    for number, (start, end) in enumerate(pairwise(ends)):
        name = f"{log}_past" if start is None else f"{log}_p{number}"
        if end is None:
            name = f"{log}_future"
        conn.execute(
            sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                sql.Identifier(name),
                sql.Identifier(log),
                sql.Literal(start) if start else sql.SQL("MINVALUE"),
                sql.Literal(end) if end else sql.SQL("MAXVALUE"),
            )
        )


def append_row(
    conn: psycopg.Connection,
    computation: Computation | None,
    user: int,
    event: datetime,
    count: int,
    *,
    created: datetime | str | None = "event",
    log: str | None = None,
) -> None:
    """One row; created at its event time, or now where ``computation`` is None."""
    table = computation.log_table if computation else log
    assert table is not None
    now = created is None or (created == "event" and computation is None)
    conn.execute(
        sql.SQL(
            "INSERT INTO {} (user_id, event_timestamp, created_timestamp, user_watch_count_7d) "
            "VALUES (%s, %s, coalesce(%s, clock_timestamp()), %s)"
        ).format(sql.Identifier(table)),
        [user, event, None if now else (event if created == "event" else created), count],
    )


def rows_of_log(conn: psycopg.Connection, log: str) -> list[tuple[int, datetime, int]]:
    """(user, event time, count) of all rows, in that order."""
    return conn.execute(
        sql.SQL(
            "SELECT user_id, event_timestamp, user_watch_count_7d FROM {} ORDER BY 1, 2, 3"
        ).format(sql.Identifier(log))
    ).fetchall()

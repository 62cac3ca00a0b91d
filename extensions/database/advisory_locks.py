"""PostgreSQL's advisory locks by a text, held by a session or by a transaction.

The text is hashed to 64 bits; every text begins with ``skewless`` so that another program's locks
in the database are not met.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from time import monotonic, sleep

import psycopg
from psycopg import sql

from extensions.database.scalars import scalar
from extensions.errors import SkewlessError

_PAUSE = 0.05


@contextmanager
def session_lock(
    conn: psycopg.Connection,
    key: str,
    refusal: Callable[[], SkewlessError],
    *,
    patience: float = 0.0,
) -> Iterator[None]:
    """Hold a lock for as long as the block lasts, over transactions.

    Args:
        conn: Its session holds the lock; should it end, PostgreSQL lets go.
        key: What is locked.
        refusal: Makes the exception where another session keeps the lock.
        patience: Seconds to wait for whoever holds it now.
    """
    deadline = monotonic() + patience
    while not scalar(conn, "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [key]):
        if monotonic() >= deadline:
            raise refusal()
        sleep(_PAUSE)
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [key])


def transaction_lock(conn: psycopg.Connection, key: str, *, wait: bool = True) -> bool:
    """Take a lock until the transaction ends; False where another has it and ``wait`` is False."""
    if wait:
        conn.execute(transaction_lock_sql(key))
        return True
    return bool(scalar(conn, "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [key]))


def transaction_lock_sql(key: str) -> sql.Composed:
    """The statement that waits for a lock and takes it until the transaction ends."""
    return sql.SQL("SELECT pg_advisory_xact_lock(hashtextextended({}, 0))").format(sql.Literal(key))


def holder(conn: psycopg.Connection, key: str) -> tuple[str, datetime] | None:
    """The session that holds a lock: its application's name, and since when it is connected."""
    found = conn.execute(
        "SELECT a.application_name, a.backend_start FROM pg_locks AS l "
        "INNER JOIN pg_stat_activity AS a USING (pid) WHERE l.locktype = 'advisory' "
        "AND l.granted AND l.objid::bigint = hashtextextended(%s, 0) & 4294967295 LIMIT 1",
        [key],
    ).fetchone()
    return found and (found[0], found[1])

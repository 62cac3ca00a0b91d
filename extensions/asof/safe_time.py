"""Safe time: the latest time that no open ingest transaction can still write before."""

from datetime import datetime

import psycopg

from extensions.database.event_ingest import INGEST_LOCK
from extensions.errors import ConfigurationError


def settled_now(conn: psycopg.Connection) -> datetime:
    """The current safe time: every row that arrived before it is visible.

    An ingest transaction takes a shared lock before it stamps its rows. The clock is read
    first, then the lock's holders: a transaction that takes the lock later stamps later than the
    clock that was read; one that holds it stamps no earlier than its own start. A data
    dependency enforces that order whatever the plan: the subquery over the holders takes the
    clock as its parameter.

    ``conn`` must be in autocommit, or at the start of a READ COMMITTED transaction, so that its
    next statement sees what was committed by then.

    Raises:
        ConfigurationError: another role stores events, and this one may not see since when.
    """
    row = conn.execute(
        "WITH now AS MATERIALIZED (SELECT clock_timestamp() AS at) "
        "SELECT held.settled, held.hidden FROM now CROSS JOIN LATERAL ("
        "SELECT least(now.at, min(a.xact_start) - interval '1 microsecond') AS settled, "
        "bool_or(a.backend_type IS NULL) AS hidden "
        "FROM pg_locks AS l INNER JOIN pg_stat_activity AS a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ShareLock' "
        "AND l.classid::bigint = %(lock)s::bigint >> 32 "
        "AND l.objid::bigint = %(lock)s::bigint & 4294967295 "
        "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ") AS held",
        {"lock": INGEST_LOCK},
    ).fetchone()
    assert row is not None  # a scalar select always returns a row
    at, hidden = row
    if hidden:
        raise ConfigurationError(
            "Events are being stored by another database role, whose transactions this one "
            "cannot see: GRANT pg_read_all_stats TO this role."
        )
    settled: datetime = at
    return settled

"""Safe time: the latest time that no open ingest transaction can still write before."""

from collections.abc import Collection
from datetime import datetime

import psycopg

from extensions.database.event_ingest import INGEST_LOCK, TABLE_LOCKS
from extensions.errors import ConfigurationError

# Whoever names its tables by locks of theirs is asked about those only. What is read and is no
# table (a view, a foreign table) has rows of unknown tables: then every lock counts.
_SETTLED = """
WITH now AS MATERIALIZED (SELECT clock_timestamp() AS at)
SELECT held.settled, held.hidden FROM now CROSS JOIN LATERAL (
    SELECT
        least(now.at, min(a.xact_start) - interval '1 microsecond') AS settled,
        bool_or(a.backend_type IS NULL) AS hidden
    FROM (
        SELECT l.pid FROM pg_locks AS l CROSS JOIN (
            SELECT
                array_agg(coalesce(pg_partition_root(c.oid), c.oid)::oid) AS tables,
                coalesce(bool_and(c.relkind IN ('r', 'p')), FALSE) AS are_tables
            FROM unnest(%(tables)s::text[]) AS t (name)
            LEFT JOIN pg_class AS c ON c.oid = to_regclass(quote_ident(t.name))
        ) AS asked
        WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ShareLock'
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (
            (l.objsubid = 1 AND l.classid::bigint = %(lock)s::bigint >> 32
                AND l.objid::bigint = %(lock)s::bigint & 4294967295)
            OR (l.objsubid = 2 AND l.classid::bigint = %(class)s)
        )
        GROUP BY l.pid, asked.are_tables
        HAVING NOT asked.are_tables
        OR NOT bool_or(l.objsubid = 2)
        OR bool_or(l.objsubid = 2 AND l.objid = ANY(asked.tables))
    ) AS holding
    INNER JOIN pg_stat_activity AS a USING (pid)
) AS held
"""


def settled_now(conn: psycopg.Connection, tables: Collection[str] = ()) -> datetime:
    """The current safe time: every row of ``tables`` that arrived before it is visible.

    Without ``tables``, every row of every history table. An ingest transaction takes a shared
    lock before it stamps its rows. The clock is read first, then the lock's holders: a
    transaction that takes the lock later stamps later than the clock that was read; one that
    holds it stamps no earlier than its own start. A data dependency enforces that order whatever
    the plan: the subquery over the holders takes the clock as its parameter.

    ``conn`` must be in autocommit, or at the start of a READ COMMITTED transaction, so that its
    next statement sees what was committed by then.

    Raises:
        ConfigurationError: another role stores events, and this one may not see since when.
    """
    names = sorted(tables)
    query = {"lock": INGEST_LOCK, "class": TABLE_LOCKS, "tables": names}
    row = conn.execute(_SETTLED, query).fetchone()
    assert row is not None  # a scalar select always returns a row
    at, hidden = row
    if hidden:
        raise ConfigurationError(
            "Events are being stored by another database role, whose transactions this one "
            "cannot see: GRANT pg_read_all_stats TO this role."
        )
    settled: datetime = at
    return settled

"""Partitions of a feature log by event time, and the online conversion of a log without any.

A log's oldest partition begins at ``MINVALUE`` and its newest, ``<log>_future``, ends at
``MAXVALUE``, so no row is refused for want of a partition; and since there is no default
partition, PostgreSQL reads the partitions in order of time: a search for an entity's latest row
before a time begins in that time's partition and stops at the first row.

``roll`` moves the beginning of ``<log>_future`` on, while that partition is still empty.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from time import sleep
from typing import Literal, TypeVar

import psycopg
from psycopg import sql

from extensions.database.advisory_locks import session_lock, transaction_lock
from extensions.database.identifier_limits import bounded_name
from extensions.database.scalars import scalar
from extensions.errors import UnavailableError

Unit = Literal["month", "day"]
T = TypeVar("T")

# How long before `<log>_future` begins its beginning is moved on.
_LEAD: dict[str, timedelta] = {"month": timedelta(days=7), "day": timedelta(hours=6)}
# What readers and writers are kept waiting at most, and how often it is tried again.
LOCK_TIMEOUT = "2s"
_TRIES, _PAUSE = 30, 0.5
# How long another process may take to convert a log.
_OTHER_SECONDS = 3600.0

# How much a log has grown when it is analyzed again: by a factor, and by some rows.
_GROWN, _FEW = 1.2, 1000
# The server version that knows ANALYZE ONLY.
_ANALYZES_ONLY = 180_000

# Of a log that stays as it is; the obstacle is one of `unpartitioned`.
NOT_PARTITIONED = (
    "has no partitions by time, so that nothing of it can leave PostgreSQL: {} would not follow it "
    "into another table. Drop that, run `skewless migrate`, and make it again."
)

_BOUNDS = re.compile(r"FROM \((?P<start>[^)]+)\) TO \((?P<end>[^)]+)\)")
_PARTITIONS = """
SELECT quote_ident(c.relname), c.relname, pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits AS i INNER JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass(%s)
"""
_ROWS = """
SELECT c.reltuples, coalesce((
    SELECT sum(s.n_live_tup) FROM pg_partition_tree(c.oid) AS p
    INNER JOIN pg_stat_user_tables AS s USING (relid)
), 0)
FROM pg_class AS c WHERE c.oid = to_regclass(%(log)s) AND c.relkind = 'p'
"""
# What a table of another oid would not have, or would have of only a part of the rows.
_BOUND_TO_TABLE = """
SELECT 'the materialized view ' || v.oid::regclass FROM pg_depend AS d
INNER JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
INNER JOIN pg_class AS v ON v.oid = r.ev_class AND v.relkind = 'm' WHERE d.refobjid = %(log)s
UNION ALL SELECT 'the trigger ' || quote_ident(tgname) FROM pg_trigger
WHERE tgrelid = %(log)s AND NOT tgisinternal
UNION ALL SELECT 'the foreign key ' || quote_ident(conname) FROM pg_constraint
WHERE contype = 'f' AND %(log)s IN (conrelid, confrelid)
UNION ALL SELECT 'the publication ' || quote_ident(p.pubname) FROM pg_publication_rel AS t
INNER JOIN pg_publication AS p ON p.oid = t.prpubid WHERE t.prrelid = %(log)s
UNION ALL SELECT 'the policy ' || quote_ident(polname) FROM pg_policy WHERE polrelid = %(log)s
UNION ALL SELECT 'the rights to single columns' FROM pg_attribute
WHERE attrelid = %(log)s AND attacl IS NOT NULL
UNION ALL SELECT 'the unique index ' || indexrelid::regclass FROM pg_index
WHERE indrelid = %(log)s AND indisunique AND NOT EXISTS (
    SELECT FROM pg_attribute AS a WHERE a.attrelid = indrelid
    AND a.attname = 'event_timestamp' AND a.attnum = ANY(indkey)
)
LIMIT 1
"""
_VIEWS = """
SELECT DISTINCT v.oid::regclass::text || coalesce(
    ' WITH (' || array_to_string(v.reloptions, ', ') || ')', ''
), pg_get_viewdef(v.oid)
FROM pg_depend AS d
INNER JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
INNER JOIN pg_class AS v ON v.oid = r.ev_class AND v.relkind = 'v' WHERE d.refobjid = %s
"""
_GRANTS = """
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    a.privilege_type, a.is_grantable
FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS a
WHERE c.oid = %s AND a.grantee <> c.relowner
"""


@dataclass(frozen=True)
class LogPartition:
    """A partition of ``[start, end)``; None: it has no bound on that side."""

    name: str
    start: datetime | None
    end: datetime | None


def partitions(conn: psycopg.Connection, table: str) -> list[LogPartition]:
    """The partitions of a log in order of time; none: it has not been converted.

    ``conn`` has a UTC session, as `extensions.database.connect` makes them.
    """
    found = []
    for _, name, bounds in conn.execute(_PARTITIONS, [_quoted(table)]).fetchall():
        match = _BOUNDS.search(bounds)
        if match is None:
            continue  # made by someone else (a default partition)
        found.append(LogPartition(name, _bound(match["start"]), _bound(match["end"])))
    return sorted(found, key=lambda part: part.start or datetime.min.replace(tzinfo=UTC))


def unit_start(unit: Unit, at: datetime) -> datetime:
    """The start of the month or day, in UTC, that ``at`` lies in."""
    day = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day.replace(day=1) if unit == "month" else day


def next_start(unit: Unit, at: datetime) -> datetime:
    """The first start of a month or day after ``at``."""
    return unit_start(unit, unit_start(unit, at) + timedelta(days=32 if unit == "month" else 1))


def make_first_partitions(conn: psycopg.Connection, table: str, unit: Unit = "month") -> None:
    """Give a new, partitioned log its two partitions."""
    begin = next_start(unit, _now(conn) + _LEAD[unit])
    for name, start, end in ((f"{table}_past", None, begin), (f"{table}_future", begin, None)):
        conn.execute(
            sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES {}").format(
                sql.Identifier(bounded_name(name)), sql.Identifier(table), _values(start, end)
            )
        )


def is_partitioned(conn: psycopg.Connection, table: str) -> bool:
    """Whether the log has partitions, or is one of those that are made with them."""
    query = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)"
    row = conn.execute(query, [_quoted(table)]).fetchone()
    return bool(row and row[0])


def unpartitioned(conn: psycopg.Connection, tables: Iterable[str]) -> dict[str, str | None]:
    """The plain logs among ``tables``, and what keeps each from being converted, if anything."""
    found = {}
    for table in tables:
        query = "SELECT oid FROM pg_class WHERE oid = to_regclass(%s) AND relkind = 'r'"
        row = conn.execute(query, [_quoted(table)]).fetchone()
        if row:
            bound = conn.execute(_BOUND_TO_TABLE, {"log": row[0]}).fetchone()
            found[table] = bound[0] if bound else None
    return found


def partition_logs(conn: psycopg.Connection, tables: Iterable[str]) -> list[str]:
    """Convert the plain logs among ``tables`` that can be; returns their names.

    The rows stay where they are: the table becomes the log's oldest partition. Readers and
    writers go on; they wait for one change of the catalogue, and at most `LOCK_TIMEOUT` for
    whoever holds it up. ``conn`` must be in autocommit. Killed in its midst, it begins again.

    Raises:
        UnavailableError: a transaction has kept the log locked throughout.
    """
    done = []
    for table, obstacle in unpartitioned(conn, tables).items():
        if obstacle is not None:
            continue
        # One converts; who waited for it finds it done.
        with session_lock(
            conn, f"skewless conversion {table}", partial(_in_use, table), patience=_OTHER_SECONDS
        ):
            if unpartitioned(conn, [table]):
                _convert(conn, table)
                done.append(table)
    return done


def roll(conn: psycopg.Connection, table: str, unit: Unit = "month") -> LogPartition | None:
    """Move the beginning of ``<log>_future`` on if it is near; returns the partition before it.

    The partition that was the newest ends there; its rows stay in it, but for those that are
    later. ``conn`` must be in autocommit. Tried once: there is a week for it, and while it waits
    for a long transaction everybody else waits behind it.

    Raises:
        UnavailableError: a transaction keeps the log locked.
    """
    soon = _now(conn) + _LEAD[unit]
    parts = partitions(conn, table)
    if not parts or parts[-1].start is None or parts[-1].start > soon:
        return None
    return patiently(conn, table, lambda: _roll(conn, table, next_start(unit, soon)), tries=1)


def analyze_grown(conn: psycopg.Connection, table: str) -> bool:
    """Analyze a log that has grown by a fifth since it was; returns whether it had.

    Autovacuum analyzes partitions, never the partitioned table, whose statistics say how many
    different entities the whole log has.
    """
    conn.execute("SELECT pg_stat_force_next_flush()")
    row = conn.execute(_ROWS, {"log": _quoted(table)}).fetchone()
    if row is None or row[1] <= max(row[0], 0) * _GROWN + _FEW:
        return False
    only = "ONLY " if conn.info.server_version >= _ANALYZES_ONLY else ""
    conn.execute(sql.SQL("ANALYZE {}{}").format(sql.SQL(only), sql.Identifier(table)))
    return True


def _roll(conn: psycopg.Connection, table: str, begin: datetime) -> LogPartition | None:
    # One who waited for the other finds it done.
    last = partitions(conn, table)[-1]
    if last.start is None or last.start >= begin:
        return None
    log, kept = sql.Identifier(table), sql.Identifier(last.name)
    name = bounded_name(f"{table}_{last.start:%Y_%m_%d}")
    future = sql.Identifier(bounded_name(f"{table}_future"))
    conn.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(log, kept))
    conn.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(kept, sql.Identifier(name)))
    conn.execute(
        sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES {}").format(
            future, log, _values(begin, None)
        )
    )
    conn.execute(
        sql.SQL(
            "WITH later AS (DELETE FROM {} WHERE event_timestamp >= {} RETURNING *) "
            "INSERT INTO {} SELECT * FROM later"
        ).format(sql.Identifier(name), sql.Literal(begin), future)
    )
    conn.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES {}").format(
            log, sql.Identifier(name), _values(last.start, begin)
        )
    )
    return LogPartition(name, last.start, begin)


def _convert(conn: psycopg.Connection, table: str) -> None:
    log, constraint = sql.Identifier(table), sql.Identifier(bounded_name(f"{table}_before"))
    latest = scalar(conn, sql.SQL("SELECT max(event_timestamp) FROM {}").format(log))
    begin = next_start("month", max(_now(conn) + _LEAD["month"], latest or _now(conn)))
    # That all rows are earlier is checked beside the writers; attaching then looks at no row.
    add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK (event_timestamp < {}) NOT VALID")

    def announce() -> None:
        conn.execute(_drop(log, constraint))  # of one that was killed
        conn.execute(add.format(log, constraint, sql.Literal(begin)))

    patiently(conn, table, announce)
    conn.execute(sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(log, constraint))
    patiently(conn, table, lambda: _swap(conn, table, begin, constraint))


def _swap(
    conn: psycopg.Connection, table: str, begin: datetime, constraint: sql.Identifier
) -> None:
    """Put a partitioned table in the place of a plain one, which becomes its partition."""
    oid = scalar(conn, "SELECT to_regclass(%s)::oid", [_quoted(table)])
    views = conn.execute(_VIEWS, [oid]).fetchall()
    grants = conn.execute(_GRANTS, [oid]).fetchall()
    log = sql.Identifier(table)
    past, future = (sql.Identifier(bounded_name(f"{table}_{n}")) for n in ("past", "future"))
    names = conn.execute(
        "SELECT c.relname FROM pg_index INNER JOIN pg_class AS c ON c.oid = indexrelid "
        "WHERE indrelid = %s",
        [oid],
    ).fetchall()
    conn.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(log, past))
    conn.execute(
        sql.SQL(
            "CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING CONSTRAINTS) "
            "PARTITION BY RANGE (event_timestamp)"
        ).format(log, past)
    )
    for (name,) in names:
        _move_index(conn, table, name)
    conn.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES {}").format(
            log, past, _values(None, begin)
        )
    )
    conn.execute(
        sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES {}").format(
            future, log, _values(begin, None)
        )
    )
    for grantee, privilege, grantable in grants:
        conn.execute(
            sql.SQL("GRANT {} ON {} TO {}{}").format(
                sql.SQL(privilege), log, sql.SQL(grantee),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            )
        )  # fmt: skip
    # A view follows a table that is renamed: it is made anew over what has the name now.
    for name, definition in views:
        conn.execute(
            sql.SQL("CREATE OR REPLACE VIEW {} AS {}").format(sql.SQL(name), sql.SQL(definition))
        )
    conn.execute(_drop(past, constraint))


def _move_index(conn: psycopg.Connection, table: str, name: str) -> None:
    """Give the new table an index like the old one's, by its name; the old one's is another."""
    definition = scalar(conn, "SELECT pg_get_indexdef(to_regclass(%s))", [_quoted(name)])
    old = name.removeprefix(f"{table}_")
    conn.execute(
        sql.SQL("ALTER INDEX {} RENAME TO {}").format(
            sql.Identifier(name), sql.Identifier(bounded_name(f"{table}_past_{old}"))
        )
    )
    method = definition[definition.index(" USING ") :]
    unique = "UNIQUE " if definition.startswith("CREATE UNIQUE") else ""
    conn.execute(
        sql.SQL("CREATE {}INDEX {} ON {}{}").format(
            sql.SQL(unique), sql.Identifier(name), sql.Identifier(table), sql.SQL(method)
        )
    )


def _drop(table: sql.Identifier, constraint: sql.Identifier) -> sql.Composed:
    return sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}").format(table, constraint)


def patiently(
    conn: psycopg.Connection, table: str, change: Callable[[], T], tries: int | None = None
) -> T:
    """Run ``change`` in a transaction that holds the log alone; nobody waits long for it.

    Raises:
        UnavailableError: a transaction has kept the log locked throughout.
    """
    for attempt in range(tries or _TRIES):
        try:
            with conn.transaction():
                conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
                transaction_lock(conn, f"skewless partitions {table}")
                conn.execute(
                    sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table))
                )
                return change()
        except psycopg.errors.LockNotAvailable:
            sleep(_PAUSE * (1 + attempt / _TRIES))
    raise _in_use(table)


def _in_use(table: str) -> UnavailableError:
    return UnavailableError(
        f"The log {table} was in use throughout, so its partitions were not changed: see which "
        "transaction stays open for so long (pg_stat_activity), and run it again."
    )


def _values(start: datetime | None, end: datetime | None) -> sql.Composed:
    return sql.SQL("FROM ({}) TO ({})").format(
        sql.Literal(start) if start else sql.SQL("MINVALUE"),
        sql.Literal(end) if end else sql.SQL("MAXVALUE"),
    )


def _bound(text: str) -> datetime | None:
    if text in ("MINVALUE", "MAXVALUE"):
        return None
    return datetime.fromisoformat(text.strip("'"))


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def _now(conn: psycopg.Connection) -> datetime:
    now: datetime = scalar(conn, "SELECT clock_timestamp()")
    return now

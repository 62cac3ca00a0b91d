"""Take old partitions out of a log, all but the rows that it must keep (see `log_cuts`).

What is kept is copied beside readers and writers into a table of its own, which then takes the
place of the partitions in one transaction, together with the record of the cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from extensions.asof.log_cuts import Cut
from extensions.asof.log_partitions import LogPartition, partitions, patiently
from extensions.database.connection import identifiers
from extensions.database.identifier_limits import bounded_name
from extensions.database.scalars import scalar

EVENT, CREATED = "event_timestamp", "created_timestamp"


@dataclass(frozen=True)
class Kept:
    """The table of what a log keeps: its name, and how many of its rows the lake has as well."""

    name: str
    exported: int


def old_partitions(conn: psycopg.Connection, log: str, before: datetime) -> list[LogPartition]:
    """The partitions of a log that end by a time, in order; none: all reach beyond it."""
    return [part for part in partitions(conn, log) if part.end is not None and part.end <= before]


def drop_kept(conn: psycopg.Connection, log: str) -> None:
    """Drop the table that a cut left which was killed before its end."""
    conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(_kept_table(log)))


def copy_kept(
    conn: psycopg.Connection, log: str, keys: Sequence[str], before: datetime, through: datetime
) -> Kept:
    """Copy what stays in PostgreSQL of the rows before a cut into a table beside the log.

    Args:
        conn: In autocommit.
        log: The log.
        keys: Its join keys.
        before: The cut.
        through: The arrival through which the lake has all rows; not earlier than the cut.
    """
    kept = _kept_table(log)
    drop_kept(conn, log)
    conn.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(kept, sql.Identifier(log))
    )
    conn.execute(
        sql.SQL(
            "INSERT INTO {kept} SELECT * FROM ("
            "SELECT DISTINCT ON ({keys}) * FROM {log} AS l WHERE {event} < {before} "
            "AND {created} < {before} ORDER BY {keys}, {event} DESC, {created} DESC) AS last "
            "UNION ALL SELECT * FROM {log} AS l WHERE {event} < {before} AND {created} >= {before}"
        ).format(
            kept=kept,
            log=sql.Identifier(log),
            keys=identifiers(list(keys), "l"),
            event=sql.Identifier("l", EVENT),
            created=sql.Identifier("l", CREATED),
            before=sql.Literal(before),
        )
    )
    # That all rows are early enough is checked here; attaching then looks at no row.
    conn.execute(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} < {})").format(
            kept, _early(log), sql.Identifier(EVENT), sql.Literal(before)
        )
    )
    conn.execute(sql.SQL("ANALYZE {}").format(kept))
    exported = scalar(
        conn,
        sql.SQL("SELECT count(*) FROM {} WHERE {} <= {}").format(
            kept, sql.Identifier(CREATED), sql.Literal(through)
        ),
    )
    return Kept(bounded_name(f"{log}_kept"), int(exported))


def swap(
    conn: psycopg.Connection,
    parts: Sequence[LogPartition],
    cut: Cut,
    rows: int,
    check: Callable[[], None],
    done: Callable[[], None],
) -> None:
    """Put the table of `copy_kept` in the place of a log's old partitions, and record the cut.

    Readers and writers wait meanwhile, and nobody waits long for it to begin (`patiently`).

    Args:
        conn: In autocommit.
        parts: The log's partitions that go.
        cut: Its cut.
        rows: How many rows leave PostgreSQL.
        check: Called while nobody else has the log; raises where it must not be cut after all.
        done: Called before it is committed.

    Raises:
        UnavailableError: a transaction kept the log locked throughout.
    """

    def change() -> None:
        check()
        _swap(conn, parts, cut, rows)
        done()

    patiently(conn, cut.log, change)


def _swap(
    conn: psycopg.Connection,
    parts: Sequence[LogPartition],
    cut: Cut,
    rows: int,
) -> None:
    log, kept = sql.Identifier(cut.log), _kept_table(cut.log)
    # What became known since the lake's snapshot, and since it was copied.
    conn.execute(
        sql.SQL(
            "INSERT INTO {} SELECT * FROM {} WHERE {} < {} AND {} > {} ON CONFLICT DO NOTHING"
        ).format(
            kept, log, sql.Identifier(EVENT), sql.Literal(cut.before),
            sql.Identifier(CREATED), sql.Literal(cut.exported_through),
        )
    )  # fmt: skip
    for part in parts:
        name = sql.Identifier(part.name)
        conn.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(log, name))
        conn.execute(sql.SQL("DROP TABLE {}").format(name))
    past = sql.Identifier(bounded_name(f"{cut.log}_past"))
    conn.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(kept, past))
    conn.execute(
        sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM (MINVALUE) TO ({})").format(
            log, past, sql.Literal(cut.before)
        )
    )
    conn.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(past, _early(cut.log)))
    conn.execute(
        "INSERT INTO log_cuts AS c (log_table, cut_before, first_event, exported_through, "
        "snapshot_id, rows_cut) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (log_table) "
        "DO UPDATE SET cut_before = excluded.cut_before, exported_through = "
        "excluded.exported_through, snapshot_id = excluded.snapshot_id, "
        "first_event = least(c.first_event, excluded.first_event), "
        "rows_cut = c.rows_cut + excluded.rows_cut, cut_at = clock_timestamp()",
        [cut.log, cut.before, cut.first_event, cut.exported_through, cut.snapshot, rows],
    )


def _kept_table(log: str) -> sql.Identifier:
    return sql.Identifier(bounded_name(f"{log}_kept"))


def _early(log: str) -> sql.Identifier:
    return sql.Identifier(bounded_name(f"{log}_early"))

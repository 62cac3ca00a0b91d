"""Feature log tables: one append-only, partitioned table per view version, from its schema."""

from collections.abc import Iterable

import psycopg
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.log_partitions import make_first_partitions
from extensions.database.connection import identifiers, table_exists
from extensions.database.identifier_limits import BACKFILLED, bounded_name
from extensions.errors import DefinitionError
from extensions.feature_types import pg_name


def missing_log_tables(conn: psycopg.Connection, computations: Iterable[Computation]) -> list[str]:
    """The logs that `ensure_log_tables` would make."""
    return [c.log_table for c in computations if not table_exists(conn, c.log_table)]


def ensure_log_tables(conn: psycopg.Connection, computations: Iterable[Computation]) -> list[str]:
    """Make the logs that are missing; returns their names.

    Raises:
        SkewlessError: a log exists with other columns than its view version declares.
    """
    made = []
    for computation in computations:
        if table_exists(conn, computation.log_table):
            _ensure_mark(conn, computation)
            _check_columns(conn, computation)
        else:
            _create(conn, computation)
            made.append(computation.log_table)
    return made


def _declared(computation: Computation) -> list[tuple[str, str]]:
    return [
        *zip(computation.join_keys, computation.key_types, strict=True),
        ("event_timestamp", "timestamptz"),
        ("created_timestamp", "timestamptz"),
        *((feature.name, feature.pg_type) for feature in computation.features),
    ]


def _create(conn: psycopg.Connection, computation: Computation) -> None:
    columns = sql.SQL(", ").join(
        sql.SQL("{} {} {}").format(
            sql.Identifier(name),
            # Keys are compared and ordered by their bytes, whatever the database's collation is.
            sql.SQL(
                f'{pg_type} COLLATE "C"'
                if pg_type == "text" and i < len(computation.join_keys)
                else pg_type
            ),
            sql.SQL("NOT NULL" if i < len(computation.join_keys) + 2 else ""),
        )
        for i, (name, pg_type) in enumerate(_declared(computation))
    )
    table = computation.log_table
    conn.execute(
        sql.SQL(
            "CREATE TABLE {} ({}, {} boolean NOT NULL DEFAULT FALSE) "
            "PARTITION BY RANGE (event_timestamp)"
        ).format(sql.Identifier(table), columns, sql.Identifier(BACKFILLED))
    )
    # An entity's latest row as of a time is the first in this index. It is unique, so
    # appending a row twice has no effect.
    conn.execute(
        sql.SQL(
            "CREATE UNIQUE INDEX {} ON {} ({}, event_timestamp DESC, created_timestamp DESC)"
        ).format(
            sql.Identifier(bounded_name(f"{table}_as_of")),
            sql.Identifier(table),
            identifiers(computation.join_keys),
        )
    )
    # Rows are appended in time order, so a block range index finds a tick's rows at almost
    # no cost to writes.
    conn.execute(
        sql.SQL("CREATE INDEX {} ON {} USING brin (event_timestamp, created_timestamp)").format(
            sql.Identifier(bounded_name(f"{table}_by_time")), sql.Identifier(table)
        )
    )
    make_first_partitions(conn, table)


def _ensure_mark(conn: psycopg.Connection, computation: Computation) -> None:
    """Add the column that marks backfilled rows to a log of an older release, and fill it.

    Until then a row of a backfilled range with equal times counted as a backfill's.
    """
    if BACKFILLED in _columns(conn, computation):
        return
    log = sql.Identifier(computation.log_table)
    conn.execute(
        sql.SQL("ALTER TABLE {} ADD COLUMN {} boolean NOT NULL DEFAULT FALSE").format(
            log, sql.Identifier(BACKFILLED)
        )
    )
    conn.execute(
        sql.SQL(
            "UPDATE {} AS l SET {} = TRUE WHERE l.created_timestamp = l.event_timestamp "
            "AND EXISTS (SELECT FROM backfills AS b WHERE b.view_name = %s AND b.version = %s "
            "AND l.event_timestamp BETWEEN b.range_start AND b.range_end)"
        ).format(log, sql.Identifier(BACKFILLED)),
        [computation.view, computation.version],
    )


def _check_columns(conn: psycopg.Connection, computation: Computation) -> None:
    present = {
        name: pg_type for name, pg_type in _columns(conn, computation).items() if name != BACKFILLED
    }
    declared = dict(_declared(computation))
    if present != declared:
        raise DefinitionError(
            f"The log {computation.log_table} does not have the columns that view "
            f"{computation.view} declares: a changed schema is a new version, so make "
            f"v{computation.version + 1}."
        )


def _columns(conn: psycopg.Connection, computation: Computation) -> dict[str, str]:
    rows = conn.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [computation.log_table],
    ).fetchall()
    return {name: pg_name(pg_type) for name, pg_type in rows}

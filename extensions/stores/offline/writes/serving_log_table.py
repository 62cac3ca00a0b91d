"""The table ``served_features``: its columns, its partitions, and rows in and out of time."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from feast.types import FeastType, TimeUuid, Uuid
from psycopg import sql

from extensions.database.advisory_locks import transaction_lock
from extensions.database.identifier_limits import bounded_name
from extensions.feature_types import arrow_type, pg_name, pg_type

TABLE = "served_features"
# What a reader of recent rows is kept waiting at most by a new column.
LOCK_TIMEOUT = "2s"


def column_type(dtype: FeastType) -> str:
    """The type of a column of the table; UUIDs are texts there, as requests bring them."""
    return "text" if dtype in (Uuid, TimeUuid) else pg_type(dtype)


def column_name(*parts: str) -> str:
    """``view__feature``; a name too long for PostgreSQL ends in a hash of itself."""
    return bounded_name("__".join(parts))


def typed_name(name: str, dtype: FeastType) -> str:
    """The column of a feature whose plain name is taken by another type (another version's)."""
    return column_name(name, column_type(dtype).replace("[]", "_list").replace(" ", "_"))


def present_columns(conn: psycopg.Connection) -> dict[str, str]:
    """The table's columns and their types; empty where there is no table."""
    rows = conn.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [TABLE],
    ).fetchall()
    return {name: pg_name(kind) for name, kind in rows}


def resolve(present: Mapping[str, str], name: str, dtype: FeastType) -> str | None:
    """The column that holds ``name`` as ``dtype``, if there is one."""
    for candidate in (name, typed_name(name, dtype)):
        if present.get(candidate) == column_type(dtype):
            return candidate
    return None


def ensure_columns(conn: psycopg.Connection, wanted: Mapping[str, FeastType]) -> dict[str, str]:
    """Add what is missing of ``wanted``; returns the column of each name. Safe to run at once."""
    with conn.transaction():
        # A row's lock on nothing: two writers that meet a new service take turns.
        transaction_lock(conn, "skewless served_features columns")
        present = present_columns(conn)
        columns: dict[str, str] = {}
        missing: list[sql.Composable] = []
        for name, dtype in wanted.items():
            column = resolve(present, name, dtype)
            if column is None:
                column = name if name not in present else typed_name(name, dtype)
                kind = present[column] = column_type(dtype)
                collation = sql.SQL(' COLLATE "C"' if kind == "text" else "")
                missing.append(
                    sql.SQL("ADD COLUMN {} {}{}").format(
                        sql.Identifier(column), sql.SQL(kind), collation
                    )
                )
            columns[name] = column
        if missing:
            conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(LOCK_TIMEOUT)))
            conn.execute(
                sql.SQL("ALTER TABLE {} {}").format(
                    sql.Identifier(TABLE), sql.SQL(", ").join(missing)
                )
            )
    return columns


def ensure_partitions(conn: psycopg.Connection, first: datetime, last: datetime) -> None:
    """Make the partitions of the days that cover ``[first, last]``."""
    conn.execute("SELECT ensure_served_partitions(%s, %s)", [first, last])


def append_rows(conn: dbapi.Connection, rows: pa.Table) -> int:
    """Append ``rows``, whose columns are the table's, by binary COPY; all of them or none."""
    with conn.cursor() as cursor:
        cursor.adbc_ingest(TABLE, rows, mode="append")
    conn.commit()
    return int(rows.num_rows)


def prune(conn: psycopg.Connection, before: datetime) -> list[str]:
    """Drop the days that end at or before ``before``; returns the partitions dropped.

    Rows that came without a partition of their own are deleted from the default one.
    """
    names = [
        name
        for (name,) in conn.execute(
            "SELECT c.relname FROM pg_inherits AS i INNER JOIN pg_class AS c "
            "ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass(%s) ORDER BY c.relname",
            [TABLE],
        ).fetchall()
    ]
    dropped = []
    with conn.transaction():
        for name in names:
            day = _day_of(name)
            if day is not None and day + timedelta(days=1) <= before:
                conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
                dropped.append(name)
        conn.execute("DELETE FROM served_features_default WHERE served_at < %s", [before])
    return dropped


def arrow_schema(types: Mapping[str, FeastType]) -> pa.Schema:
    """The Arrow types in which the columns travel."""
    return pa.schema([(name, arrow_type(dtype)) for name, dtype in types.items()])


def _day_of(partition: str) -> datetime | None:
    try:
        return datetime.strptime(partition + "+0000", f"{TABLE}_%Y_%m_%d%z")
    except ValueError:
        return None

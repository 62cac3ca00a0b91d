"""Event ingest: a batch of rows into a history table, unique by id, first arrival wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.database.binary_copy import COPIED, copy_batch
from extensions.database.connection import identifiers
from extensions.database.identifier_limits import bounded_name
from extensions.halving import take_halved
from extensions.sources.history_table import Column, HistoryTable

# A row's place in the order of arrival.
ORDER = "skewless_order"

# `typed` has the columns in the table's types. Ids go in sorted, so that two writers of the same
# ids wait for each other and do not deadlock; rows go in by key, so that neighbours in the
# indexes are written one after the other (a fifth of the time of storing them).
_BY_ID = """
WITH typed AS (SELECT {casts}, {order} FROM {batch}),
first_arrivals AS (SELECT DISTINCT ON ({id}) * FROM typed ORDER BY {id}, {order}),
fresh AS (
    INSERT INTO {ids} ({id}, {time})
    SELECT {id}, {time} FROM first_arrivals ORDER BY {id}
    ON CONFLICT DO NOTHING
    RETURNING {id}
)
INSERT INTO {table} ({columns}) SELECT {values} FROM first_arrivals AS f
INNER JOIN fresh USING ({id}) ORDER BY {keys}
"""
_EVERY_ROW = """
WITH typed AS (SELECT {casts}, {order} FROM {batch})
INSERT INTO {table} ({columns}) SELECT {values} FROM typed AS f ORDER BY {keys}, f.{order}
"""
# SQLSTATEs, or classes of them, by which PostgreSQL refuses a row: it cannot be cast (22),
# violates a constraint (23), is too large for an index (54), or a trigger raised (P0).
_REFUSALS = ("22", "23", "54", "P0")


@dataclass(frozen=True)
class RefusedRow:
    """A row that the table refuses: its index in the batch, and why, without its values."""

    index: int
    why: str


class BatchTable:
    """A session's temporary table for batches of one history table, and the insert from it."""

    def __init__(self, table: HistoryTable) -> None:
        self.table = table
        self.columns = table.written
        self.schema = pa.schema([(c.name, arrow_of(c)) for c in self.columns])
        self._name = bounded_name(f"batch_{table.table}")
        names = [column.name for column in self.columns]
        parts: dict[str, sql.Composable] = {
            "batch": sql.Identifier(self._name),
            "table": sql.Identifier(table.table),
            "ids": sql.Identifier(table.id_table),
            "time": sql.Identifier(table.time),
            "order": sql.Identifier(ORDER),
            "columns": identifiers(names),
            "keys": identifiers(table.keys, "f"),
            "casts": sql.SQL(", ").join(
                sql.SQL("{c}::{t} AS {c}").format(c=sql.Identifier(c.name), t=sql.SQL(c.cast_type))
                for c in self.columns
            ),
            "values": sql.SQL(", ").join(map(self._value, self.columns)),
        }
        if table.id is not None:
            parts["id"] = sql.Identifier(table.id)
        self._insert = sql.SQL(_EVERY_ROW if table.id is None else _BY_ID).format(**parts)

    def create(self, conn: psycopg.Connection) -> None:
        """Make the temporary table in a session; it is empty after each transaction."""
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(
                sql.Identifier(column.name),
                sql.SQL(column.pg_type if column.pg_type in COPIED else "text"),
            )
            for column in self.columns
        )
        conn.execute(
            sql.SQL("CREATE TEMP TABLE {} ({}, {} bigint) ON COMMIT DELETE ROWS").format(
                sql.Identifier(self._name), columns, sql.Identifier(ORDER)
            )
        )

    def batch(self, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
        """Rows as Arrow; written columns that are not among ``columns`` are null."""
        given = dict(zip(columns, zip(*rows, strict=True), strict=True)) if rows else {}
        return pa.record_batch(
            [
                pa.array(given[field.name], field.type)
                if field.name in given
                else pa.nulls(len(rows), field.type)
                for field in self.schema
            ],
            schema=self.schema,
        )

    def insert(self, conn: psycopg.Connection, batch: pa.RecordBatch) -> int:
        """Store rows (in order of arrival) in the caller's transaction; returns how many are new.

        A null arrival means the database's clock, another null the column's default.
        """
        numbered = batch.append_column(ORDER, pa.array(range(batch.num_rows), pa.int64()))
        conn.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(self._name)))
        copy_batch(conn, self._name, numbered, numbered.schema.names)
        return conn.execute(self._insert).rowcount

    def refused(self, conn: psycopg.Connection, batch: pa.RecordBatch) -> list[RefusedRow]:
        """The rows that `insert` fails of, found by halving; stores nothing.

        A part that goes in stays until the end, so that a row is refused for what stands in an
        earlier one, too.
        """
        found: list[RefusedRow] = []

        def insert(begin: int, end: int) -> None:
            with conn.transaction():
                self.insert(conn, batch.slice(begin, end - begin))

        def refuse(row: int, error: psycopg.Error) -> None:
            found.append(RefusedRow(row, why_refused(error)))

        with conn.transaction(force_rollback=True):
            for _ in take_halved(
                0, batch.num_rows, insert, refuse,
                error_type=psycopg.Error, is_members=refuses_a_row,
            ):  # fmt: skip
                pass
        return found

    def _value(self, column: Column) -> sql.Composable:
        value = sql.Identifier("f", column.name)
        if column.name == self.table.arrival and self.table.has_arrival:
            return sql.SQL("coalesce({}, clock_timestamp())").format(value)
        if column.default is not None:
            return sql.SQL("coalesce({}, {})").format(value, sql.SQL(column.default))
        return value


def arrow_of(column: Column) -> pa.DataType:
    """The Arrow type that a column's values are handed over in."""
    return COPIED.get(column.pg_type, pa.string())


def refuses_a_row(error: psycopg.Error) -> bool:
    """Whether PostgreSQL refused what a row says, and not the statement or the moment."""
    return (error.sqlstate or "").startswith(_REFUSALS)


def why_refused(error: psycopg.Error) -> str:
    """Why a row was refused: the constraint or column and the rule, never a value."""
    diagnostic = error.diag
    if diagnostic.constraint_name:
        return f"it violates {diagnostic.constraint_name}"
    if diagnostic.column_name:
        return f"{diagnostic.column_name} must not be null"
    kind = type(error).__name__
    return f"PostgreSQL refuses it ({kind}, {error.sqlstate})"

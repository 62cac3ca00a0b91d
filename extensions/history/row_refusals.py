"""Rows that the database refuses, found among those that it takes.

PostgreSQL refuses a COPY or an INSERT as a whole: which rows were the cause is found by evaluating
the table's CHECK and NOT NULL constraints over all of them at once, and what those do not explain
(a failed cast, a text too long, a trigger's complaint) by halving in savepoints.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.halving import take_halved
from extensions.history.table_copy import ROW, TableCopy
from extensions.sources import HistoryTable
from extensions.sources.ingest import refuses_a_row, why_refused

# Called with rows that were refused for one reason, and the reason.
Refused = Callable[[pa.RecordBatch, str], None]
# Stores rows in a savepoint, or raises; returns how many were new.
Store = Callable[[pa.RecordBatch], int]

# A column of batches that is the caller's own: it comes back with rows that were refused.
NUMBER = "skewless_number"
_STAGED = "skewless_staged"
# What PostgreSQL says of a row's own values at the end of a message.
_VALUE = re.compile(r":.*$", re.DOTALL)

_CONSTRAINTS = """
SELECT conname, '(' || pg_get_expr(conbin, conrelid) || ')'
FROM pg_constraint
WHERE conrelid = to_regclass(%s) AND contype = 'c'
ORDER BY conname
"""


def reason(error: psycopg.Error) -> str:
    """Why a row was refused: the constraint or the column, or the words without the value."""
    about = error.diag
    # A key that is too long for its index names the index as if it were a constraint.
    too_large = isinstance(error, psycopg.errors.ProgramLimitExceeded)
    named = (about.constraint_name or about.column_name) and not too_large
    if named or not about.message_primary:
        return why_refused(error)
    return _VALUE.sub("", about.message_primary)


def without_number(rows: pa.RecordBatch) -> pa.RecordBatch:
    """The table's own columns of ``rows``."""
    return rows.drop_columns([NUMBER]) if NUMBER in rows.schema.names else rows


class Staging:
    """A temporary table of a history table's columns without its constraints.

    It has one more column, `ROW`: a row's place in the batch that was put into it.
    """

    name = _STAGED

    def __init__(self, conn: psycopg.Connection, table: HistoryTable) -> None:
        self._conn, self._copy = conn, TableCopy(conn, table)
        staged = sql.Identifier(_STAGED)
        conn.execute(
            sql.SQL("CREATE TEMP TABLE {} (LIKE {} INCLUDING GENERATED)").format(
                staged, sql.Identifier(table.table)
            )
        )
        for name in [column.name for column in table.columns if not column.nullable]:
            conn.execute(
                sql.SQL("ALTER TABLE {} ALTER {} DROP NOT NULL").format(
                    staged, sql.Identifier(name)
                )
            )
        conn.execute(sql.SQL("ALTER TABLE {} ADD {} bigint").format(staged, sql.Identifier(ROW)))

    def put(self, rows: pa.RecordBatch) -> None:
        """Replace what it holds by ``rows``.

        Raises:
            psycopg.Error: a value is none of its column's type.
        """
        self._conn.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(_STAGED)))
        places = pa.array(np.arange(rows.num_rows, dtype=np.int64))
        self._copy.copy(_STAGED, without_number(rows).append_column(ROW, places))


@dataclass
class Refusals:
    """Stores what can be stored of a batch, and hands out the rest with a reason."""

    conn: psycopg.Connection
    table: HistoryTable
    staging: Staging
    refused: Refused
    _constraints: list[tuple[str, str]] | None = None

    def store(self, rows: pa.RecordBatch, store: Store) -> int:
        """Store ``rows`` by ``store`` but for those that are refused; returns how many were new."""
        if not rows.num_rows:
            return 0
        failed: psycopg.Error | None
        try:
            return store(rows)
        except psycopg.Error as error:
            if not refuses_a_row(error):
                raise
            failed = error
        if rows.num_rows > 1:
            kept = self._without_violations(rows)
            if kept.num_rows < rows.num_rows:
                rows, failed = kept, None
        return sum(
            take_halved(
                0, rows.num_rows,
                lambda begin, end: store(rows.slice(begin, end - begin)),
                lambda row, error: self.refused(rows.slice(row, 1), reason(error)),
                error_type=psycopg.Error, is_members=refuses_a_row, failed=failed,
            )
        )  # fmt: skip

    def _without_violations(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """What is left of ``rows`` where those that violate a CHECK or NOT NULL are handed out."""
        tests = self._tests(set(rows.schema.names))
        if not tests:
            return rows
        query = sql.SQL(
            "SELECT {row}, array_to_string(ARRAY[{reasons}], '; ') FROM {staged} "
            "WHERE {any} ORDER BY {row}"
        ).format(
            row=sql.Identifier(ROW),
            staged=sql.Identifier(self.staging.name),
            reasons=sql.SQL(", ").join(
                sql.SQL("CASE WHEN {} IS FALSE THEN {} END").format(sql.SQL(test), said)
                for said, test in tests
            ),
            any=sql.SQL(" OR ").join(
                sql.SQL("{} IS FALSE").format(sql.SQL(test)) for _, test in tests
            ),
        )
        try:
            with self.conn.transaction():
                self.staging.put(rows)
                found = self.conn.execute(query).fetchall()
        except psycopg.Error as error:
            if not refuses_a_row(error):
                raise
            return rows  # a value of another type, or a CHECK that raises: found by halving
        keep = np.ones(rows.num_rows, bool)
        by_reason: dict[str, list[int]] = {}
        for place, said in found:
            keep[place] = False
            by_reason.setdefault(said, []).append(place)
        for said, places in by_reason.items():
            self.refused(rows.take(pa.array(places)), said)
        return rows.filter(pa.array(keep))

    def _tests(self, names: set[str]) -> list[tuple[str, str]]:
        """The reasons, as `why_refused` words them, and the conditions that rows must not fail."""
        if self._constraints is None:
            relation = sql.Identifier(self.table.table).as_string(None)
            rows = self.conn.execute(_CONSTRAINTS, [relation]).fetchall()
            self._constraints = [(f"it violates {name}", test) for name, test in rows]
        required = [
            (
                f"{column.name} must not be null",
                f"({sql.Identifier(column.name).as_string(None)} IS NOT NULL)",
            )
            for column in self.table.columns
            if not column.nullable and column.name in names
        ]
        return [*self._constraints, *required]

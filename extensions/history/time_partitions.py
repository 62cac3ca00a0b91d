"""Rows into their partitions by time; a new partition is indexed after it is filled.

Building an index over rows costs a fifth of inserting them into it one by one, and a table that
is new in its transaction need not be logged row by row (with ``wal_level = minimal``).
"""

from typing import Any, LiteralString, cast

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.database.connection import identifiers
from extensions.database.identifier_limits import LONGEST_NAME
from extensions.history.row_refusals import without_number
from extensions.history.table_copy import TableCopy
from extensions.sources import HistoryTable

_UNITS = {"month": "M", "day": "D"}
_LABELS = {"month": "%Y_%m", "day": "%Y_%m_%d"}

# What a table filled by itself would not have, or would check only when it becomes a partition:
# foreign and unique keys, identity columns, row triggers of the user's own, indexes of expressions.
_IS_PLAIN = """
SELECT EXISTS (
    SELECT FROM pg_partitioned_table WHERE partrelid = %(oid)s AND partdefid <> 0
) AND NOT EXISTS (
    SELECT FROM pg_constraint WHERE conrelid = %(oid)s AND contype IN ('f', 'u', 'p', 'x')
) AND NOT EXISTS (
    SELECT FROM pg_index
    WHERE indrelid = %(oid)s AND (indisunique OR indexprs IS NOT NULL OR indpred IS NOT NULL)
) AND NOT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = %(oid)s AND attidentity <> ''
) AND NOT EXISTS (
    SELECT FROM pg_trigger
    WHERE tgrelid = %(oid)s AND NOT tgisinternal AND tgname NOT LIKE 'skewless%%'
)
"""
_CREATE = sql.SQL(
    "CREATE TABLE {part} "
    "(LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED)"
)
_MOVE = sql.SQL(
    "WITH moved AS (DELETE FROM {waiting} WHERE {time} >= {begin} AND {time} < {end} "
    "RETURNING {columns}) INSERT INTO {part} ({columns}) SELECT {columns} FROM moved"
)
_ATTACH = sql.SQL(
    "ALTER TABLE {table} ATTACH PARTITION {part} FOR VALUES FROM ({begin}) TO ({end})"
)
# Whoever writes to a partition alone leaves notes as well.
_FOLLOW = "SELECT follow_partitions(%(oid)s::regclass, %(table)s, %(table)s)"


class TimePartitions:
    """One transaction's way into a history table.

    Partitions that do not exist yet are tables of their own until `attach`, at the end: readers
    see a new one with all of the transaction's rows, or not yet.
    """

    def __init__(self, conn: psycopg.Connection, table: HistoryTable) -> None:
        self._conn, self._table = conn, table
        self._new: dict[np.datetime64, bool] = {}
        self._relation = sql.Identifier(table.table).as_string(None)
        row = conn.execute(
            "SELECT oid, relkind = 'p' FROM pg_class WHERE oid = %s::regclass", [self._relation]
        ).fetchone()
        self._oid, partitioned = row or (None, False)
        self._unit = table.partition if partitioned else None
        self._apart = conn.execute(_IS_PLAIN, {"oid": self._oid}).fetchone() == (True,)
        self._copy = TableCopy(conn, table)

    def begin(self) -> None:
        """A transaction has begun."""
        self._new = {}

    def make_missing(self, rows: pa.RecordBatch) -> None:
        """Make the tables of the partitions of ``rows`` that are missing.

        Apart from `copy`, so that a savepoint that takes rows back does not take a table.
        """
        if self._unit is None:
            return
        for part in np.unique(self._parts(rows)):
            if not np.isnat(part) and part not in self._new:
                self._new[part] = self._make(part)

    def copy(self, rows: pa.RecordBatch) -> None:
        """COPY ``rows``, whose partitions were made, to where they belong."""
        rows = without_number(rows)
        if not any(self._new.values()):
            self._copy.copy(self._table.table, rows)
            return
        parts = self._parts(rows)
        old = np.isnat(parts)
        for part in np.unique(parts[~old]):
            chosen = parts == part
            if self._new[part]:
                self._copy.copy(self._name(part), rows.filter(pa.array(chosen)))
            else:
                old |= chosen
        if old.any():
            self._copy.copy(self._table.table, rows.filter(pa.array(old)))

    def attach(self) -> None:
        """Make the new tables partitions, which builds their indexes. The last step."""
        written = identifiers([column.name for column in self._table.written])
        for part in [part for part, is_new in self._new.items() if is_new]:
            names = {
                "table": sql.Identifier(self._table.table),
                "waiting": sql.SQL(self._waiting()),
                "part": sql.Identifier(self._name(part)),
                "time": sql.Identifier(self._table.time),
                "begin": sql.Literal(_text(part)),
                "end": sql.Literal(_text(part + 1)),
                "columns": written,
            }
            # Rows that waited in the default partition move to their own first.
            self._conn.execute(_MOVE.format(**names))
            self._conn.execute(_ATTACH.format(**names))
        if any(self._new.values()):
            self._conn.execute(_FOLLOW, {"oid": self._oid, "table": self._table.table})

    def _waiting(self) -> LiteralString:
        """The default partition, as SQL writes it."""
        query = "SELECT partdefid::regclass::text FROM pg_partitioned_table WHERE partrelid = %s"
        row = self._conn.execute(query, [self._oid]).fetchone()
        return cast("LiteralString", row[0] if row else "")

    def _make(self, part: np.datetime64) -> bool:
        if self._exists(part):
            return False
        if not self._apart or len(self._name(part).encode()) > LONGEST_NAME:
            self._conn.execute(
                "SELECT ensure_time_partitions(%s::regclass, %s, %s::timestamptz, %s::timestamptz)",
                [self._relation, self._unit, _text(part), _text(part)],
            )
            return False
        # The lock of ensure_time_partitions.
        self._conn.execute(
            "SELECT pg_advisory_xact_lock(hashtext(%s))",
            [f"ensure_time_partitions {self._table.table}"],
        )
        if self._exists(part):
            return False
        names = {
            "part": sql.Identifier(self._name(part)),
            "table": sql.Identifier(self._table.table),
        }
        self._conn.execute(_CREATE.format(**names))
        return True

    def _exists(self, part: np.datetime64) -> bool:
        relation = sql.Identifier(self._name(part)).as_string(None)
        query = "SELECT to_regclass(%s) IS NOT NULL"
        return self._conn.execute(query, [relation]).fetchone() == (True,)

    def _name(self, part: np.datetime64) -> str:
        label = part.astype("datetime64[s]").item().strftime(_LABELS[str(self._unit)])
        return f"{self._table.table}_{label}"

    def _parts(self, rows: pa.RecordBatch) -> npt.NDArray[np.datetime64]:
        times: npt.NDArray[Any] = (
            rows.column(self._table.time)
            .cast(pa.timestamp("us"))
            .to_numpy(zero_copy_only=False)
            .astype(f"datetime64[{_UNITS[str(self._unit)]}]")
        )
        return times


def _text(part: np.datetime64) -> str:
    return f"{part.astype('datetime64[D]')} 00:00:00+00"

"""COPY of Arrow rows into a table whose columns have any type."""

from collections.abc import Iterable

import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.database.binary_copy import COPIED, copy_batch
from extensions.database.connection import identifiers
from extensions.database.identifier_limits import bounded_name
from extensions.sources import HistoryTable

# A column that rows may have beside the table's own: their places in a batch.
ROW = "skewless_row"


class TableCopy:
    """A session's way to COPY rows of one history table into it, or into a table like it.

    Columns of types without a binary form here (uuid, numeric, jsonb, arrays, …) go as text into
    a temporary table, and are cast on their way out of it.
    """

    def __init__(self, conn: psycopg.Connection, table: HistoryTable) -> None:
        self._conn = conn
        self._types = {column.name: column.cast_type for column in table.written} | {ROW: "bigint"}
        self._passage = bounded_name(f"skewless_passage_{table.table}")
        if not self._are_copied(self._types):
            columns = [
                sql.SQL("{} {}").format(
                    sql.Identifier(name), sql.SQL(kind if kind in COPIED else "text")
                )
                for name, kind in self._types.items()
            ]
            conn.execute(
                sql.SQL("CREATE TEMP TABLE IF NOT EXISTS {} ({})").format(
                    sql.Identifier(self._passage), sql.SQL(", ").join(columns)
                )
            )

    def copy(self, target: str, rows: pa.RecordBatch) -> None:
        """COPY the rows' columns into those of the same names of ``target``.

        Raises:
            psycopg.Error: PostgreSQL refuses a row.
        """
        names = rows.schema.names
        if self._are_copied(names):
            copy_batch(self._conn, target, rows, names)
            return
        passage = sql.Identifier(self._passage)
        self._conn.execute(sql.SQL("TRUNCATE {}").format(passage))
        copy_batch(self._conn, self._passage, rows, names)
        self._conn.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(
                sql.Identifier(target),
                identifiers(names),
                sql.SQL(", ").join(
                    sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL(self._types[name]))
                    for name in names
                ),
                passage,
            )
        )

    def _are_copied(self, names: Iterable[str]) -> bool:
        return all(self._types[name] in COPIED for name in names)

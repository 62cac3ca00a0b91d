"""What the lake holds of a table: its columns, in which types, and which times order its rows."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.errors import DefinitionError
from extensions.sources import HistoryTable

_TIMES = pa.timestamp("us", "UTC")
# What PostgreSQL's types are in the lake, and as what they are selected. All else is its text, as
# PostgreSQL writes it, which casts back to the same value.
_TYPES: dict[str, tuple[pa.DataType, str]] = {
    "boolean": (pa.bool_(), "{}"),
    "smallint": (pa.int32(), "{}::integer"),
    "integer": (pa.int32(), "{}"),
    "bigint": (pa.int64(), "{}"),
    "real": (pa.float32(), "{}"),
    "double precision": (pa.float64(), "{}"),
    "text": (pa.string(), "{}"),
    "bytea": (pa.binary(), "{}"),
    "date": (pa.date32(), "{}"),
    "timestamp with time zone": (_TIMES, "{}"),
    "timestamp without time zone": (pa.timestamp("us"), "{}"),
}
_ELEMENTS = ("boolean", "integer", "bigint", "real", "double precision", "text")


@dataclass(frozen=True)
class LakeColumn:
    """A column: its type in the lake, the SQL that selects it as such, its type in PostgreSQL."""

    name: str
    type: pa.DataType
    expression: sql.Composable
    pg_type: str


@dataclass(frozen=True)
class LakeTable:
    """A log or a history, as the lake holds it.

    ``event`` and ``arrival``: the columns of the two times; the lake holds all rows whose arrival
    is not later than what its last export says. ``keys``: by which a file's rows are sorted.
    """

    name: str
    keys: tuple[str, ...]
    event: str
    arrival: str
    columns: tuple[LakeColumn, ...]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of its rows, in the order of ``columns``."""
        return pa.schema([(column.name, column.type) for column in self.columns])


def log_in_lake(conn: psycopg.Connection, computation: Computation) -> LakeTable:
    """The log of a view version."""
    return _table(
        conn,
        computation.log_table,
        computation.join_keys,
        "event_timestamp",
        "created_timestamp",
    )


def history_in_lake(conn: psycopg.Connection, table: HistoryTable) -> LakeTable:
    """A declared history table."""
    source = table.source
    return _table(conn, source.table, source.keys, source.time, source.arrival)


def _table(
    conn: psycopg.Connection, name: str, keys: Iterable[str], event: str, arrival: str
) -> LakeTable:
    rows = conn.execute(columns_sql(name)).fetchall()
    return described(name, keys, event, arrival, dict(rows))


def columns_sql(name: str) -> sql.Composed:
    """SQL of a table's columns and their types in PostgreSQL (``name``, ``pg_type``), in order."""
    return sql.SQL(
        "SELECT attname::text AS name, format_type(atttypid, NULL) AS pg_type FROM pg_attribute "
        "WHERE attrelid = to_regclass({}) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    ).format(sql.Literal(sql.Identifier(name).as_string(None)))


def described(
    name: str, keys: Iterable[str], event: str, arrival: str, types: Mapping[str, str]
) -> LakeTable:
    """A table with the given columns; ``types``: theirs in PostgreSQL, in order.

    Raises:
        DefinitionError: a time has another type than the lake orders rows by.
    """
    for time in (event, arrival):
        if types.get(time) != "timestamp with time zone":
            raise DefinitionError(
                f"{name} cannot be exported: its column {time} has the type {types.get(time)}, and "
                "the lake orders rows by times of the type timestamp with time zone."
            )
    columns = tuple(_column(column, pg_type) for column, pg_type in types.items())
    return LakeTable(name, tuple(keys), event, arrival, columns)


def _column(name: str, pg_type: str) -> LakeColumn:
    identifier = sql.Identifier(name)
    if pg_type in _TYPES:
        arrow, expression = _TYPES[pg_type]
        return LakeColumn(name, arrow, sql.SQL(expression).format(identifier), pg_type)
    element = re.fullmatch(r"(.+)\[\]", pg_type)
    if element and element[1] in _ELEMENTS:
        return LakeColumn(name, pa.list_(_TYPES[element[1]][0]), identifier, pg_type)
    return LakeColumn(name, pa.string(), sql.SQL("{}::text").format(identifier), pg_type)

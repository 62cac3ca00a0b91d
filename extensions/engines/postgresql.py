"""What another engine gets from PostgreSQL: history as Arrow, and PostgreSQL's own answers."""

import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof.computation import Computation, HistorySource
from extensions.asof.engine import answers
from extensions.asof.spine import Spine
from extensions.database.connection import identifiers
from extensions.errors import DefinitionError
from extensions.user_code_errors import user_sql

# Digits of Arrow's and DuckDB's widest decimal.
DIGITS = 38
_MODIFIER = b"POSTGRESQL:typmod"


def history_rows(
    conn: dbapi.Connection, source: HistorySource, condition: sql.Composable | None = None
) -> pa.Table:
    """Rows of a history table, all its columns, in types that DuckDB reads as the same.

    A numeric becomes a decimal of the column's scale, or of the longest fraction in it.

    Raises:
        DefinitionError: a numeric has more than 38 digits, or is no number.
    """
    query = sql.SQL("SELECT * FROM {}").format(sql.Identifier(source.table))
    if condition is not None:
        query = sql.SQL("{} WHERE {}").format(query, condition)
    return readable(fetched(conn, query), source.table)


def compute_as_logged(conn: dbapi.Connection, computation: Computation, spine: Spine) -> pa.Table:
    """As `extensions.asof.compute`, in the types that the log has.

    Raises:
        DefinitionError: the computation's SQL failed.
    """
    casts = [
        sql.SQL("{0}::{1} AS {0}").format(sql.Identifier(each.name), sql.SQL(each.pg_type))
        for each in computation.features
    ]
    with user_sql(computation.view, computation.version):
        return fetched(
            conn,
            sql.SQL("{} SELECT {}, as_of, {} FROM answered").format(
                answers(computation, spine),
                identifiers(computation.join_keys),
                sql.SQL(", ").join(casts),
            ),
        )


def fetched(conn: dbapi.Connection, query: sql.Composable) -> pa.Table:
    """The result of a query."""
    with conn.cursor() as cursor:
        cursor.execute(query.as_string(None))
        table: pa.Table = cursor.fetch_arrow_table()
    return table


def numeric_modifier(field: pa.Field) -> int | None:
    """The modifier of a column of numerics, -1 where they have none; None of another column."""
    if getattr(field.type, "type_name", None) != "numeric":
        return None
    return int((field.metadata or {}).get(_MODIFIER, b"-1"))


def readable(table: pa.Table, name: str) -> pa.Table:
    """The table with decimals for what the driver gives as the text of a numeric."""
    for place, field in enumerate(table.schema):
        if numeric_modifier(field) is not None:
            column = _decimals(table.column(place), field, f"{name}.{field.name}")
            table = table.set_column(place, field.name, column)
    return table


def _decimals(column: pa.ChunkedArray, field: pa.Field, what: str) -> pa.ChunkedArray:
    texts = pa.chunked_array([chunk.storage for chunk in column.chunks], pa.string())
    modifier = (numeric_modifier(field) or 0) - 4
    if modifier >= 0:
        kind = pa.decimal128(min(modifier >> 16 & 0xFFFF, DIGITS), modifier & 0x7FF)
    else:
        fractions = pc.utf8_length(pc.struct_field(_split(texts), "fraction"))
        kind = pa.decimal128(DIGITS, min(pc.max(fractions).as_py() or 0, DIGITS))
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid as error:
        raise DefinitionError(
            f"{what} holds a numeric that no decimal of {DIGITS} digits is equal to ({error})."
        ) from error


def _split(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.extract_regex(texts, r"^[^.]*\.?(?P<fraction>\d*)$")

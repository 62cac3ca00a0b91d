"""Run a query and read every column without loss, as declared or in its own type."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
from feast.types import FeastType
from psycopg import sql

from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.arrow.exact_column_reading import ColumnReader, column_readers
from extensions.stores.offline.arrow.source_column_types import column_types

_GUARD = "_skewless_guard_{}"


def read_exactly(
    session: ArrowSession,
    query: sql.Composable,
    declared: Mapping[str, FeastType] | None = None,
    keys: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """Stream the query's rows in tables of some megabytes; at least one, perhaps empty.

    Args:
        session: The transaction to read in.
        query: The query.
        declared: Feast types of columns, which are returned in that type's Arrow type. Others
            are returned as the driver gives them, or as text where it knows no type.
        keys: Which of the columns are join keys.

    Raises:
        SkewlessError: a value has no exact form, by its column's name.
    """
    declared = declared or {}
    names = session.rows(sql.SQL("SELECT * FROM ({}) AS q LIMIT 0").format(query)).schema.names
    if len(set(names)) < len(names):  # a join of the user's own, which cannot be asked by name
        yield from session.chunks(query)
        return
    [types] = column_types(session, [(f"({query.as_string(None)})", names)])
    columns = column_readers(types, declared, keys, strict=bool(declared))
    if any(not column.bare for column in columns):
        query = sql.SQL("SELECT {} FROM ({}) AS l").format(
            sql.SQL(", ").join(
                part for i, column in enumerate(columns) for part in _parts(i, column)
            ),
            query,
        )
    for chunk in session.chunks(query, list(declared)):
        yield _converted(chunk, columns)


def _parts(place: int, column: ColumnReader) -> Iterator[sql.Composable]:
    name = sql.Identifier("l", column.column)
    yield sql.SQL("{} AS {}").format(column.select_expression(name), sql.Identifier(column.column))
    if column.has_guard:
        yield sql.SQL("{} AS {}").format(column.guard(name), sql.Identifier(_GUARD.format(place)))


def _converted(chunk: pa.Table, columns: Sequence[ColumnReader]) -> pa.Table:
    arrays = [
        column.convert(chunk[column.column], chunk[_GUARD.format(i)] if column.has_guard else None)
        for i, column in enumerate(columns)
    ]
    return pa.Table.from_arrays(arrays, names=[column.column for column in columns])

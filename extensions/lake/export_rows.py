"""What is exported: PostgreSQL's rows of a table, streamed in the order of the lake's files."""

from collections.abc import Iterator
from datetime import datetime

import pyarrow as pa
from psycopg import sql

from extensions.database.adbc_connections import record_batches
from extensions.database.connection import connect_arrow, identifiers
from extensions.lake.lake_tables import LakeTable


def rows(
    url: str,
    table: LakeTable,
    since: datetime | None,
    through: datetime,
    *,
    event_from: datetime | None = None,
    event_before: datetime | None = None,
) -> Iterator[pa.RecordBatch]:
    """PostgreSQL's rows that arrived in ``(since, through]``, in order of (day, keys, times).

    ``event_from``, ``event_before``: of those, the ones with event times in this range.
    """
    arrival = sql.Identifier(table.arrival)
    conditions = [sql.SQL("{} <= {}").format(arrival, sql.Literal(through))]
    if since is not None:
        conditions.append(sql.SQL("{} > {}").format(arrival, sql.Literal(since)))
    for bound, comparison in ((event_from, "{} >= {}"), (event_before, "{} < {}")):
        if bound is not None:
            conditions.append(
                sql.SQL(comparison).format(sql.Identifier(table.event), sql.Literal(bound))
            )
    query = sql.SQL(
        "SELECT {columns} FROM {table} WHERE {conditions} "
        "ORDER BY date_trunc('day', {event}, 'UTC'), {keys}, {event}, {arrival}"
    ).format(
        columns=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(column.expression, sql.Identifier(column.name))
            for column in table.columns
        ),
        table=sql.Identifier(table.name),
        conditions=sql.SQL(" AND ").join(conditions),
        event=sql.Identifier(table.name, table.event),
        keys=identifiers(table.keys, table.name),
        arrival=sql.Identifier(table.name, table.arrival),
    )
    with connect_arrow(url) as conn, conn.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        cursor.execute(query.as_string(None))
        for batch in record_batches(cursor):
            yield batch.cast(table.schema)

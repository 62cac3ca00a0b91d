"""What the engine makes beside the declared tables: their ids and their partitions."""

from collections.abc import Iterable
from datetime import datetime

import psycopg
from psycopg import sql

from extensions.sources.history_table import HistoryTable


def ensure_id_tables(conn: psycopg.Connection, tables: Iterable[HistoryTable]) -> list[str]:
    """Make the tables that make ids unique, where they are missing; returns those made.

    PostgreSQL's unique indexes on a partitioned table must contain the partition key; a table of
    ids makes a row unique by its id alone, in every partition. Rows that are there already are
    taken in; of equal ids among them the earliest counts.
    """
    made = []
    for table in tables:
        if table.id is None:
            continue
        name = sql.Identifier(table.id_table).as_string(None)
        known = conn.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone()
        if known == (True,):
            continue
        column = table.by_name[table.id]
        text = column.pg_type in ("text", "character varying", "character")
        conn.execute(
            sql.SQL(
                "CREATE TABLE {ids} ({id} {kind} PRIMARY KEY, {time} timestamptz NOT NULL)"
            ).format(
                ids=sql.Identifier(table.id_table),
                id=sql.Identifier(table.id),
                kind=sql.SQL(column.cast_type + (' COLLATE "C"' if text else "")),
                time=sql.Identifier(table.time),
            )
        )
        conn.execute(
            sql.SQL(
                "INSERT INTO {ids} SELECT {id}, min({time}) FROM {table} WHERE {id} IS NOT NULL "
                "GROUP BY {id}"
            ).format(
                ids=sql.Identifier(table.id_table),
                id=sql.Identifier(table.id),
                time=sql.Identifier(table.time),
                table=sql.Identifier(table.table),
            )
        )
        made.append(table.id_table)
    return made


def ensure_partitions(
    conn: psycopg.Connection, table: HistoryTable, first: datetime, last: datetime
) -> None:
    """Make the partitions of a table with the tag ``partition`` that cover ``[first, last]``."""
    if table.partition is not None:
        conn.execute(
            "SELECT ensure_time_partitions(to_regclass(%s), %s, %s, %s)",
            [sql.Identifier(table.table).as_string(None), table.partition, first, last],
        )

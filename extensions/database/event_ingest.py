"""The ingest locks: every transaction that stores rows of a history table holds its, shared."""

import psycopg
from psycopg import sql

# What a transaction holds that stores rows, before it reads the clock; the safe time
# (extensions.asof.safe_time) is computed from the holders. This one stands for every table.
INGEST_LOCK = 7_305_808_071_010_213
# The first of the two numbers of a table's own lock; the second is the table's oid. A transaction
# that holds one of these stores rows of these tables only. Migration 0020 has both numbers.
TABLE_LOCKS = 730_580_807


def take_ingest_lock(conn: psycopg.Connection, table: str) -> None:
    """Mark this transaction as one that stores rows of ``table``, until it ends.

    Raises:
        psycopg.errors.UndefinedTable: there is no such table.
    """
    conn.execute(
        "SELECT hold_ingest_lock_of(%s::regclass)", [sql.Identifier(table).as_string(None)]
    )

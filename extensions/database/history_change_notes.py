"""Records of changed history, written by bulk loaders; migration 0009 has the table.

Separate from `extensions.asof.history_changes`, which reads them, so a loader need not import
Feast.
"""

from datetime import datetime

import psycopg


def note_insert(conn: psycopg.Connection, table: str, claimed_from: datetime) -> None:
    """Record rows that the caller's transaction inserted with the triggers off.

    The caller holds the ingest lock and has said ``SET LOCAL skewless.noted = 'on'``.
    """
    conn.execute(
        "INSERT INTO history_changes (source_table, operation, claimed_from) "
        "VALUES (%s, 'insert', %s)",
        [table, claimed_from],
    )


def live_since(conn: psycopg.Connection) -> datetime | None:
    """Since when this store has computed and served live values; None: not yet."""
    row = conn.execute("SELECT min(live_from) FROM watermarks").fetchone()
    return row[0] if row else None

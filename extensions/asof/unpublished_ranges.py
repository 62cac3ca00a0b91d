"""Unpublished rows: what was logged behind the published watermark and is not online yet.

A backfill may append rows older than the watermark up to which the log is online; nothing that
looks ahead of the watermark would ever publish them. So it notes their range in its own
transaction, and whoever publishes the view deletes the notes that it has read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg

from extensions.asof.computation import Computation


@dataclass(frozen=True)
class UnpublishedRange:
    """Rows of ``[start, end]``, both inclusive, may be missing online."""

    id: int
    start: datetime
    end: datetime


def note_unpublished(
    conn: psycopg.Connection, computation: Computation, start: datetime, end: datetime
) -> None:
    """Note, in the caller's transaction, that it has logged rows of ``[start, end]``."""
    conn.execute(
        "INSERT INTO unpublished_rows (view_name, version, range_start, range_end) "
        "VALUES (%s, %s, %s, %s)",
        [computation.view, computation.version, start, end],
    )


def unpublished(conn: psycopg.Connection, computation: Computation) -> list[UnpublishedRange]:
    """The ranges that are noted and not published yet."""
    rows = conn.execute(
        "SELECT id, range_start, range_end FROM unpublished_rows "
        "WHERE view_name = %s AND version = %s",
        [computation.view, computation.version],
    ).fetchall()
    return [UnpublishedRange(*row) for row in rows]


def forget_unpublished(conn: psycopg.Connection, ranges: Sequence[UnpublishedRange]) -> None:
    """Delete these notes: their rows are online. Notes that came since stay."""
    conn.execute("DELETE FROM unpublished_rows WHERE id = ANY(%s)", [[r.id for r in ranges]])

"""Unpublished ranges: rows logged behind the published watermark that are not online yet.

A backfill may append rows older than the published watermark, which a publisher that looks only
ahead of the watermark would never see. So it records their range in its own transaction, and the
next publish of the view writes those rows and deletes the records.
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
    """Record, in the caller's transaction, that it logged rows of ``[start, end]``."""
    conn.execute(
        "INSERT INTO unpublished_rows (view_name, version, range_start, range_end) "
        "VALUES (%s, %s, %s, %s)",
        [computation.view, computation.version, start, end],
    )


def unpublished(conn: psycopg.Connection, computation: Computation) -> list[UnpublishedRange]:
    """The recorded ranges that are not published yet."""
    rows = conn.execute(
        "SELECT id, range_start, range_end FROM unpublished_rows "
        "WHERE view_name = %s AND version = %s",
        [computation.view, computation.version],
    ).fetchall()
    return [UnpublishedRange(*row) for row in rows]


def forget_unpublished(conn: psycopg.Connection, ranges: Sequence[UnpublishedRange]) -> None:
    """Delete the records of published ranges; those recorded since are kept."""
    conn.execute("DELETE FROM unpublished_rows WHERE id = ANY(%s)", [[r.id for r in ranges]])

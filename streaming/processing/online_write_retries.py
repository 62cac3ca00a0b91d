"""Rows that are in a log and that the online store refused: remembered until they are online.

A view's own fault (its schema and its registered version disagree, say) must not stop the stream.
But its watermark must not pass rows that nobody can read either, and a restart must not forget
them. So a step that met a refusal writes it down before any watermark moves; the sweep tries
again, and holds the view's watermark until it succeeds.
"""

from datetime import datetime

import psycopg

from extensions.asof import Computation
from streaming.processing.online_writer import Publisher
from streaming.processing.realtime_views import LiveView


def note_refused(conn: psycopg.Connection, computation: Computation, moment: datetime) -> None:
    """Rows of the log as of ``moment`` are not online."""
    conn.execute(
        "INSERT INTO stream_refusals AS r (view_name, version, since) VALUES (%s, %s, %s) "
        "ON CONFLICT (view_name, version) DO UPDATE SET "
        "since = least(r.since, excluded.since), refusals = r.refusals + 1",
        [computation.view, computation.version, moment],
    )


def publish_refused(conn: psycopg.Connection, view: LiveView, publisher: Publisher) -> int:
    """Publish what was refused, and forget the refusal; returns the rows that Redis took.

    ``conn`` must be in autocommit. A refusal noted meanwhile stays for the next time.

    Raises:
        SkewlessError: the rows are refused again; everything stays as it was.
    """
    version = [view.computation.view, view.computation.version]
    row = conn.execute(
        "SELECT since, refusals FROM stream_refusals WHERE view_name = %s AND version = %s",
        version,
    ).fetchone()
    if row is None:
        return 0
    since, refusals = row
    written = publisher.publish_logged(view, since)
    conn.execute(
        "DELETE FROM stream_refusals WHERE view_name = %s AND version = %s AND refusals = %s",
        [*version, refusals],
    )
    return written

"""Watermarks of view versions, and the lock that allows one worker per view at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg

from extensions.asof.computation import Computation
from extensions.database.advisory_locks import session_lock
from extensions.errors import ConflictError


@dataclass(frozen=True)
class Watermark:
    """``processed_through``: the log is complete up to here; ``published_through``: Redis too.

    ``live_from``: the first time that was computed live; None if there were only backfills.
    """

    live_from: datetime | None
    processed_through: datetime
    published_through: datetime | None


def read_watermark(conn: psycopg.Connection, computation: Computation) -> Watermark | None:
    """The view version's watermark; None before its first tick or backfill."""
    row = conn.execute(
        "SELECT live_from, processed_through, published_through FROM watermarks "
        "WHERE view_name = %s AND version = %s",
        [computation.view, computation.version],
    ).fetchone()
    return Watermark(*row) if row else None


def advance_processed(
    conn: psycopg.Connection, computation: Computation, to: datetime, *, live: bool = True
) -> None:
    """Record, in the caller's transaction, that the log holds every change up to ``to``."""
    conn.execute(
        "INSERT INTO watermarks AS w (view_name, version, live_from, processed_through) "
        "VALUES (%(view)s, %(version)s, CASE WHEN %(live)s THEN %(to)s::timestamptz END, %(to)s) "
        "ON CONFLICT (view_name, version) DO UPDATE SET "
        "live_from = coalesce(w.live_from, excluded.live_from), "
        "processed_through = greatest(w.processed_through, excluded.processed_through), "
        "updated_at = clock_timestamp()",
        {"view": computation.view, "version": computation.version, "to": to, "live": live},
    )


# How long a tick or a backfill waits for the lock of its view.
PATIENCE_SECONDS = 10.0


def advance_published(conn: psycopg.Connection, computation: Computation, to: datetime) -> None:
    """Record that every row of the log up to ``to`` can be read online."""
    conn.execute(
        "UPDATE watermarks SET published_through = greatest(published_through, %s), "
        "updated_at = clock_timestamp() WHERE view_name = %s AND version = %s",
        [to, computation.view, computation.version],
    )


@contextmanager
def alone_on(
    conn: psycopg.Connection, computation: Computation, *, patience: float = 0.0
) -> Iterator[None]:
    """Hold the lock of a view version (a session-level advisory lock) in a ``with`` block.

    ``patience``: seconds to wait for the current holder; a sweep holds it only briefly.

    Raises:
        ConflictError: another session holds it.
    """

    def refusal() -> ConflictError:
        return ConflictError(
            f"Another refresh or backfill of {computation.name} is running: wait for it, or end it."
        )

    with session_lock(conn, f"skewless refresh {computation.name}", refusal, patience=patience):
        yield

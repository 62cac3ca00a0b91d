"""How far each view version has come, and the lock that keeps two workers off one view."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg

from extensions.asof.computation import Computation
from extensions.errors import SkewlessError


@dataclass(frozen=True)
class Watermark:
    """``processed_through``: the log is complete up to here; ``published_through``: Redis too."""

    live_from: datetime
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


def advance_processed(conn: psycopg.Connection, computation: Computation, to: datetime) -> None:
    """Record, in the caller's transaction, that the log holds every change up to ``to``."""
    conn.execute(
        "INSERT INTO watermarks AS w (view_name, version, live_from, processed_through) "
        "VALUES (%(view)s, %(version)s, %(to)s, %(to)s) "
        "ON CONFLICT (view_name, version) DO UPDATE SET "
        "processed_through = greatest(w.processed_through, excluded.processed_through), "
        "updated_at = clock_timestamp()",
        {"view": computation.view, "version": computation.version, "to": to},
    )


def advance_published(conn: psycopg.Connection, computation: Computation, to: datetime) -> None:
    """Record that every row of the log up to ``to`` can be read online."""
    conn.execute(
        "UPDATE watermarks SET published_through = greatest(published_through, %s), "
        "updated_at = clock_timestamp() WHERE view_name = %s AND version = %s",
        [to, computation.view, computation.version],
    )


@contextmanager
def alone_on(conn: psycopg.Connection, computation: Computation) -> Iterator[None]:
    """Hold the view version for this session; never two at once.

    Raises:
        SkewlessError: another session holds it.
    """
    key = f"skewless refresh {computation.name}"
    row = conn.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [key]).fetchone()
    if not (row and row[0]):
        raise SkewlessError(
            f"Another refresh or backfill of {computation.name} is running: wait for it, "
            "or look for it with `skewless doctor`."
        )
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [key])

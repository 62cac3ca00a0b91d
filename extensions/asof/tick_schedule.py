"""The tick schedule: ticks lie on whole periods since the Unix epoch, the same for all views."""

from datetime import UTC, datetime

import psycopg

from extensions.asof.computation import Computation
from extensions.asof.history_changes import changes_of
from extensions.asof.watermarks import read_watermark

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def last_tick(computation: Computation, at: datetime) -> datetime | None:
    """The latest tick at or before ``at``; None for a view that follows its events."""
    period = computation.freshness.period
    return None if period is None else at - (at - EPOCH) % period


def due_tick(
    conn: psycopg.Connection, computation: Computation, settled: datetime
) -> datetime | None:
    """The tick that was due by the safe time ``settled`` and has not run; None if there is none.

    A view that was never computed is due at once, and so is one whose history changed behind its
    watermark, since it serves wrong values until then. Otherwise the stream updates realtime views.
    """
    mark = read_watermark(conn, computation)
    tick = last_tick(computation, settled)
    if mark is None:
        return tick or settled
    if mark.live_from is not None and changes_of(
        conn, computation, mark.processed_through, settled
    ):
        return settled
    if tick is None or tick <= mark.processed_through:
        return None
    return tick

"""When a view is due: ticks lie on whole periods since the Unix epoch, the same for everyone."""

from datetime import UTC, datetime

import psycopg

from extensions.asof.computation import Computation
from extensions.asof.watermarks import read_watermark

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def last_tick(computation: Computation, at: datetime) -> datetime | None:
    """The latest tick at or before ``at``; None for a view that follows its events."""
    period = computation.freshness.period
    return None if period is None else at - (at - EPOCH) % period


def due_tick(
    conn: psycopg.Connection, computation: Computation, settled: datetime
) -> datetime | None:
    """The tick that should have run by ``settled`` and has not; None when nothing is due.

    A view that was never computed is due at once; a realtime view is the stream's otherwise.
    """
    mark = read_watermark(conn, computation)
    tick = last_tick(computation, settled)
    if mark is None:
        return tick or settled
    if tick is None or tick <= mark.processed_through:
        return None
    return tick

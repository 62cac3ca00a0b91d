"""When a view is due: ticks lie on whole periods since the Unix epoch, the same for everyone."""

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
    """The tick that should have run by ``settled`` and has not; None when nothing is due.

    A view that was never computed is due at once, and so is one whose history was changed behind
    its watermark: what is served is wrong until then. A realtime view is the stream's otherwise.
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

"""The backfill: the log that would exist had the store run in the past."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg

from extensions.asof.clock import settled_now
from extensions.asof.computation import Computation
from extensions.asof.engine import log
from extensions.asof.schedule import last_tick
from extensions.asof.spine import active, changes
from extensions.asof.watermarks import advance_processed, alone_on, read_watermark
from extensions.errors import SkewlessError

# One transaction per chunk: what an interruption costs at most, and the step of the bar.
CHUNK = timedelta(days=1)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Backfill:
    """What a backfill did. ``end`` is earlier than asked for where live rows begin."""

    view: str
    version: int
    start: datetime
    end: datetime
    rows: int
    resumed_from: datetime | None


def backfill(
    conn: psycopg.Connection,
    computation: Computation,
    start: datetime,
    end: datetime,
    *,
    progress: Progress | None = None,
) -> Backfill:
    """Append every row that the view would have logged in ``(start, end]``, and its state at start.

    Values that were really logged are never overlaid: the range ends where the view went live.
    The same range, interrupted, goes on after its last whole chunk; done, it is a no-op.
    ``progress(done, total)`` counts chunks. ``conn`` must be in autocommit.

    Raises:
        SkewlessError: an empty range, or another worker is on this view.
    """
    if start >= end:
        raise SkewlessError("A backfill needs --from earlier than --to.")
    with alone_on(conn, computation):
        end = min(end, settled_now(conn))
        mark = read_watermark(conn, computation)
        if mark is not None:
            end = min(end, mark.live_from)
        if start >= end:
            return Backfill(computation.view, computation.version, start, start, 0, None)
        done = _resume(conn, computation, start, end)
        resumed_from = done if done > start else None
        total = -(-(end - start) // CHUNK)
        rows = 0
        if resumed_from is None:
            rows += _append(conn, computation, start, end, start)
        while done < end:
            through = min(done + CHUNK, end)
            rows += _append(conn, computation, done, end, through, first=start)
            done = through
            if progress:
                progress(total - -(-(end - done) // CHUNK), total)
        return Backfill(computation.view, computation.version, start, end, rows, resumed_from)


def _append(
    conn: psycopg.Connection,
    computation: Computation,
    after: datetime,
    end: datetime,
    through: datetime,
    first: datetime | None = None,
) -> int:
    """One chunk and the note that it is done, in one transaction; an empty one is the state."""
    spine = (
        active(computation, through) if after == through else changes(computation, after, through)
    )
    with conn.transaction():
        rows = log(conn, computation, spine, as_it_happened=True)
        conn.execute(
            "INSERT INTO backfills (view_name, version, range_start, range_end, done_through) "
            "VALUES (%(view)s, %(version)s, %(start)s, %(end)s, %(done)s) "
            "ON CONFLICT (view_name, version, range_start, range_end) DO UPDATE SET "
            "done_through = excluded.done_through, updated_at = clock_timestamp()",
            {
                "view": computation.view,
                "version": computation.version,
                "start": first or after,
                "end": end,
                "done": through,
            },
        )
        if through == end and read_watermark(conn, computation) is None:
            # The next tick goes on from here instead of computing everyone again.
            # What changed after the last whole tick is not in the log yet.
            complete = max(first or after, last_tick(computation, end) or end)
            advance_processed(conn, computation, complete)
    return rows


def _resume(
    conn: psycopg.Connection, computation: Computation, start: datetime, end: datetime
) -> datetime:
    row = conn.execute(
        "SELECT done_through FROM backfills WHERE view_name = %s AND version = %s "
        "AND range_start = %s AND range_end = %s",
        [computation.view, computation.version, start, end],
    ).fetchone()
    return row[0] if row else start

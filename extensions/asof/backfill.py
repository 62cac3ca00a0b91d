"""The backfill: the log that would exist had the store run in the past."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.engine import append
from extensions.asof.safe_time import settled_now
from extensions.asof.spine import active, changes
from extensions.asof.tick_schedule import last_tick
from extensions.asof.unpublished_ranges import note_unpublished
from extensions.asof.watermarks import (
    PATIENCE_SECONDS,
    advance_processed,
    alone_on,
    read_watermark,
)
from extensions.database.identifier_limits import BACKFILLED
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
    again: bool = False,
    progress: Progress | None = None,
) -> Backfill:
    """Append every row that the view would have logged in ``(start, end]``, and its state at start.

    Values that were really logged are never overlaid: the range ends where the view went live.
    The same range, interrupted, goes on after its last whole chunk; done, it is a no-op, unless
    ``again`` (history was imported since) replaces what backfills wrote there before.
    ``progress(done, total)`` counts chunks. ``conn`` must be in autocommit. The view is held for
    one chunk at a time, so that ticks and sweeps go on meanwhile.

    Raises:
        SkewlessError: an empty range, or another worker stays on this view.
    """
    if start >= end:
        raise SkewlessError("A backfill needs --from earlier than --to.")
    end = min(end, settled_now(conn))
    done = None if again else _resume(conn, computation, start, end)
    resumed_from, rows = done, 0
    total = max(1, -(-(end - start) // CHUNK))
    while done is None or done < end:
        with alone_on(conn, computation, patience=PATIENCE_SECONDS):
            mark = read_watermark(conn, computation)
            if mark is not None and mark.live_from is not None and mark.live_from < end:
                end = mark.live_from
                continue
            if start >= end:
                break
            through = start if done is None else min(done + CHUNK, end)
            after = start if done is None else done
            rows += _append(conn, computation, start, end, after, through, again=again)
        done = through
        if progress:
            progress(total - -(-(end - done) // CHUNK), total)
    return Backfill(
        computation.view, computation.version, start, max(start, end), rows, resumed_from
    )


def _append(
    conn: psycopg.Connection,
    computation: Computation,
    start: datetime,
    end: datetime,
    after: datetime,
    through: datetime,
    *,
    again: bool,
) -> int:
    """One chunk and the note that it is done, in one transaction; an empty one is the state."""
    if after == through:
        spine = active(computation, through)
    else:
        spine = changes(computation, after, through)
    with conn.transaction():
        if again:
            _forget(conn, computation, after, through)
        rows = append(conn, computation, spine, as_it_happened=True)
        if rows:
            note_unpublished(conn, computation, after, through)
        conn.execute(
            "INSERT INTO backfills (view_name, version, range_start, range_end, done_through) "
            "VALUES (%(view)s, %(version)s, %(start)s, %(end)s, %(done)s) "
            "ON CONFLICT (view_name, version, range_start, range_end) DO UPDATE SET "
            "done_through = excluded.done_through, updated_at = clock_timestamp()",
            {
                "view": computation.view,
                "version": computation.version,
                "start": start,
                "end": end,
                "done": through,
            },
        )
        if through == end:
            # The next tick goes on from here instead of computing everyone again. What changed
            # after the last whole tick is not in the log yet.
            complete = max(start, last_tick(computation, end) or end)
            advance_processed(conn, computation, complete, live=False)
    return rows


def _forget(
    conn: psycopg.Connection, computation: Computation, after: datetime, through: datetime
) -> None:
    """Delete what backfills wrote in ``(after, through]``, or at ``through`` if they are equal."""
    conn.execute(
        sql.SQL(
            "DELETE FROM {} WHERE {} AND event_timestamp <= %(through)s "
            "AND (event_timestamp > %(after)s OR event_timestamp = %(through)s)"
        ).format(sql.Identifier(computation.log_table), sql.Identifier(BACKFILLED)),
        {"after": after, "through": through},
    )


def _resume(
    conn: psycopg.Connection, computation: Computation, start: datetime, end: datetime
) -> datetime | None:
    """How far a backfill of this range has come; its end may have been cut since."""
    row = conn.execute(
        "SELECT max(least(done_through, %(end)s)) FROM backfills WHERE view_name = %(view)s "
        "AND version = %(version)s AND range_start = %(start)s",
        {
            "view": computation.view,
            "version": computation.version,
            "start": start,
            "end": end,
        },
    ).fetchone()
    return row[0] if row else None

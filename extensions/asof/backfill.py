"""The backfill: appends the rows that the log would hold had the store run in the past."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.engine import append
from extensions.asof.log_coverage import coverage
from extensions.asof.safe_time import settled_now
from extensions.asof.spine import active
from extensions.asof.spine_changes import changes
from extensions.asof.tick_schedule import last_tick
from extensions.asof.unpublished_ranges import note_unpublished
from extensions.asof.watermarks import (
    PATIENCE_SECONDS,
    advance_processed,
    alone_on,
    read_watermark,
)
from extensions.database.identifier_limits import BACKFILLED
from extensions.errors import InputError

# One transaction per chunk: an interruption loses at most one; progress is counted in chunks.
CHUNK = timedelta(days=1)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Backfill:
    """The result of a backfill. ``end`` is earlier than requested where live rows begin."""

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
    """Append every row that the view would have logged in ``(start, end]``, and the state at start.

    Live rows are never replaced: the range ends where the view went live. An interrupted backfill
    of the same range resumes after its last complete chunk; a finished one is a no-op. Rows that
    a backfill wrote before history changed are replaced, from the earliest arrival that the
    change claims; with ``again`` all rows that backfills wrote in the range are.
    ``progress(done, total)`` counts chunks. ``conn`` must be in autocommit. The view is held for
    one chunk at a time, so that ticks and sweeps go on meanwhile.

    Raises:
        InputError: an empty range.
        ConflictError: another worker stays on this view.
    """
    if start >= end:
        raise InputError("A backfill needs --from earlier than --to.")
    began = settled_now(conn)
    end = min(end, began)
    fresh_through = _fresh_through(conn, computation, start)
    done = None if again else _resume(conn, computation, start, end)
    if done is not None and fresh_through is not None and fresh_through < done:
        done = fresh_through if fresh_through > start else None
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
            replace = again or (fresh_through is not None and through > fresh_through)
            rows += _append(
                conn, computation, start, end, after, through, replace=replace, began=began
            )
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
    replace: bool,
    began: datetime,
) -> int:
    """Append one chunk and record it as done in one transaction; an empty range is the state."""
    if after == through:
        spine = active(computation, through)
    else:
        spine = changes(computation, after, through)
    with conn.transaction():
        if replace:
            _forget(conn, computation, after, through)
        rows = append(conn, computation, spine, as_it_happened=True)
        if rows:
            note_unpublished(conn, computation, after, through)
        conn.execute(
            "INSERT INTO backfills AS b (view_name, version, range_start, range_end, "
            "done_through, filled_through, started_at, sources) VALUES (%(view)s, %(version)s, "
            "%(start)s, %(end)s, %(done)s, %(done)s, %(began)s, %(sources)s) "
            "ON CONFLICT (view_name, version, range_start, range_end) DO UPDATE SET "
            "done_through = excluded.done_through, updated_at = clock_timestamp(), "
            "filled_through = greatest(coalesce(b.filled_through, b.done_through), %(done)s), "
            "sources = excluded.sources, started_at = CASE WHEN %(replace)s "
            "THEN excluded.started_at ELSE b.started_at END",
            {
                "view": computation.view,
                "version": computation.version,
                "start": start,
                "end": end,
                "done": through,
                "began": began,
                "sources": sorted({source.table for source in computation.reads}),
                "replace": replace,
            },
        )
        if through == end:
            # The next tick continues from here instead of computing every entity. Changes after
            # the last whole tick are not in the log yet.
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


def _fresh_through(
    conn: psycopg.Connection, computation: Computation, start: datetime
) -> datetime | None:
    """Where the first range behind ``start`` begins whose rows are stale; None: there is none."""
    known = coverage(conn, computation)
    stale = (gap.start for gap in known.gaps if known.is_stale(gap) and gap.end > start)
    return next(stale, None)


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

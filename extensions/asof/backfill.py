"""The backfill: appends the rows that the log would hold had the store run in the past."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from extensions.asof import backfill_refusals
from extensions.asof.backfill_chunks import (
    DAY,
    BackfillEngine,
    Chunk,
    ChunkTooLargeError,
    PostgreSQLChunks,
    Slice,
    append_or_refuse,
    discard_others,
    forget_chunks,
    in_bucket,
    note_buckets,
    note_chunk,
    unfinished_slice,
)
from extensions.asof.computation import Computation
from extensions.asof.failpoints import Fault
from extensions.asof.log_coverage import coverage
from extensions.asof.log_cuts import require_hot
from extensions.asof.log_partitions import analyze_grown
from extensions.asof.safe_time import settled_now
from extensions.asof.spine_changes import touched
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
from extensions.failpoints import point

# Progress is counted in days, however the chunks are cut.
CHUNK = DAY
# How often the chunks of a slice are cut that are too large for an engine's memory.
MOST_HALVINGS = 8

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Backfill:
    """The result of a backfill. ``end`` is earlier than requested where live rows begin.

    ``engine``: what computed it. ``refused``: entities that lack values in the range, since these
    could not be computed.
    """

    view: str
    version: int
    start: datetime
    end: datetime
    rows: int
    resumed_from: datetime | None
    engine: str
    refused: int = 0


def backfill(
    conn: psycopg.Connection,
    computation: Computation,
    start: datetime,
    end: datetime,
    *,
    again: bool = False,
    progress: Progress | None = None,
    engine: BackfillEngine | None = None,
) -> Backfill:
    """Append every row that the view would have logged in ``(start, end]``, and the state at start.

    Live rows are never replaced: the range ends where the view went live. An interrupted backfill
    of the same range resumes after its last complete chunk; a finished one is a no-op. Rows that
    a backfill wrote before history changed are replaced, from the earliest arrival that the
    change claims; with ``again`` all rows that backfills wrote in the range are.
    ``progress(done, total)`` counts days. ``conn`` must be in autocommit. The view is held for
    one chunk at a time, so that ticks and sweeps go on meanwhile. An entity whose values of a
    chunk cannot be computed is left out of that chunk (`extensions.asof.backfill_refusals`).
    ``engine`` computes the chunks and chooses their size; PostgreSQL if left.

    Raises:
        InputError: an empty range.
        ColdRowsError: the range begins before the log's cut.
        ConflictError: another worker stays on this view.
    """
    if start >= end:
        raise InputError("A backfill needs --from earlier than --to.")
    require_hot(conn, computation.log_table, start, "A backfill")
    began = settled_now(conn, computation.tables)
    end = min(end, began)
    fresh_through = _fresh_through(conn, computation, start)
    done = None if again else _resume(conn, computation, start, end)
    if done is not None and fresh_through is not None and fresh_through < done:
        done = fresh_through if fresh_through > start else None
    run = _Run(conn, computation, engine or PostgreSQLChunks(computation), start, end, began)
    run.again, run.fresh_through, run.done = again, fresh_through, done
    run.finish(progress)
    if run.rows:
        analyze_grown(conn, computation.log_table)
    end = max(start, run.end)
    refused = backfill_refusals.count(conn, computation, start, end)
    return Backfill(
        computation.view, computation.version, start, end, run.rows, done, run.engine.name, refused
    )


@dataclass
class _Run:
    """A backfill that is under way; ``done``: up to here all of it is in the log."""

    conn: psycopg.Connection
    computation: Computation
    engine: BackfillEngine
    start: datetime
    end: datetime
    began: datetime
    again: bool = False
    fresh_through: datetime | None = None
    redo_through: datetime | None = None
    done: datetime | None = None
    rows: int = 0
    too_large: int = 0

    def finish(self, progress: Progress | None) -> None:
        """Append what is left, chunk by chunk."""
        if self.done is not None and self.done >= self.end:
            return
        at = None
        if not self.again:
            at = unfinished_slice(self.conn, self.computation, self.start, self.done, self.end)
        self.redo_through = discard_others(self.conn, self.computation, self.start, at)
        if self.start < self.end:
            self.engine.begin(self.done or self.start, self.end)
        total = max(1, -(-(self.end - self.start) // CHUNK))
        while self.done is None or self.done < self.end:
            with alone_on(self.conn, self.computation, patience=PATIENCE_SECONDS):
                mark = read_watermark(self.conn, self.computation)
                live_from = None if mark is None else mark.live_from
                if live_from is not None and live_from < self.end:
                    self.end = live_from
                    self._give_up(at)
                    at = None
                    continue
                if self.start >= self.end:
                    break
                at = self._step(at or self._next(), live_from)
            if progress:
                progress(total if self.done == self.end else int(self._days(at)), total)

    def _next(self) -> Slice:
        if self.done is None:
            _, buckets = self.engine.cut(self.start, self.start)
            return Slice(self.start, self.start, buckets, self.began)
        through, buckets = self.engine.cut(self.done, self.end)
        return Slice(self.done, through, buckets, self.began)

    def _step(self, at: Slice, live_from: datetime | None) -> Slice | None:
        """Append one chunk; returns the slice if it is not whole yet."""
        chunk = at.next
        replace = (
            self.again
            or (self.fresh_through is not None and chunk.through > self.fresh_through)
            or (self.redo_through is not None and chunk.after < self.redo_through)
            or (chunk.is_state and self.redo_through is not None)
        )
        try:
            self.rows += self._append(at, chunk, replace=replace)
        except ChunkTooLargeError:
            self.too_large += 1
            if self.too_large > MOST_HALVINGS:
                raise
            self.engine.shrink()
            if not at.done and not at.is_state:
                return None
            finer = at.halved()
            with self.conn.transaction():
                forget_chunks(self.conn, self.computation, self.start, at.through)
                note_buckets(self.conn, self.computation, self.start, finer, finer.done)
            return finer
        point(Fault.CHUNK_COMMITTED)
        if not at.is_last:
            return at.with_done(chunk.bucket)
        self.done, self.too_large = at.through, 0
        if self.done == self.end == live_from:
            self.rows += _close(self.conn, self.computation, self.end)
        return None

    def _append(self, at: Slice, chunk: Chunk, *, replace: bool) -> int:
        """Append one chunk and record it as done in one transaction."""
        conn, computation = self.conn, self.computation
        with conn.transaction():
            if replace:
                _forget(conn, computation, chunk)
            if not at.done:
                # What was left out of the slice before; its chunks record that anew.
                backfill_refusals.forget(conn, computation, chunk.after, chunk.through)
            rows = self.engine.append(conn, chunk)
            # It has the log locked by now, which may have been cut since the backfill began.
            require_hot(conn, computation.log_table, chunk.after, "A backfill")
            point(Fault.CHUNK_APPENDED)
            if rows:
                note_unpublished(conn, computation, chunk.after, chunk.through)
            if at.is_last:
                self._note_done(at, replace=replace)
            else:
                note_chunk(conn, computation, self.start, at, chunk.bucket)
        return rows

    def _note_done(self, at: Slice, *, replace: bool) -> None:
        self.conn.execute(
            "INSERT INTO backfills AS b (view_name, version, range_start, range_end, "
            "done_through, filled_through, started_at, sources, engine) VALUES (%(view)s, "
            "%(version)s, %(start)s, %(end)s, %(done)s, %(done)s, %(began)s, %(sources)s, "
            "%(engine)s) "
            "ON CONFLICT (view_name, version, range_start, range_end) DO UPDATE SET "
            "done_through = excluded.done_through, updated_at = clock_timestamp(), "
            "filled_through = greatest(coalesce(b.filled_through, b.done_through), %(done)s), "
            "sources = excluded.sources, engine = excluded.engine, started_at = CASE "
            "WHEN %(replace)s THEN excluded.started_at ELSE b.started_at END",
            {
                "view": self.computation.view,
                "version": self.computation.version,
                "start": self.start,
                "end": self.end,
                "done": at.through,
                "began": at.began,
                "sources": sorted({source.table for source in self.computation.reads}),
                "replace": replace,
                "engine": self.engine.name,
            },
        )
        forget_chunks(self.conn, self.computation, self.start, at.through)
        if at.through == self.end:
            # The next tick continues from here instead of computing every entity. Changes after
            # the last whole tick are not in the log yet.
            complete = max(self.start, last_tick(self.computation, self.end) or self.end)
            advance_processed(self.conn, self.computation, complete, live=False)

    def _give_up(self, at: Slice | None) -> None:
        """The range ends earlier: of a slice that reaches beyond, nothing is kept."""
        if at is None or at.through <= self.end:
            return
        with self.conn.transaction():
            _forget(self.conn, self.computation, Chunk(self.end, at.through))
            discard_others(self.conn, self.computation, self.start, None)
        self.redo_through = at.through

    def _days(self, at: Slice | None) -> float:
        """Days of the range that are in the log, a slice by its share of buckets."""
        done = (self.done or self.start) - self.start
        share = len(at.done) / at.buckets * (at.through - at.after) if at else done * 0
        return (done + share) / CHUNK


def _close(conn: psycopg.Connection, computation: Computation, live_from: datetime) -> int:
    """Append what changed between the last whole tick and the first live one, as of the latter.

    The first live tick computed active entities, and those in the log at that time. An entity whose
    rows left the window just before is neither, and no later tick would find it.
    """
    after = last_tick(computation, live_from)
    if after is None or after >= live_from:
        return 0
    with conn.transaction():
        spine = touched(computation, after, live_from)
        rows = append_or_refuse(conn, computation, spine)
        if rows:
            note_unpublished(conn, computation, after, live_from)
    return rows


def _forget(conn: psycopg.Connection, computation: Computation, chunk: Chunk) -> None:
    """Delete what backfills wrote of a chunk."""
    conn.execute(
        sql.SQL(
            "DELETE FROM {} WHERE {} AND event_timestamp <= %(through)s "
            "AND (event_timestamp > %(after)s OR event_timestamp = %(through)s) AND {}"
        ).format(
            sql.Identifier(computation.log_table),
            sql.Identifier(BACKFILLED),
            in_bucket(computation, chunk),
        ),
        {"after": chunk.after, "through": chunk.through},
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

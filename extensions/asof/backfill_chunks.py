"""Chunks of a backfill: cut by time and by a hash of the join keys, each a transaction of its own.

Any cut gives the same rows as the whole, since a computation answers each row of a spine by itself.
Which chunks of a slice are in the log is recorded (`backfill_chunks`), so that a backfill that was
killed goes on with the chunk that it was at, in whichever engine.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import psycopg
from psycopg import sql

from extensions.asof import backfill_refusals
from extensions.asof.computation import Computation
from extensions.asof.engine import append
from extensions.asof.refused_entities import Refusal, without_refused
from extensions.asof.spine import Spine, active
from extensions.asof.spine_changes import changes
from extensions.errors import UnavailableError

# PostgreSQL computes a day at a time: an interruption loses at most that.
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Chunk:
    """The rows of ``(after, through]``, or the state at ``through`` if they are equal.

    ``bucket``: of the entities those whose hash leaves this remainder of ``buckets``.
    """

    after: datetime
    through: datetime
    bucket: int = 0
    buckets: int = 1

    @property
    def is_state(self) -> bool:
        """Whether it is every active entity at one time."""
        return self.after == self.through


@dataclass(frozen=True)
class Slice:
    """A range of time that is cut into ``buckets`` chunks.

    Attributes:
        done: Buckets that are in the log.
        began: The safe time after which the history of the first of them was read.
    """

    after: datetime
    through: datetime
    buckets: int
    began: datetime
    done: frozenset[int] = frozenset()

    @property
    def is_state(self) -> bool:
        """Whether it is every active entity at one time."""
        return self.after == self.through

    @property
    def next(self) -> Chunk:
        """The first chunk that is not done."""
        bucket = next(each for each in range(self.buckets) if each not in self.done)
        return Chunk(self.after, self.through, bucket, self.buckets)

    @property
    def is_last(self) -> bool:
        """Whether one chunk only is not done."""
        return len(self.done) == self.buckets - 1

    def with_done(self, bucket: int) -> "Slice":
        """The slice when one chunk more is done."""
        return replace(self, done=self.done | {bucket})

    def halved(self) -> "Slice":
        """The slice in twice as many buckets: each is two of them."""
        both = self.done | {each + self.buckets for each in self.done}
        return replace(self, buckets=2 * self.buckets, done=both)


class ChunkTooLargeError(UnavailableError):
    """An engine's memory does not suffice for a chunk; smaller ones may do."""


class BackfillEngine(Protocol):
    """What computes the chunks of a backfill, and appends them by `extensions.asof.engine`."""

    @property
    def name(self) -> str:
        """As in ``postgresql``; recorded with the range."""

    def begin(self, after: datetime, end: datetime) -> None:
        """Called once, before the first chunk: the range that is left to do."""

    def cut(self, after: datetime, end: datetime) -> tuple[datetime, int]:
        """Where the slice behind ``after`` ends, at ``end`` or before, and its buckets.

        ``after`` equal to ``end``: the state at that time.
        """

    def append(self, conn: psycopg.Connection, chunk: Chunk) -> int:
        """Compute a chunk and append it in the caller's transaction; returns rows appended.

        Raises:
            ChunkTooLargeError: the memory does not suffice.
        """

    def shrink(self) -> None:
        """Make what `cut` gives smaller: the last chunk was too large."""


@dataclass(frozen=True)
class PostgreSQLChunks:
    """PostgreSQL as the engine of a backfill: a day at a time."""

    computation: Computation
    name: str = field(default="postgresql", init=False)

    def begin(self, after: datetime, end: datetime) -> None:
        """Do nothing: the history is where it is."""

    def cut(self, after: datetime, end: datetime) -> tuple[datetime, int]:
        """The next day, whole."""
        return min(after + DAY, end), 1

    def append(self, conn: psycopg.Connection, chunk: Chunk) -> int:
        """Compute and append in one statement, but for entities that fail."""
        return append_or_refuse(conn, self.computation, spine_of(self.computation, chunk))

    def shrink(self) -> None:
        """Never called: it does not refuse a chunk for its size."""


def append_or_refuse(conn: psycopg.Connection, computation: Computation, spine: Spine) -> int:
    """Append the values of a spine by PostgreSQL; record which entities fail."""
    refused: list[Refusal] = []

    def take(part: Spine) -> int:
        return append(conn, computation, part, as_it_happened=True)

    rows = sum(without_refused(conn, computation, spine, take, refused=refused))
    backfill_refusals.record(conn, computation, refused)
    return rows


def whole_spine(computation: Computation, chunk: Chunk) -> Spine:
    """What a chunk asks, of the entities of all buckets."""
    if chunk.is_state:
        return active(computation, chunk.through)
    return changes(computation, chunk.after, chunk.through)


def spine_of(computation: Computation, chunk: Chunk) -> Spine:
    """What a chunk asks."""
    spine = whole_spine(computation, chunk)
    if chunk.buckets == 1:
        return spine
    return Spine(
        sql.SQL("SELECT * FROM ({}) AS whole WHERE {}").format(
            spine.query, in_bucket(computation, chunk)
        )
    )


def hash_of(computation: Computation) -> sql.Composable:
    """SQL of the hash of a row's join keys, not negative: PostgreSQL's own for partitions."""
    keys = sql.SQL(", ").join(
        sql.SQL('{}::text COLLATE "C"' if kind == "text" else f"{{}}::{kind}").format(
            sql.Identifier(key)
        )
        for key, kind in zip(computation.join_keys, computation.key_types, strict=True)
    )
    return sql.SQL("(hash_record_extended(ROW({}), 0) & 9223372036854775807)").format(keys)


def in_bucket(computation: Computation, chunk: Chunk) -> sql.Composable:
    """Condition: a row's entity belongs to the chunk."""
    if chunk.buckets == 1:
        return sql.SQL("TRUE")
    return sql.SQL("mod({}, {}) = {}").format(
        hash_of(computation), sql.Literal(chunk.buckets), sql.Literal(chunk.bucket)
    )


def unfinished_slice(
    conn: psycopg.Connection,
    computation: Computation,
    start: datetime,
    after: datetime | None,
    end: datetime,
) -> Slice | None:
    """The slice that a backfill from ``start`` was at when it ended; None: none that still counts.

    Args:
        conn: Any.
        computation: The view.
        start: Where the range begins.
        after: Up to where all of it is in the log; None: not even the state at ``start`` is.
        end: Where the range ends by now.
    """
    rows = conn.execute(
        "SELECT c.after_at, c.through_at, c.buckets, min(c.began), array_agg(c.bucket) "
        "FROM backfill_chunks AS c WHERE c.view_name = %s AND c.version = %s "
        "AND c.range_start = %s AND NOT c.stale AND c.after_at = %s AND c.through_at <= %s "
        "AND (c.after_at = c.through_at) = %s GROUP BY 1, 2, 3 HAVING NOT EXISTS (SELECT FROM "
        "history_changes AS h WHERE h.source_table = ANY(%s) AND h.changed_at > min(c.began) "
        "AND coalesce(h.claimed_from, '-infinity') <= c.through_at) "
        "ORDER BY count(*) DESC LIMIT 1",
        [
            computation.view, computation.version, start, start if after is None else after, end,
            after is None, list(computation.tables),
        ],
    ).fetchall()  # fmt: skip
    for after_at, through_at, buckets, began, done in rows:
        return Slice(after_at, through_at, buckets, began, frozenset(done))
    return None


def discard_others(
    conn: psycopg.Connection, computation: Computation, start: datetime, kept: Slice | None
) -> datetime | None:
    """Mark what was recorded of other slices as stale; returns up to where rows are replaced."""
    wanted = (None, None, None) if kept is None else (kept.after, kept.through, kept.buckets)
    row = conn.execute(
        "WITH marked AS (UPDATE backfill_chunks SET stale = TRUE WHERE view_name = %s "
        "AND version = %s AND range_start = %s AND (after_at, through_at, buckets) "
        "IS DISTINCT FROM (%s::timestamptz, %s::timestamptz, %s::integer) RETURNING through_at) "
        "SELECT max(through_at) FROM marked",
        [computation.view, computation.version, start, *wanted],
    ).fetchone()
    return row[0] if row else None


def note_chunk(
    conn: psycopg.Connection, computation: Computation, start: datetime, at: Slice, bucket: int
) -> None:
    """Record, in the caller's transaction, that one bucket of a slice is in the log."""
    note_buckets(conn, computation, start, at, [bucket])


def note_buckets(
    conn: psycopg.Connection,
    computation: Computation,
    start: datetime,
    at: Slice,
    buckets: Collection[int],
) -> None:
    """Record that some buckets of a slice are in the log."""
    conn.execute(
        "INSERT INTO backfill_chunks AS c (view_name, version, range_start, after_at, through_at, "
        "buckets, bucket, began) SELECT %s, %s, %s, %s, %s, %s, b, %s FROM unnest(%s::integer[]) "
        "AS u (b) ON CONFLICT (view_name, version, range_start, after_at, through_at, buckets, "
        "bucket) DO UPDATE SET stale = FALSE, began = excluded.began, done_at = clock_timestamp()",
        [
            computation.view, computation.version, start, at.after, at.through, at.buckets,
            at.began, list(buckets),
        ],
    )  # fmt: skip


def forget_chunks(
    conn: psycopg.Connection, computation: Computation, start: datetime, through: datetime
) -> None:
    """Delete, in the caller's transaction, the records of slices that are whole by now."""
    conn.execute(
        "DELETE FROM backfill_chunks WHERE view_name = %s AND version = %s AND range_start = %s "
        "AND through_at <= %s",
        [computation.view, computation.version, start, through],
    )

"""The stream's position in PostgreSQL: read on assignment, moved with the events, fenced.

Whoever moves a partition's offset names the offset that it believes to be the next one. A worker
that has lost the partition to another one, and does not know it yet, is found out by that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from streaming.settings import Settings


@dataclass(frozen=True)
class Position:
    """Where a partition stands; ``pending`` bounds the arrivals whose values may be missing."""

    partition: int
    next_offset: int
    incarnation: int
    topic_id: str | None
    pending: tuple[datetime, datetime] | None


@dataclass(frozen=True)
class Progress:
    """One partition, moved from ``expected`` to ``next_offset`` by a step or an idle check.

    ``processed_through``: everything produced by then is online; None where unknown.
    """

    partition: int
    expected: int
    next_offset: int
    processed_through: datetime | None = None
    end_offset: int | None = None


class FencedError(Exception):
    """Another worker has moved or computed a partition that this one took for its own."""


@dataclass(frozen=True)
class Claim:
    """That so many partitions are pending, and this worker's to compute.

    ``query`` returns a row for each that still is, and locks it: whoever computes a partition in
    this worker's stead (`mark_processed`) does so before the query's transaction, or after it.
    """

    query: sql.Composable
    partitions: int


NO_CLAIM = Claim(sql.SQL("SELECT WHERE FALSE"), 0)


def claim(settings: Settings, next_offsets: Mapping[int, int]) -> Claim:
    """The claim to partitions whose events are stored up to these offsets and not computed."""
    query = sql.SQL(
        "SELECT FROM stream_offsets AS o "
        "INNER JOIN unnest({partitions}::int[], {next}::bigint[]) "
        "AS u (kafka_partition, next_offset) USING (kafka_partition, next_offset) "
        "WHERE o.consumer_group = {group} AND o.topic = {topic} "
        "AND o.stored_through > o.computed_through FOR SHARE OF o"
    ).format(
        partitions=sql.Literal(list(next_offsets)),
        next=sql.Literal(list(next_offsets.values())),
        group=sql.Literal(settings.group),
        topic=sql.Literal(settings.topic),
    )
    return Claim(query, len(next_offsets))


_LONGEST_STEP = timedelta(seconds=3)
_STREAM = "consumer_group = %(group)s AND topic = %(topic)s"


def read_position(conn: psycopg.Connection, settings: Settings, partition: int) -> Position | None:
    """The partition's position; None when it was never read."""
    row = conn.execute(
        "SELECT next_offset, incarnation, topic_id, computed_through, stored_through "
        f"FROM stream_offsets WHERE {_STREAM} AND kafka_partition = %(partition)s",
        {"group": settings.group, "topic": settings.topic, "partition": partition},
    ).fetchone()
    if row is None:
        return None
    next_offset, incarnation, topic_id, computed, stored = row
    pending = (computed, stored) if stored is not None and stored > computed else None
    return Position(partition, next_offset, incarnation, topic_id, pending)


def begin(
    conn: psycopg.Connection, settings: Settings, partition: int, offset: int, topic_id: str | None
) -> None:
    """Record a partition that is read for the first time; one that exists is left alone."""
    conn.execute(
        "INSERT INTO stream_offsets "
        "(consumer_group, topic, kafka_partition, next_offset, topic_id) "
        "VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        [settings.group, settings.topic, partition, offset, topic_id],
    )


def restart(
    conn: psycopg.Connection, settings: Settings, old: Position, offset: int, topic_id: str | None
) -> None:
    """Go on elsewhere, by the operator's policy; a new topic of the name is a new incarnation."""
    conn.execute(
        "UPDATE stream_offsets SET next_offset = %(offset)s, topic_id = %(topic_id)s, "
        "incarnation = incarnation + %(more)s, end_offset = NULL, updated_at = clock_timestamp() "
        f"WHERE {_STREAM} AND kafka_partition = %(partition)s AND next_offset = %(expected)s",
        {
            "group": settings.group,
            "topic": settings.topic,
            "partition": old.partition,
            "expected": old.next_offset,
            "offset": offset,
            "topic_id": topic_id,
            "more": int(topic_id != old.topic_id),
        },
    )


def move(conn: psycopg.Connection, settings: Settings, moves: Iterable[Progress]) -> None:
    """Move offsets in the transaction that stores the events.

    Raises:
        FencedError: a partition is not where this worker left it; the transaction must end.
    """
    ordered = sorted(moves, key=lambda move: move.partition)
    moved = conn.execute(
        "UPDATE stream_offsets AS o SET next_offset = u.next_offset, "
        "stored_through = clock_timestamp(), updated_at = clock_timestamp(), "
        # Nothing was pending: what is pending from here on arrived since this transaction began.
        "computed_through = CASE WHEN o.stored_through > o.computed_through "
        "THEN o.computed_through ELSE greatest(o.computed_through, now()) END "
        "FROM unnest(%(partitions)s::int[], %(expected)s::bigint[], %(next)s::bigint[]) "
        f"AS u (kafka_partition, expected, next_offset) WHERE {_STREAM} "
        "AND o.kafka_partition = u.kafka_partition AND o.next_offset = u.expected",
        {
            "group": settings.group,
            "topic": settings.topic,
            "partitions": [move.partition for move in ordered],
            "expected": [move.expected for move in ordered],
            "next": [move.next_offset for move in ordered],
        },
    ).rowcount
    if moved != len(ordered):
        raise FencedError


def mark_processed(
    conn: psycopg.Connection,
    settings: Settings,
    progress: Iterable[Progress],
    computed_through: datetime | None = None,
) -> None:
    """Advance the watermarks of partitions that are still where this worker left them.

    With ``computed_through``, whatever a step left pending is settled too. Watermarks never go
    back. A partition that another worker has moved on is left to that worker.
    """
    ordered = sorted(progress, key=lambda each: each.partition)
    conn.execute(
        "UPDATE stream_offsets AS o SET next_offset = u.next_offset, "
        "processed_through = greatest(o.processed_through, u.processed_through), "
        "end_offset = coalesce(u.end_offset, o.end_offset), "
        "computed_through = greatest(o.computed_through, %(computed)s::timestamptz), "
        "updated_at = clock_timestamp() "
        "FROM unnest(%(partitions)s::int[], %(expected)s::bigint[], %(next)s::bigint[], "
        "%(processed)s::timestamptz[], %(end)s::bigint[]) "
        "AS u (kafka_partition, expected, next_offset, processed_through, end_offset) "
        f"WHERE {_STREAM} AND o.kafka_partition = u.kafka_partition AND o.next_offset = u.expected",
        {
            "group": settings.group,
            "topic": settings.topic,
            "computed": computed_through,
            "partitions": [each.partition for each in ordered],
            "expected": [each.expected for each in ordered],
            "next": [each.next_offset for each in ordered],
            "processed": [each.processed_through for each in ordered],
            "end": [each.end_offset for each in ordered],
        },
    )


def under_way_since(
    conn: psycopg.Connection, streams: Sequence[tuple[str, str]]
) -> datetime | None:
    """A moment before the arrival of all that steps of ``streams`` (group, topic) compute now.

    A step that has been at it for longer than `_LONGEST_STEP` does not count: its worker may be
    gone. None where no step is under way.
    """
    row = conn.execute(
        "SELECT min(o.computed_through) FROM stream_offsets AS o "
        "INNER JOIN unnest(%s::text[], %s::text[]) AS s (consumer_group, topic) "
        "USING (consumer_group, topic) "
        "WHERE o.stored_through > o.computed_through "
        "AND o.stored_through > clock_timestamp() - %s",
        [[group for group, _ in streams], [topic for _, topic in streams], _LONGEST_STEP],
    ).fetchone()
    return row[0] if row else None


def stream_watermark(
    conn: psycopg.Connection, streams: Sequence[tuple[str, str]]
) -> datetime | None:
    """The least watermark of all partitions of ``streams`` (group, topic).

    None while a partition has none, or no partition of one of the streams was read yet.
    """
    row = conn.execute(
        "SELECT CASE WHEN bool_and(o.processed_through IS NOT NULL) "
        "THEN min(o.processed_through) END "
        "FROM unnest(%s::text[], %s::text[]) AS s (consumer_group, topic) "
        "LEFT JOIN stream_offsets AS o USING (consumer_group, topic)",
        [[group for group, _ in streams], [topic for _, topic in streams]],
    ).fetchone()
    return row[0] if row else None


def positions(conn: psycopg.Connection, settings: Settings) -> Mapping[int, int]:
    """Next offset by partition."""
    rows = conn.execute(
        f"SELECT kafka_partition, next_offset FROM stream_offsets WHERE {_STREAM}",
        {"group": settings.group, "topic": settings.topic},
    ).fetchall()
    return dict(rows)

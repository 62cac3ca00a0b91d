"""Stopped partitions: the batch that cannot be read is recorded, and an operator may skip it.

One batch that the client cannot take apart stops its partition and no other one: what lies behind
it is not read before somebody has decided, since skipping loses what the batch held.
"""

import re
from dataclasses import dataclass

import psycopg

from extensions.database import connect
from extensions.errors import InputError
from streaming.kafka.bounded_decompression import UnreadableBatchError
from streaming.settings import Settings


@dataclass(frozen=True)
class Skipped:
    """Records that were left out: offsets ``first_offset`` to ``last_offset`` of a partition."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    cause: str
    why: str


def record_stop(conn: psycopg.Connection, settings: Settings, error: UnreadableBatchError) -> None:
    """Note where a partition stands still, and why; the same stop again changes nothing."""
    conn.execute(
        "INSERT INTO stream_stops AS s "
        "(consumer_group, topic, kafka_partition, first_offset, last_offset, cause) "
        "VALUES (%s, %s, %s, %s, %s, %s) "
        "ON CONFLICT (consumer_group, topic, kafka_partition, first_offset) DO UPDATE "
        "SET last_offset = excluded.last_offset, cause = excluded.cause, "
        "stopped_at = CASE WHEN s.skipped_at IS NULL THEN s.stopped_at ELSE clock_timestamp() END, "
        "skipped_at = NULL, why = NULL",
        [
            *(settings.group, settings.topic, error.partition.partition),
            *(error.offset, error.last_offset, error.why),
        ],
    )


def skip(settings: Settings, position: str, why: str) -> Skipped:
    """Let a stopped partition go on behind the batch at ``position`` (topic/partition/offset).

    The worker that has the partition goes on within about a second. ``why`` is kept with it.

    Raises:
        InputError: exit code 2, when no partition is stopped there, or ``why`` is empty.
    """
    parts = re.fullmatch(r"(.+)/([0-9]{1,9})/([0-9]{1,18})", position)
    if parts is None:
        raise InputError(
            f"Give the stop as TOPIC/PARTITION/OFFSET, as `skewless status` shows it, not "
            f"{position!r}.",
        )
    if not why.strip():
        raise InputError("Say with --why what is known of the records left out.")
    topic, partition, offset = parts.group(1), int(parts.group(2)), int(parts.group(3))
    with connect(settings.postgres_url, name="skewless stream skip") as conn:
        row = conn.execute(
            "UPDATE stream_stops SET skipped_at = clock_timestamp(), why = %s "
            "WHERE consumer_group = %s AND topic = %s AND kafka_partition = %s "
            "AND first_offset = %s AND skipped_at IS NULL RETURNING last_offset, cause",
            [why, settings.group, topic, partition, offset],
        ).fetchone()
        moved = row and conn.execute(
            "UPDATE stream_offsets SET next_offset = %s, updated_at = clock_timestamp() "
            "WHERE consumer_group = %s AND topic = %s AND kafka_partition = %s "
            "AND next_offset = %s",
            [row[0] + 1, settings.group, topic, partition, offset],
        )
        if not row or not moved or moved.rowcount != 1:
            # Leaving the block by an error undoes what was noted.
            raise InputError(
                f"The group {settings.group} is not stopped at {position}: `skewless status` "
                "shows where partitions stand still.",
            )
    return Skipped(topic, partition, offset, row[0], row[1], why)

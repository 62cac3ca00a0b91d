"""How the stream stands: partitions, workers and views, read from PostgreSQL alone."""

from dataclasses import dataclass, replace
from datetime import datetime

from psycopg.rows import class_row

from extensions.database import connect
from extensions.database.refused_of_views import RefusedOfView, refused_of_views
from streaming.settings import Settings


@dataclass(frozen=True)
class PartitionStatus:
    """One partition; ``lag_records`` as of the worker's last look, ``behind_seconds`` as of now.

    ``stopped``: why it stands still at ``next_offset``; None where it is read.
    """

    partition: int
    next_offset: int
    end_offset: int | None
    lag_records: int | None
    processed_through: datetime | None
    behind_seconds: float | None
    stopped: str | None = None


@dataclass(frozen=True)
class WorkerStatus:
    """One worker since its start; freshness is from the record's time until Redis had it."""

    worker: str
    partitions: list[int]
    seconds_since_seen: float
    events: int
    duplicates: int
    dead_letters: int
    steps: int
    records_per_step: float | None
    retries: int
    freshness_p50_ms: float | None
    freshness_p99_ms: float | None


@dataclass(frozen=True)
class ViewStatus:
    """One realtime view: everything produced by ``processed_through`` can be read."""

    view: str
    version: int
    processed_through: datetime
    behind_seconds: float


@dataclass(frozen=True)
class Status:
    """The stream of one topic and consumer group.

    ``views``, and ``refused`` (what view versions go on without), are those of all streams.
    """

    topic: str
    group: str
    partitions: list[PartitionStatus]
    workers: list[WorkerStatus]
    views: list[ViewStatus]
    refused: list[RefusedOfView]


_BEHIND = "extract(epoch FROM clock_timestamp() - {})::double precision"
_PARTITIONS = (
    "SELECT o.kafka_partition AS partition, next_offset, end_offset, "
    "greatest(end_offset - next_offset, 0) AS lag_records, processed_through, "
    + _BEHIND.format("processed_through")
    + " AS behind_seconds, s.cause AS stopped FROM stream_offsets AS o LEFT JOIN stream_stops AS s "
    "ON s.consumer_group = o.consumer_group AND s.topic = o.topic "
    "AND s.kafka_partition = o.kafka_partition AND s.first_offset = o.next_offset "
    "AND s.skipped_at IS NULL "
    "WHERE o.consumer_group = %s AND o.topic = %s ORDER BY o.kafka_partition"
)
_WORKERS = (
    "SELECT worker, partitions, "
    + _BEHIND.format("seen_at")
    + " AS seconds_since_seen, events, duplicates, dead_letters, steps, "
    "round((events + duplicates + dead_letters) / nullif(steps, 0)::numeric, 1)::float8 "
    "AS records_per_step, retries, "
    "freshness_p50_ms, freshness_p99_ms FROM stream_workers "
    "WHERE consumer_group = %s AND topic = %s ORDER BY worker"
)
_VIEWS = (
    "SELECT w.view_name AS view, w.version, w.processed_through, "
    + _BEHIND.format("w.processed_through")
    + " AS behind_seconds FROM watermarks AS w INNER JOIN stream_sweeps USING (view_name, version) "
    "ORDER BY w.view_name, w.version"
)


def known_streams(settings: Settings) -> list[Settings]:
    """Settings of each stream that a worker has read; of those that ``settings`` names, if any.

    Raises:
        SkewlessError: PostgreSQL does not answer.
    """
    with connect(settings.postgres_url, name="skewless status") as conn:
        rows = conn.execute(
            "SELECT topic, consumer_group FROM stream_offsets UNION "
            "SELECT topic, consumer_group FROM stream_workers ORDER BY 1, 2"
        ).fetchall()
    return [
        replace(settings, topic=topic, group=group)
        for topic, group in rows
        if settings.topic in ("", topic) and settings.group in ("", group)
    ]


def status(settings: Settings) -> Status:
    """What `skewless status` shows.

    Raises:
        SkewlessError: PostgreSQL does not answer.
    """
    stream = [settings.group, settings.topic]
    with connect(settings.postgres_url, name="skewless status") as conn:
        return Status(
            topic=settings.topic,
            group=settings.group,
            partitions=conn.cursor(row_factory=class_row(PartitionStatus))
            .execute(_PARTITIONS, stream)
            .fetchall(),
            workers=conn.cursor(row_factory=class_row(WorkerStatus))
            .execute(_WORKERS, stream)
            .fetchall(),
            views=conn.cursor(row_factory=class_row(ViewStatus)).execute(_VIEWS).fetchall(),
            refused=refused_of_views(conn),
        )

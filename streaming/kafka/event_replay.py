"""Replay: recorded or stored events into the topic once more, at a chosen rate."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

import orjson
from kafka import KafkaProducer

from extensions.database import connect
from extensions.errors import InputError
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings

_SLICE_SECONDS = 0.05
_SEND_SECONDS = 60.0


@dataclass(frozen=True)
class Replayed:
    """Messages that the broker has acknowledged, and the seconds they took."""

    messages: int
    seconds: float


@dataclass(frozen=True)
class _Outgoing:
    key: bytes | None
    value: bytes


def replay(
    settings: Settings,
    source: Path | datetime,
    *,
    until: datetime | None = None,
    rate: float | None = None,
) -> Replayed:
    """Produce events at ``rate`` a second (None: as fast as the broker takes them).

    ``source`` is a file of JSON lines in the published shape, sent byte for byte, or a moment:
    the stored events that happened from then (up to ``until``), with their ids. Ids that are
    stored already are not stored again, but their entities' values are computed and published
    anew, which is what reprocessing is for. Events are keyed by user.

    Raises:
        SkewlessError: the file cannot be read, or a server does not answer.
    """
    ensure_topics(settings)
    outgoing = _recorded(source) if isinstance(source, Path) else _stored(settings, source, until)
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        linger_ms=5,
        batch_size=128 * 1024,
    )
    began = time.monotonic()
    sent = 0
    try:
        size = 1_000 if rate is None else max(1, int(rate * _SLICE_SECONDS))
        while part := list(islice(outgoing, size)):
            futures = [
                producer.send(settings.topic, key=each.key, value=each.value) for each in part
            ]
            if rate is None:
                sent += len(part)
            else:
                for future in futures:
                    future.get(timeout=_SEND_SECONDS)
                sent += len(part)
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        producer.flush(timeout=_SEND_SECONDS)
    finally:
        producer.close(timeout=5)
    return Replayed(sent, time.monotonic() - began)


def _recorded(path: Path) -> Iterator[_Outgoing]:
    try:
        lines = path.open("rb")
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    with lines:
        for line in lines:
            if value := line.rstrip(b"\r\n"):
                yield _Outgoing(_key(value), value)


def _key(value: bytes) -> bytes | None:
    """The user, so that one user's events stay in order; a line that has none is spread."""
    try:
        user = orjson.loads(value)["userId"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None
    return str(user).encode()


def _stored(settings: Settings, since: datetime, until: datetime | None) -> Iterator[_Outgoing]:
    with (
        connect(settings.postgres_url, name="skewless replay") as conn,
        conn.cursor("replay") as cursor,
    ):
        cursor.itersize = 10_000
        cursor.execute(
            "SELECT event_id, user_id, item_id, watched_at, duration_ms, progress "
            "FROM watch_events WHERE watched_at >= %s "
            "AND watched_at < coalesce(%s::timestamptz, 'infinity') "
            "ORDER BY watched_at, event_id",
            [since, until],
        )
        yield from encoded(cursor)


def encoded(rows: Iterable[tuple[str, int, int, datetime, int, float]]) -> Iterator[_Outgoing]:
    """Rows (event id, user, item, watched at, milliseconds, progress) in the published shape."""
    for event_id, user, item, watched_at, duration_ms, progress in rows:
        message = {
            "eventId": event_id,
            "userId": user,
            "itemId": item,
            "watchedAt": watched_at.isoformat(),
            "watchDurationMin": duration_ms / 60_000,
            "progress": progress,
        }
        yield _Outgoing(str(user).encode(), orjson.dumps(message))

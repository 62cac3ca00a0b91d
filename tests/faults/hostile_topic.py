"""A topic full of hostile messages: who sends them, where each landed, what became of each."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

from extensions.database import connect
from streaming.kafka import dead_letters
from streaming.kafka.bounded_decompression import MAX_HEADER_BYTES, MAX_KEY_BYTES
from streaming.processing.realtime_views import LiveView
from streaming.settings import Settings
from tests.faults.hostile_messages import CODECS, NULL, Hostile
from tests.streaming.truth import Keys, Stream

# What a letter keeps whole, see `streaming.kafka.dead_letters`.
WHOLE_BYTES = 900 << 10
DAMAGES = ("checksum", "gzip", "snappy", "lz4", "zstd", "codec 5", "count", "length")


@dataclass
class Landed:
    """What the broker has taken: each message by its place, and what it did not take."""

    at: dict[tuple[int, int], Hostile] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def events(self) -> dict[tuple[int, int], Hostile]:
        return {place: one for place, one in self.at.items() if one.is_event}

    @property
    def no_events(self) -> dict[tuple[int, int], Hostile]:
        return {place: one for place, one in self.at.items() if not one.is_event}


def send(settings: Settings, made: Sequence[Hostile], landed: Landed) -> None:
    """Send all, by producers of every codec, over all partitions; note where each landed."""
    with _nulls_in_headers():
        producers = {
            codec: KafkaProducer(
                bootstrap_servers=settings.kafka_bootstrap,
                compression_type=codec,
                linger_ms=10,
                batch_size=256 << 10,
                max_request_size=64 << 20,
            )
            for codec in CODECS
        }
        try:
            for begin in range(0, len(made), 5_000):
                _send(settings, made[begin : begin + 5_000], producers, landed, begin)
        finally:
            for producer in producers.values():
                producer.close()


def _send(
    settings: Settings,
    made: Sequence[Hostile],
    producers: dict[str | None, KafkaProducer],
    landed: Landed,
    first: int,
) -> None:
    futures = []
    for number, one in enumerate(made, first):
        codec = CODECS[number % len(CODECS)]
        if one.packs and codec is None:
            codec = "zstd"
        future = producers[codec].send(
            settings.topic,
            key=one.key,
            value=one.value,
            headers=list(one.headers),
            partition=number % settings.partitions,
            timestamp_ms=one.timestamp_ms,
        )
        futures.append((one, future))
    for producer in producers.values():
        producer.flush(timeout=120)
    for one, future in futures:
        try:
            place = future.get(timeout=60)
        except KafkaError as error:
            landed.refused[type(error).__name__] += 1
        else:
            landed.at[place.partition, place.offset] = one


@contextmanager
def _nulls_in_headers() -> Iterator[None]:
    """The client sends no null in a header; other producers do."""
    append = DefaultRecordBatchBuilder.append

    def with_nulls(self: Any, *arguments: Any, **named: Any) -> Any:
        *first, headers = arguments
        nulls = [(name, None if value == NULL else value) for name, value in headers]
        return append(self, *first, nulls, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultRecordBatchBuilder, "append", with_nulls)
        yield


def send_damaged(settings: Settings, partition: int) -> dict[int, str]:
    """Batches that nobody can take apart; returns those that the broker took, by first offset."""
    taken: dict[int, str] = {}
    for damage in DAMAGES:
        with _damaged(damage):
            producer = KafkaProducer(
                bootstrap_servers=settings.kafka_bootstrap, retries=0, linger_ms=20,
                request_timeout_ms=5_000, delivery_timeout_ms=10_000, enable_idempotence=False,
            )  # fmt: skip
            try:
                sent = [
                    producer.send(settings.topic, b"damaged", partition=partition) for _ in range(3)
                ]
                places = [future.get(timeout=15).offset for future in sent]
                taken[min(places)] = damage
            except KafkaError:
                pass
            finally:
                producer.close(timeout=2)
    return taken


@contextmanager
def _damaged(damage: str) -> Iterator[None]:
    build = DefaultRecordBatchBuilder.build
    codecs = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4, "codec 5": 5}

    def damaged(self: Any, *arguments: Any, **named: Any) -> Any:
        batch = bytearray(build(self, *arguments, **named))
        if damage == "checksum":
            batch[-3] ^= 0xFF
            return batch
        if damage in codecs:
            batch[22] |= codecs[damage]
        elif damage == "count":
            batch[57:61] = (1_000_000).to_bytes(4)
        elif damage == "length":
            batch[61] = 0x7F
        batch[17:21] = calc_crc32c(bytes(batch[21:])).to_bytes(4)
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DefaultRecordBatchBuilder, "build", damaged)
        yield


class HostileStream(Stream):
    """A stream whose entities are those that its events name."""

    def entities(self, view: LiveView) -> list[Keys]:
        width = len(view.computation.join_keys)
        with connect(self.settings.postgres_url) as conn:
            rows = conn.execute("SELECT DISTINCT user_id, item_id FROM watch_events").fetchall()
        return sorted({row[:width] for row in rows})


def assert_events(settings: Settings, landed: Landed) -> int:
    """Each event is stored, once, with its columns, and nothing else is; returns how many."""
    expected = {}
    for (partition, offset), one in landed.events.items():
        assert one.event is not None
        name = one.event_id or f"{settings.topic}/{partition}/{offset}"
        columns = (
            one.event.user_id,
            one.event.item_id,
            one.event.watched_at,
            one.event.duration_ms,
            float(np.float32(one.event.progress)),
        )
        assert expected.setdefault(name, columns) == columns
    with connect(settings.postgres_url) as conn:
        rows = conn.execute(
            "SELECT event_id, user_id, item_id, watched_at, duration_ms, progress FROM watch_events"
        ).fetchall()
    stored = {row[0]: row[1:] for row in rows}
    assert len(stored) == len(rows)
    assert stored.keys() == expected.keys(), _difference(stored, expected)
    wrong = {
        name: (stored[name], expected[name]) for name in stored if stored[name] != expected[name]
    }
    assert not wrong, dict(itertools.islice(wrong.items(), 3))
    return len(rows)


def assert_letters(settings: Settings, landed: Landed) -> Counter[str]:
    """Each message that is no event is one letter, as it came; returns how many, by reason."""
    found: dict[tuple[int, int], int] = defaultdict(int)
    reasons: Counter[str] = Counter()
    expected = landed.no_events
    for letter in dead_letters.letters(settings):
        place = letter.partition, letter.offset
        found[place] += 1
        reasons[letter.reason] += 1
        one = expected[place]
        assert letter.reason in one.reasons, (one.kind, letter.reason, letter.detail, one.value)
        _assert_as_it_came(letter, one)
    assert found.keys() == expected.keys(), _difference(found, expected)
    assert max(found.values(), default=1) == 1
    return reasons


def _assert_as_it_came(letter: dead_letters.DeadLetter, one: Hostile) -> None:
    value, key = one.value, one.key
    long = sum(len(name) + len(content) for name, content in one.headers) > MAX_HEADER_BYTES
    headers = () if long else one.headers
    assert letter.headers == tuple((n, None if v == NULL else v) for n, v in headers), one.kind
    assert letter.key == (key and key[:MAX_KEY_BYTES])
    if value is None or len(value) + len(key or b"") <= WHOLE_BYTES - 2 * MAX_HEADER_BYTES:
        assert letter.value == value
        assert not letter.truncated
    else:
        assert value.startswith(letter.value or b"")
        assert letter.truncated or letter.value == value


def _difference(found: Any, expected: Any) -> str:
    missing, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    return f"{len(missing)} missing: {missing[:5]}; {len(more)} too many: {more[:5]}"

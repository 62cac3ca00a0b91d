"""The load of the crash tests: events of every awkward kind, and what must be true of them."""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import orjson
from kafka import KafkaProducer

from streaming.settings import Settings

USERS, ITEMS = 12, 5
WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Sent:
    """One event as it was produced first."""

    user_id: int
    item_id: int
    watched_at: datetime
    duration_ms: int
    progress: float


@dataclass
class Load:
    """What the broker has acknowledged: events by id, and how many messages that are none."""

    events: dict[str, Sent] = field(default_factory=dict)
    bad: int = 0
    messages: int = 0


class Producer(threading.Thread):
    """Produces until it is stopped, about ``rate`` messages a second."""

    def __init__(self, settings: Settings, seed: int, rate: float = 150) -> None:
        super().__init__(daemon=True)
        self._settings = settings
        self._rng = random.Random(seed)
        self._rate = rate
        self._stopping = threading.Event()
        self.load = Load()

    def run(self) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self._settings.kafka_bootstrap, linger_ms=2, retries=1_000
        )
        futures = []
        for number in self._paced():
            key, value = self._message(number)
            futures.append(producer.send(self._settings.topic, key=key, value=value))
            self.load.messages += 1
        for future in futures:
            future.get(timeout=60)
        producer.close()

    def stop(self) -> Load:
        """Stop, and return what is with the broker."""
        self._stopping.set()
        self.join(60)
        assert not self.is_alive()
        return self.load

    def _paced(self) -> Iterator[int]:
        began, number = time.monotonic(), 0
        while not self._stopping.is_set():
            yield number
            number += 1
            time.sleep(max(0.0, began + number / self._rate - time.monotonic()))

    def _message(self, number: int) -> tuple[bytes, bytes]:
        rng, load = self._rng, self.load
        chance = rng.random()
        if chance < 0.04:
            load.bad += 1
            return b"bad", rng.choice([b"{", b"\xff", b'{"userId": 1}', b"[]", b'{"userId": "x"}'])
        if chance < 0.12 and load.events:
            event_id = rng.choice([*load.events][-200:])
            sent = load.events[event_id]
        else:
            event_id = f"{number}"
            sent = load.events[event_id] = self._event()
        value = {
            "eventId": event_id,
            "userId": sent.user_id,
            "itemId": sent.item_id,
            "watchedAt": sent.watched_at.isoformat(),
            "watchDurationMin": sent.duration_ms / 60_000,
            "progress": sent.progress,
        }
        # A tenth comes by another partition than its user's: two workers, one user.
        key = sent.user_id if rng.random() < 0.9 else rng.randrange(1_000)
        return str(key).encode(), orjson.dumps(value)

    def _event(self) -> Sent:
        rng, now = self._rng, datetime.now(UTC)
        age = rng.choices(
            [
                timedelta(seconds=rng.uniform(0, 1)),
                timedelta(hours=rng.uniform(0, 200)),
                WEEK - timedelta(seconds=rng.uniform(0, 3)),
                -timedelta(seconds=rng.uniform(0, 3)),
            ],
            [70, 10, 10, 10],
        )[0]
        return Sent(
            rng.randrange(USERS),
            rng.randrange(ITEMS),
            now - age,
            rng.randrange(0, 7_200_000),
            rng.randrange(0, 65) / 64,
        )

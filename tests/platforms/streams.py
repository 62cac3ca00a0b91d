"""A platform's streams: what is sent, workers that are killed, and what must have come of it."""

import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from kafka import KafkaProducer

from extensions.sources import HistoryTable
from streaming.declared_streams import settings_of
from streaming.failpoints import Fault
from streaming.kafka import dead_letters
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from streaming.stream_status import status
from tests.platforms.description import Row
from tests.platforms.truth import stored
from tests.platforms.world import World
from tests.streaming.fleet import Fleet, wait_until

# How long a worker may take to pass the place at which it is to end; the first one waits for
# everything to be imported.
_PATIENCE = 20.0
ANYWHERE = ""
# Topic, key and value.
Sendable = tuple[str, bytes, bytes | None]


@dataclass(frozen=True)
class Sent:
    """What was sent, and how.

    Attributes:
        new: By source the rows, which no table held before.
        before: How many rows the tables held.
        places: Where the workers were to end.
        hit: How many ended there by themselves.
        since: When the first message was sent.
        through: What was produced by then was read, computed and published in the end.
        views: The same of each view by itself, of which ``through`` is the least. The values may
            be as of moments that lie later.
    """

    new: Mapping[str, Sequence[Row]]
    before: Mapping[str, int]
    places: Sequence[str]
    hit: int
    since: datetime
    through: datetime
    views: Mapping[str, datetime]


class Streams:
    """All streams of a platform on one broker."""

    def __init__(self, world: World, bootstrap: str, seed: int) -> None:
        self.world = world
        self.settings = Settings(
            postgres_url=world.url, kafka_bootstrap=bootstrap, repo_root=world.root,
            session_timeout=1.5, sweep_every=0.5, idle_every=0.3, report_every=0.5,
        )  # fmt: skip
        self.each = settings_of(self.settings)
        self._rng = random.Random(seed)
        self._tables: dict[str, HistoryTable] = {
            each.stream: world.sources.streams[each.stream].table for each in self.each
        }

    def run(self, kills: int) -> Sent:
        """Send rows to all streams while workers are killed; at rest in the end, and stopped.

        The messages come shuffled, some twice and by another partition, with some that are none.
        Half of the rows name entities of the seeded history. Of ``kills`` workers each ends at a
        boundary of its step, or anywhere.
        """
        since, new = datetime.now(UTC), self._rows()
        before = {
            table.name: len(stored(self.world.conn, table)) for table in self._tables.values()
        }
        for each in self.each:
            ensure_topics(each)
        messages = self._messages(new)
        parts = [messages[number :: kills + 1] for number in range(kills + 1)]
        places = self._places(kills)
        producer = KafkaProducer(bootstrap_servers=self.settings.kafka_bootstrap, linger_ms=2)
        hit = 0
        with Fleet(self.settings) as fleet:
            for place, part in zip(places, parts[:-1], strict=True):
                worker = fleet.start(place)
                _send(producer, part)
                patience = self._rng.uniform(1.0, 4.0) if place == ANYWHERE else _PATIENCE
                deadline = time.monotonic() + patience
                while worker.is_alive() and time.monotonic() < deadline:
                    time.sleep(0.02)
                hit += worker.exitcode == -signal.SIGKILL
                worker.kill()
                worker.join()
                assert worker.exitcode == -signal.SIGKILL
            _send(producer, parts[-1])
            producer.close()
            last, started = fleet.start(), datetime.now(UTC)
            wait_until(
                lambda: self._at_rest(messages, started), 90, "all is read, computed and swept"
            )
            code = fleet.stop(last)
            assert code == 0, code
        views = {
            f"{view.view}.v{view.version}": view.processed_through
            for view in status(self.each[0]).views
        }
        return Sent(new, before, places, hit, since, min(views.values()), views)

    def assert_stored(self, sent: Sent) -> None:
        """The tables hold each row once, as it was sent, and nothing else that is new."""
        for table in self._tables.values():
            rows = sent.new[table.name]
            found = stored(self.world.conn, table)
            assert table.id is not None
            by_id = {row[table.id]: row for row in found}
            assert len(by_id) == len(found) == sent.before[table.name] + len(rows)
            for row in rows:
                held = by_id[row[table.id]]
                assert held | {table.arrival: None} == row | {table.arrival: None}

    def assert_dead_letters(self) -> None:
        """Each message that is no row is a dead letter, once."""
        for each in self.each:
            letters = dead_letters.list_(each)
            bad = self.world.platform.bad[self._tables[each.stream].name]
            assert sorted(letter.value or b"" for letter in letters) == sorted(bad)
            assert len({letter.position for letter in letters}) == len(letters)

    def _rows(self) -> dict[str, list[Row]]:
        """The platform's random rows of the streams' tables; half of seeded entities."""
        world, rng = self.world, self._rng
        drawn = world.platform.history(rng, datetime.now(UTC).replace(microsecond=0))
        new = {}
        for table in self._tables.values():
            seeded = stored(world.conn, table)
            new[table.name] = [
                row | {key: rng.choice(seeded)[key] for key in table.keys if rng.random() < 0.5}
                for row in drawn[table.name]
            ]
        return new

    def _messages(self, new: Mapping[str, Sequence[Row]]) -> list[Sendable]:
        """(topic, key, value) of all messages, in the order in which they are sent."""
        rng = self._rng
        found: list[Sendable] = []
        for each in self.each:
            table = self._tables[each.stream]
            rows = [*new[table.name], *rng.sample(list(new[table.name]), 20)]
            for row in rows:
                value = self.world.platform.message(table.name, row)
                key = str(row[table.keys[0]]) if rng.random() < 0.9 else str(rng.random())
                found.append((each.topic, key.encode(), value))
            platform = self.world.platform
            others = [*platform.bad[table.name], *platform.silent.get(table.name, ())]
            found += [(each.topic, b"other", value) for value in others]
        rng.shuffle(found)
        return found

    def _places(self, kills: int) -> list[str]:
        """Failpoints, and every fourth one anywhere; what was stored and not computed first."""
        faults = [fault for fault in Fault if fault is not Fault.RECOVERED]
        places = [Fault.EVENTS_COMMITTED.value, f"{Fault.RECOVERED.value}:1"]
        while len(places) < kills:
            drawn = [f"{fault.value}:{self._rng.randint(1, 2)}" for fault in faults]
            drawn += [ANYWHERE] * (len(faults) // 3)
            self._rng.shuffle(drawn)
            places += drawn
        return places[:kills]

    def _at_rest(self, messages: Sequence[Sendable], since: datetime) -> bool:
        """All messages are read, and stored, computed and swept up to ``since`` or later."""
        found = [status(each) for each in self.each]
        sent = Counter(topic for topic, _, _ in messages)
        read = {each.topic: sum(p.next_offset for p in each.partitions) for each in found}
        views = found[0].views
        partitions = [partition for each in found for partition in each.partitions]
        marks = [each.processed_through for each in (*partitions, *views)]
        return (
            read == sent
            and len(views) == len(self.world.realtime())
            and all(mark is not None and mark > since for mark in marks)
        )


def _send(producer: KafkaProducer, messages: Sequence[Sendable]) -> None:
    for future in [producer.send(topic, key=key, value=value) for topic, key, value in messages]:
        future.get(timeout=60)

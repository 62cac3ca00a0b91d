"""The Kafka side: membership in the group, which partitions are placed, and what they bring.

A partition that was assigned is paused until it is *placed*: its offset read from PostgreSQL and
sought. Listeners run on the client's own thread, which also sends heartbeats, so they only note.
"""

import logging
import random
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.base import MemberState
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from streaming.kafka.bounded_decompression import (
    MAX_POLL_BYTES,
    UnreadableBatchError,
    install,
    kept_bytes,
)
from streaming.kafka.client_settings import client_settings
from streaming.kafka.message_decoder import ORIGIN_HEADER, TIMESTAMP_HEADER, Message
from streaming.settings import Settings

logger = logging.getLogger(__name__)

_LONGEST_PATIENCE_SECONDS = 300.0
_LONGEST_FAREWELL_SECONDS = 10.0
_ORIGIN = re.compile(r"[^\0/]{1,220}/[0-9]{1,9}/[0-9]{1,18}(@[0-9]{1,5})?")
# What a broker takes to answer with what it has.
_ANSWER_MS = 5


@dataclass(frozen=True)
class Placed:
    """Where a partition is read next, and which topic of its name that is."""

    next_offset: int
    incarnation: int


@dataclass(frozen=True)
class Batch:
    """Messages by partition, in order, and the offset from which each partition was read."""

    messages: Mapping[int, list[Message]]
    placed: Mapping[int, Placed]

    @property
    def size(self) -> int:
        """Messages in all."""
        return sum(map(len, self.messages.values()))


class Subscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of the consumer group. Use from one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._assigned: set[TopicPartition] = set()
        self._placed: dict[int, Placed] = {}
        self._stopped: dict[int, UnreadableBatchError] = {}
        install()
        self.consumer = KafkaConsumer(
            **client_settings(settings.kafka_bootstrap),
            client_id=settings.worker,
            group_id=settings.group,
            enable_auto_commit=False,
            # Offsets come from PostgreSQL; one that is not there any more is an error to act on.
            auto_offset_reset="none",
            isolation_level="read_committed",
            partition_assignment_strategy=[RangePartitionAssignor, RoundRobinPartitionAssignor],
            session_timeout_ms=int(settings.session_timeout * 1000),
            heartbeat_interval_ms=int(settings.session_timeout * 1000 / 10),
            max_poll_interval_ms=int(settings.max_poll_interval * 1000),
            max_poll_records=settings.batch_records,
            reconnect_backoff_max_ms=1_000,
            # Partitions that are added to the topic are noticed within this time.
            metadata_max_age_ms=10_000,
            metrics_enabled=False,
        )
        # A member that leads the group assigns what it knows of; so it looks before it joins.
        self.consumer.partitions_for_topic(settings.topic)
        self.consumer.subscribe([settings.topic], listener=self)
        self._patience = self._first_patience()
        self._idle_since = monotonic()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Hold the partitions still, with a position of no meaning, until they are placed."""
        for partition in assigned:
            self.consumer.pause(partition)
            self.consumer.seek(partition, 0)
        with self._lock:
            self._assigned |= set(assigned)
            for partition in assigned:
                self._placed.pop(partition.partition, None)
                self._stopped.pop(partition.partition, None)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Forget the partitions: between polls there is no unfinished step to see to."""
        with self._lock:
            self._assigned -= set(revoked)
            for partition in revoked:
                self._placed.pop(partition.partition, None)
                self._stopped.pop(partition.partition, None)

    def unplaced(self) -> list[TopicPartition]:
        """Partitions of this worker that wait to be placed."""
        with self._lock:
            held = self._placed.keys() | self._stopped.keys()
            return sorted(p for p in self._assigned if p.partition not in held)

    def stopped(self) -> dict[int, UnreadableBatchError]:
        """The partitions of this worker that stand still before a batch, and that batch."""
        with self._lock:
            return dict(self._stopped)

    def go_on(self, number: int) -> None:
        """Let a stopped partition be placed again."""
        with self._lock:
            self._stopped.pop(number, None)

    def placed(self) -> dict[int, Placed]:
        """The partitions that are read, and where."""
        with self._lock:
            return dict(self._placed)

    def place(self, partition: TopicPartition, at: Placed) -> None:
        """Read ``partition`` from here on; one that was taken away meanwhile is left alone."""
        with self._lock:
            if partition not in self._assigned:
                return
            self._placed[partition.partition] = at
        try:
            self.consumer.seek(partition, at.next_offset)
            self.consumer.resume(partition)
        except (ValueError, KeyError, KafkaError):
            logger.info("Partition %s left while it was placed.", partition.partition)

    def unplace(self) -> None:
        """Read nothing until every partition is placed again: a step was abandoned."""
        with self._lock:
            self._placed.clear()
            assigned = list(self._assigned)
        for partition in assigned:
            try:
                self.consumer.pause(partition)
            except (ValueError, KeyError, KafkaError):
                continue

    def moved(self, to: Mapping[int, int]) -> None:
        """Note the next offsets after a step."""
        with self._lock:
            for number, offset in to.items():
                if number in self._placed:
                    self._placed[number] = Placed(offset, self._placed[number].incarnation)

    def keep_alive(self, seconds: float) -> None:
        """Stay in the group without reading: everything is paused."""
        self._fetched(int(seconds * 1000), 1)

    def poll(self, seconds: float, limit: int) -> Batch:
        """What has come, at most ``limit``; waits up to ``seconds`` for the first message."""
        settings = self._settings
        self._ask_again()
        records = self._fetched(int(seconds * 1000), limit)
        found = sum(map(len, records.values()))
        if 0 < found < limit and settings.batch_wait > 0:
            sleep(settings.batch_wait)
            # The answer that came meanwhile has the first messages since; the next has the rest.
            for patience in (0, _ANSWER_MS):
                if found >= limit or _kept(records) >= MAX_POLL_BYTES:
                    break
                for partition, rest in self._fetched(patience, limit - found).items():
                    records.setdefault(partition, []).extend(rest)
                    found += len(rest)
        placed = self.placed()
        messages = {}
        for partition, found_here in records.items():
            at = placed.get(partition.partition)
            if at is not None:
                messages[partition.partition] = [
                    _message(record, at.incarnation)
                    for record in found_here
                    if record.offset >= at.next_offset
                ]
        return Batch({number: new for number, new in messages.items() if new}, placed)

    def topic_id(self) -> str | None:
        """The topic's identity by the client's latest metadata; None from brokers without one.

        The client asks for metadata anew as soon as a fetch meets a topic that is gone, so a
        topic that was made anew under its name is known as another one before it is read.
        """
        identity = self.consumer._client.cluster.topic_id(self._settings.topic)  # noqa: SLF001
        return str(identity) if identity else None

    def _fetched(self, patience_ms: int, limit: int) -> dict[TopicPartition, list[Any]]:
        """One poll of the client; a batch that it cannot take apart stops that partition only."""
        try:
            found: dict[TopicPartition, list[Any]] = self.consumer.poll(patience_ms, limit)
        except UnreadableBatchError as error:
            self._stop(error)
            return {}
        return found

    def _stop(self, error: UnreadableBatchError) -> None:
        number = error.partition.partition
        with self._lock:
            if error.partition not in self._assigned:
                return
            self._placed.pop(number, None)
            self._stopped[number] = error
        try:
            self.consumer.pause(error.partition)
        except (ValueError, KeyError, KafkaError):
            logger.info("Partition %s left while it was stopped.", number)

    def _ask_again(self) -> None:
        """Join the group anew after a while without any partition, ever more rarely.

        With kafka-python 3.0.12 on a busy machine, a member that is alone in its group sometimes
        ends up stable and without partitions, and stays so. A spare worker, of which there may
        be more than partitions, cannot tell this from its own case and asks in vain. How long a
        worker waits is drawn by lot: two that left and joined at the same moments would undo each
        other's group every time.
        """
        now = monotonic()
        with self._lock:
            if self._assigned:
                self._patience = self._first_patience()
                self._idle_since = now
                return
        if now - self._idle_since < self._patience:
            return
        logger.warning("No partition for %.0f s: joining the group anew.", self._patience)
        longer = self._patience * random.uniform(1.5, 3)  # noqa: S311 (no secret)
        self._patience = min(longer, _LONGEST_PATIENCE_SECONDS)
        self._idle_since = now
        self.consumer.unsubscribe()
        self.consumer.subscribe([self._settings.topic], listener=self)

    def _first_patience(self) -> float:
        return self._settings.session_timeout * random.uniform(1.5, 2.5)  # noqa: S311 (no secret)

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Tell Kafka, for its own tools; PostgreSQL's offsets are the ones that count."""
        try:
            self.consumer.commit_async(
                {
                    TopicPartition(self._settings.topic, number): OffsetAndMetadata(offset, "", -1)
                    for number, offset in offsets.items()
                }
            )
        except KafkaError as error:
            logger.info("Kafka did not take the offsets (%s).", type(error).__name__)

    def joining(self) -> bool:
        """Whether the group is forming, and what this member asked of it is not answered yet."""
        return self.consumer._coordinator.state is MemberState.REBALANCING  # noqa: SLF001

    def close(self) -> None:
        """Leave the group; a join that is under way is waited for, as long as one may take.

        Tansu 0.1.2 keeps a member that leaves while the group forms as its leader, and every other
        member then waits for that one's assignment, for ever.
        """
        patience = min(self._settings.session_timeout, _LONGEST_FAREWELL_SECONDS)
        deadline = monotonic() + patience
        try:
            while self.joining() and monotonic() < deadline:
                self.keep_alive(0.05)
        finally:
            self.consumer.close(autocommit=False, timeout_ms=5_000)


def _kept(records: Mapping[TopicPartition, list[Any]]) -> int:
    return sum(kept_bytes(record) for part in records.values() for record in part)


def _message(record: Any, incarnation: int) -> Message:
    """The record as a message; of a replayed dead letter, with what its original was judged by."""
    headers = tuple(record.headers)
    origin, timestamp_ms = _original(headers) if headers else (None, None)
    return Message(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp if timestamp_ms is None else timestamp_ms,
        record.key,
        record.value,
        incarnation,
        headers,
        record.serialized_value_size,
        origin,
    )


def _original(headers: tuple[tuple[str, bytes | None], ...]) -> tuple[str | None, int | None]:
    """What a replay says of the first place; anything else under these names is left alone."""
    said = {name: (value or b"").decode(errors="replace") for name, value in headers}
    origin, stamp = said.get(ORIGIN_HEADER, ""), said.get(TIMESTAMP_HEADER, "")
    return (
        origin if _ORIGIN.fullmatch(origin) else None,
        int(stamp) if re.fullmatch(r"-?[0-9]{1,18}", stamp) else None,
    )

"""Dead letters: messages that are no events, kept as they came with the reason beside them.

A crash between the broker's answer and the stored offsets sends a letter twice; it is the same
letter, known by the position of its original, and is shown and replayed once. The topic may hold
anything: what another program wrote there is listed by its own place and never sent anywhere.
"""

import logging
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from time import monotonic
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import InvalidTimestampError, MessageSizeTooLargeError

from extensions.errors import ConflictError, InputError
from streaming.kafka.bounded_decompression import (
    MAX_HEADER_BYTES,
    MAX_KEY_BYTES,
    UnreadableBatchError,
    install,
)
from streaming.kafka.client_settings import client_settings
from streaming.kafka.message_decoder import ORIGIN_HEADER, TIMESTAMP_HEADER, Message, RejectedError
from streaming.settings import Settings

logger = logging.getLogger(__name__)

# Brokers take 1 MiB by default: a letter that would come near it keeps the value's beginning.
_WHOLE_BYTES = 900 * 1024
# What is kept of a value, from the first try to the last.
_KEPT_BYTES = (256 * 1024, 4 * 1024, 0)
_SEND_SECONDS = 30.0
_QUIET_SECONDS = 2.0
# Letters that are read, or originals that are sent, before the next ones are.
_AT_ONCE, _BYTES_AT_ONCE = 1_000, 16 << 20
# Repetitions of a letter lie within the batch of one step, of each partition.
_REMEMBERED = 50_000
# The original's own headers, in the letter.
_PREFIX, _NULL_PREFIX = "header:", "null-header:"
_OURS = ("reason", "detail", "topic", "partition", "offset", "timestamp", "truncated", "origin")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_000

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class DeadLetter:
    """One message that could not be read. ``value`` is its bytes; None for a tombstone.

    ``timestamp_ms`` and ``headers`` are the original's. ``foreign``: another program wrote it;
    ``topic``, ``partition`` and ``offset`` are then its own place.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    at: datetime
    key: bytes | None
    value: bytes | None
    truncated: bool
    timestamp_ms: int | None = None
    headers: Headers = ()
    origin: str | None = None
    foreign: bool = False

    @property
    def position(self) -> str:
        """``topic/partition/offset`` of the original, the letter's name."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class DeadLetterWriter:
    """Sends letters; all are with the broker when `send` returns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: KafkaProducer | None = None

    def send(self, rejected: Sequence[tuple[Message, RejectedError]]) -> None:
        """Send every letter and wait for the broker's answers.

        Raises:
            KafkaError: the broker did not take one; the step must not go on.
        """
        if not rejected:
            return
        if self._producer is None:
            self._producer = KafkaProducer(
                **client_settings(self._settings.kafka_bootstrap),
                client_id=f"{self._settings.worker}-dead-letters",
                linger_ms=5,
                delivery_timeout_ms=int(_SEND_SECONDS * 1000),
                request_timeout_ms=int(_SEND_SECONDS * 500),
                max_block_ms=int(_SEND_SECONDS * 1000),
            )
        for begin in range(0, len(rejected), _AT_ONCE):
            part = rejected[begin : begin + _AT_ONCE]
            sent = [(self._send(message, error), message, error) for message, error in part]
            self._producer.flush(timeout=_SEND_SECONDS)
            for future, message, error in sent:
                try:
                    future.get(timeout=_SEND_SECONDS)
                except MessageSizeTooLargeError:
                    self._send_less(message, error)

    def _send_less(self, message: Message, error: RejectedError) -> None:
        """The broker takes less than brokers usually do: keep less and less of the message."""
        for kept in _KEPT_BYTES:
            try:
                self._send(message, error, kept).get(timeout=_SEND_SECONDS)
            except MessageSizeTooLargeError:
                if not kept:
                    raise
            else:
                return

    def close(self) -> None:
        """Let the producer go; a letter that was not answered for is sent again later."""
        if self._producer is not None:
            self._producer.close(timeout=1)
            self._producer = None

    def _send(self, message: Message, error: RejectedError, kept: int | None = None) -> Any:
        """Send a letter; ``kept``: so many bytes of the value, and nothing else that is long."""
        assert self._producer is not None
        value, key, own = message.value, message.key, message.headers
        size = message.size if message.size is not None else len(value or b"")
        if kept is None:
            whole = size + len(key or b"") + _length(own) <= _WHOLE_BYTES
            kept = _WHOLE_BYTES if whole else _KEPT_BYTES[0]
        if kept < _KEPT_BYTES[0]:
            key, own = (key and key[:64]), ()
        own = own if _length(own) <= MAX_HEADER_BYTES else ()
        headers = {
            "reason": error.reason.value,
            "detail": error.detail,
            "topic": message.topic,
            "partition": str(message.partition),
            "offset": str(message.offset),
            "timestamp": str(message.timestamp_ms),
            "origin": message.position,
        }
        if value is not None and size > len(value[:kept]):
            headers["truncated"] = str(size)
            value = value[:kept]
        key = key and key[:MAX_KEY_BYTES]
        return self._producer.send(
            self._settings.dead_letter_topic,
            key=_key(key, value),
            value=value,
            headers=[
                *((name, text.encode(errors="replace")) for name, text in headers.items()),
                # The client sends no null.
                *(
                    ((_PREFIX if content is not None else _NULL_PREFIX) + name, content or b"")
                    for name, content in own
                ),
            ],
        )


def list_(
    settings: Settings, *, reason: str | None = None, limit: int | None = None
) -> list[DeadLetter]:
    """The letters that the topic holds, oldest first, each once; only those of ``reason``."""
    return list(each(settings, reason=reason, limit=limit))


def each(
    settings: Settings, *, reason: str | None = None, limit: int | None = None
) -> Iterator[DeadLetter]:
    """As `list_`, one after the other: of a million letters one is in memory."""
    found = (letter for letter in letters(settings) if reason in (None, letter.reason))
    yield from islice(found, limit)


def show(settings: Settings, position: str) -> DeadLetter:
    """The letter whose original was at ``position`` (``topic/partition/offset``).

    Raises:
        InputError: there is no such letter.
    """
    for letter in letters(settings):
        if letter.position == position:
            return letter
    raise InputError(
        f"There is no dead letter {position}: `skewless dead-letters list` shows their positions.",
    )


def replay(settings: Settings, *, reason: str | None = None, position: str | None = None) -> int:
    """Send originals to their topic once more, all or some; returns how many.

    They have their own key, headers and time, and go to the partition they came from, so that
    they are judged as they were; an event without an id keeps the name of its first place, so
    that a second replay stores nothing. The letters stay where they are. A message that is still
    unreadable becomes a new letter.

    Raises:
        SkewlessError: ``position`` names no letter, or one that was cut short or is foreign.
    """
    wanted: Iterator[DeadLetter]
    if position:
        letter = show(settings, position)
        if letter.truncated:
            raise ConflictError(f"The dead letter {position} was too large to be kept whole.")
        if letter.foreign:
            raise InputError(
                f"The dead letter {position} was written by another program, which does not say "
                "where it belongs: send it with that program.",
            )
        wanted = iter([letter])
    else:
        wanted = (
            letter
            for letter in letters(settings)
            if reason in (None, letter.reason) and not letter.truncated and not letter.foreign
        )
    producer = KafkaProducer(**client_settings(settings.kafka_bootstrap), linger_ms=5)
    try:
        there = producer.partitions_for(settings.topic)
        count = 0
        for part in _parts(wanted):
            futures = [(letter, _again(producer, letter, there)) for letter in part]
            producer.flush(timeout=_SEND_SECONDS)
            for letter, future in futures:
                try:
                    future.get(timeout=_SEND_SECONDS)
                except InvalidTimestampError:
                    # The broker takes no such time; the header says it to our decoder.
                    _again(producer, letter, there, timed=False).get(timeout=_SEND_SECONDS)
            count += len(part)
    finally:
        producer.close(timeout=1)
    return count


def _parts(wanted: Iterator[DeadLetter]) -> Iterator[list[DeadLetter]]:
    """The letters in order, in parts that are bounded in number and in bytes."""
    part: list[DeadLetter] = []
    size = 0
    for letter in wanted:
        part.append(letter)
        size += len(letter.value or b"") + len(letter.key or b"") + _length(letter.headers)
        if len(part) == _AT_ONCE or size > _BYTES_AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part


def _again(
    producer: KafkaProducer, letter: DeadLetter, there: set[int], *, timed: bool = True
) -> Any:
    """Send one original to where it came from, as it came."""
    # The client sends no null: such a header comes back empty.
    own = [
        (name, value or b"")
        for name, value in letter.headers
        if name not in {ORIGIN_HEADER, TIMESTAMP_HEADER}
    ]
    stamp = letter.timestamp_ms
    if letter.origin is not None:
        own.append((ORIGIN_HEADER, letter.origin.encode()))
    if stamp is not None:
        own.append((TIMESTAMP_HEADER, str(stamp).encode()))
    return producer.send(
        letter.topic,
        key=_key(letter.key, letter.value),
        value=letter.value,
        headers=own,
        partition=letter.partition if letter.partition in there else None,
        timestamp_ms=stamp if timed and stamp is not None and stamp >= 0 else None,
    )


def letters(settings: Settings) -> Iterator[DeadLetter]:
    """Every letter once, up to the end of the topic as it was when reading began.

    Memory does not grow with the letters: repetitions are looked for among the latest ones.
    """
    install()
    consumer = KafkaConsumer(
        **client_settings(settings.kafka_bootstrap),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    try:
        partitions = [
            TopicPartition(settings.dead_letter_topic, number)
            for number in consumer.partitions_for_topic(settings.dead_letter_topic) or ()
        ]
        if not partitions:
            return
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        seen = _Recent()
        quiet = monotonic() + _QUIET_SECONDS
        while monotonic() < quiet and any(
            (consumer.position(partition) or 0) < ends[partition] for partition in partitions
        ):
            for records in _polled(consumer).values():
                quiet = monotonic() + _QUIET_SECONDS
                for record in records:
                    letter = _read(record, settings.topic)
                    if seen.is_new(letter):
                        yield letter
                # However long the caller took with these.
                quiet = monotonic() + _QUIET_SECONDS
    finally:
        consumer.close()


def _key(key: bytes | None, value: bytes | None) -> bytes | None:
    """The client sends no message that lacks both."""
    return b"" if key is None and value is None else key


def _polled(consumer: KafkaConsumer) -> dict[TopicPartition, list[Any]]:
    """The next records; a batch that cannot be taken apart is no letter of ours and passed by."""
    try:
        found: dict[TopicPartition, list[Any]] = consumer.poll(200, _AT_ONCE)
    except UnreadableBatchError as error:
        logger.warning("Passed by what is no letter: %s", error)
        consumer.seek(error.partition, error.last_offset + 1)
        return {}
    return found


class _Recent:
    """The letters that were seen last, of each partition of the originals."""

    def __init__(self) -> None:
        self._known: dict[int, set[tuple[int, str | None]]] = defaultdict(set)
        self._order: dict[int, deque[tuple[int, str | None]]] = defaultdict(deque)

    def is_new(self, letter: DeadLetter) -> bool:
        """Was it not seen yet? From now on it is. A foreign one is never a repetition."""
        if letter.foreign:
            return True
        known, order = self._known[letter.partition], self._order[letter.partition]
        # The origin tells a topic from the one that was made anew under its name.
        name = (letter.offset, letter.origin)
        if name in known:
            return False
        known.add(name)
        order.append(name)
        if len(order) > _REMEMBERED:
            known.discard(order.popleft())
        return True


def _length(headers: Headers) -> int:
    return sum(len(name) + len(value or b"") for name, value in headers)


def _read(record: Any, topic: str) -> DeadLetter:
    said = {
        name: value.decode(errors="replace")
        for name, value in record.headers
        if name in _OURS and value is not None
    }
    partition, offset = _number(said.get("partition")), _number(said.get("offset"))
    foreign = said.get("topic") != topic or partition is None or offset is None
    return DeadLetter(
        topic=record.topic if foreign else topic,
        partition=record.partition if foreign or partition is None else partition,
        offset=record.offset if foreign or offset is None else offset,
        reason="foreign" if foreign else said.get("reason", "unknown"),
        detail=said.get("detail", ""),
        at=_EPOCH + timedelta(milliseconds=min(max(record.timestamp, 0), _LAST_MS)),
        key=record.key,
        value=record.value,
        truncated="truncated" in said,
        timestamp_ms=_number(said.get("timestamp")),
        headers=tuple(_own_headers(record.headers)),
        origin=said.get("origin"),
        foreign=foreign,
    )


def _own_headers(headers: Headers) -> Iterator[tuple[str, bytes | None]]:
    """The original's own headers, of a letter's."""
    for name, value in headers:
        if name.startswith(_PREFIX):
            yield name.removeprefix(_PREFIX), value
        elif name.startswith(_NULL_PREFIX):
            yield name.removeprefix(_NULL_PREFIX), None


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,18}", text) else None

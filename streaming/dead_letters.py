"""Dead letters: messages that are no events, kept as they came with the reason beside them.

A crash between the broker's answer and the stored offsets sends a letter twice; it is the same
letter, known by the position of its original, and is shown and replayed once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import MessageSizeTooLargeError

from extensions.errors import SkewlessError
from streaming.decode import Message, RejectedError
from streaming.settings import Settings

_TRUNCATED_BYTES = 256 * 1024
_REQUEST_BYTES = 64 * 1024 * 1024
_SEND_SECONDS = 30.0
_QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class DeadLetter:
    """One message that could not be read. ``value`` is its bytes; None for a tombstone."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    at: datetime
    key: bytes | None
    value: bytes | None
    truncated: bool

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
                bootstrap_servers=self._settings.kafka_bootstrap,
                client_id=f"{self._settings.worker}-dead-letters",
                max_request_size=_REQUEST_BYTES,
                linger_ms=5,
                delivery_timeout_ms=int(_SEND_SECONDS * 1000),
                request_timeout_ms=int(_SEND_SECONDS * 500),
                max_block_ms=int(_SEND_SECONDS * 1000),
            )
        sent = [(self._send(message, error), message, error) for message, error in rejected]
        self._producer.flush(timeout=_SEND_SECONDS)
        for future, message, error in sent:
            try:
                future.get(timeout=_SEND_SECONDS)
            except MessageSizeTooLargeError:
                self._send(message, error, truncated=True).get(timeout=_SEND_SECONDS)

    def close(self) -> None:
        """Let the producer go; a letter that was not answered for is sent again later."""
        if self._producer is not None:
            self._producer.close(timeout=1)
            self._producer = None

    def _send(self, message: Message, error: RejectedError, *, truncated: bool = False) -> Any:
        assert self._producer is not None
        headers = {
            "reason": error.reason.value,
            "detail": error.detail,
            "topic": message.topic,
            "partition": str(message.partition),
            "offset": str(message.offset),
            "timestamp": str(message.timestamp_ms),
        }
        value = message.value
        if truncated and value is not None:
            headers["truncated"] = str(len(value))
            value = value[:_TRUNCATED_BYTES]
        return self._producer.send(
            self._settings.dead_letter_topic,
            key=_key(message.key, value),
            value=value,
            headers=[(name, text.encode()) for name, text in headers.items()],
        )


def list_(
    settings: Settings, *, reason: str | None = None, limit: int | None = None
) -> list[DeadLetter]:
    """The letters that the topic holds, oldest first, each once; only those of ``reason``."""
    found = []
    for letter in _letters(settings):
        if reason in (None, letter.reason):
            found.append(letter)
            if limit is not None and len(found) >= limit:
                break
    return found


def show(settings: Settings, position: str) -> DeadLetter:
    """The letter whose original was at ``position`` (``topic/partition/offset``).

    Raises:
        SkewlessError: there is no such letter.
    """
    for letter in _letters(settings):
        if letter.position == position:
            return letter
    raise SkewlessError(
        f"There is no dead letter {position}: `skewless dead-letters list` shows their positions.",
        exit_code=2,
    )


def replay(settings: Settings, *, reason: str | None = None, position: str | None = None) -> int:
    """Send originals to their topic once more, all or some; returns how many.

    The letters stay where they are. A message that is still unreadable becomes a new letter.

    Raises:
        SkewlessError: ``position`` names no letter, or one that was cut short.
    """
    letters: Iterable[DeadLetter]
    letters = [show(settings, position)] if position else list_(settings, reason=reason)
    cut = [letter.position for letter in letters if letter.truncated]
    if cut and position:
        raise SkewlessError(f"The dead letter {position} was too large to be kept whole.")
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, max_request_size=_REQUEST_BYTES
    )
    try:
        futures = [
            producer.send(letter.topic, key=_key(letter.key, letter.value), value=letter.value)
            for letter in letters
            if not letter.truncated
        ]
        producer.flush(timeout=_SEND_SECONDS)
        for future in futures:
            future.get(timeout=_SEND_SECONDS)
    finally:
        producer.close(timeout=1)
    return len(futures)


def _letters(settings: Settings) -> Iterator[DeadLetter]:
    """Every letter once, up to the end of the topic as it was when reading began."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
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
        seen = set()
        quiet = monotonic() + _QUIET_SECONDS
        while monotonic() < quiet and any(
            (consumer.position(partition) or 0) < ends[partition] for partition in partitions
        ):
            for records in consumer.poll(timeout_ms=200, max_records=2_000).values():
                quiet = monotonic() + _QUIET_SECONDS
                for record in records:
                    letter = _read(record)
                    if letter.position not in seen:
                        seen.add(letter.position)
                        yield letter
    finally:
        consumer.close()


def _key(key: bytes | None, value: bytes | None) -> bytes | None:
    """The client sends no message that lacks both."""
    return b"" if key is None and value is None else key


def _read(record: Any) -> DeadLetter:
    headers = {name: value.decode(errors="replace") for name, value in record.headers}
    return DeadLetter(
        topic=headers.get("topic", ""),
        partition=int(headers.get("partition", -1)),
        offset=int(headers.get("offset", -1)),
        reason=headers.get("reason", "unknown"),
        detail=headers.get("detail", ""),
        at=datetime.fromtimestamp(record.timestamp / 1000, tz=UTC),
        key=record.key,
        value=record.value,
        truncated="truncated" in headers,
    )

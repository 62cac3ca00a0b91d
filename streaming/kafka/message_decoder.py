"""Messages as Kafka holds them, why one is a dead letter, and the interface of decoders.

The declared streams' decoder is `streaming.decoding.RowDecoder`.
"""

from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, Protocol

# Headers of a replayed record: what it would be named by, and its own time, at its first place.
ORIGIN_HEADER = "skewless-origin"
TIMESTAMP_HEADER = "skewless-timestamp"


class Message(NamedTuple):
    """A record as Kafka holds it; ``timestamp_ms`` is the producer's or the broker's clock.

    ``size``: of the whole value in bytes, where ``value`` is only its beginning. ``origin`` and
    ``timestamp_ms`` of a dead letter that was replayed are those of its first place.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    incarnation: int = 0
    headers: tuple[tuple[str, bytes | None], ...] = ()
    size: int | None = None
    origin: str | None = None

    @property
    def position(self) -> str:
        """``topic/partition/offset``, and ``@`` which topic of the name, of its first place."""
        if self.origin is not None:
            return self.origin
        again = f"@{self.incarnation}" if self.incarnation else ""
        return f"{self.topic}/{self.partition}/{self.offset}{again}"


class Reason(Enum):
    """Why a message is a dead letter."""

    TOMBSTONE = "tombstone"
    OVERSIZED = "oversized"
    ENCODING = "encoding"
    NOT_JSON = "not-json"
    NOT_AN_OBJECT = "not-an-object"
    MISSING_FIELD = "missing-field"
    WRONG_TYPE = "wrong-type"
    OUT_OF_RANGE = "out-of-range"
    BAD_TIME = "bad-time"
    IN_THE_FUTURE = "in-the-future"
    TOO_OLD = "too-old"
    TOO_LATE = "too-late"
    UNKNOWN_FIELD = "unknown-field"
    DUPLICATE_FIELD = "duplicate-field"
    NOT_AVRO = "not-avro"
    NOT_PROTOBUF = "not-protobuf"
    UNKNOWN_SCHEMA = "unknown-schema"
    ENVELOPE = "envelope"
    DECODER = "decoder"
    REFUSED = "refused"


class RejectedError(Exception):
    """The message is no row of the table; ``detail`` names the field, never its value."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class Decoder(Protocol):
    """Reads messages as rows of a stream's table.

    Raises:
        RejectedError: a message is none.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row, in its order."""
        ...

    def decode(self, message: Message, now: datetime) -> list[tuple[Any, ...]]:
        """The message's rows; ``now`` bounds their times."""
        ...

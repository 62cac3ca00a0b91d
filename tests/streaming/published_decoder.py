"""The published JSON shape by a decoder of its own, which the stream's is compared with."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from extensions.timestamps import NotATimestampError, TimezoneMissingError, parse_timestamp
from streaming.kafka.message_decoder import Message, Reason, RejectedError

OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LONGEST_MINUTES = 24 * 60
LONGEST_EVENT_ID = 256
LARGEST_ID = 2**63 - 1


class WatchEvent(NamedTuple):
    """One watch, valid: the columns of ``watch_events`` but for the time of arrival."""

    event_id: str
    user_id: int
    item_id: int
    watched_at: datetime
    duration_ms: int
    progress: float


@dataclass(frozen=True)
class JsonDecoder:
    """UTF-8 JSON: ``userId``, ``itemId``, ``watchDurationMin``, ``progress``; unknown fields pass.

    ``eventId`` may be missing: it is then derived from topic, partition and offset, so that the
    same record always has the same id. ``watchedAt`` (ISO 8601 with a zone, or milliseconds
    since the epoch) defaults to the record's own time.
    """

    max_bytes: int = 64 * 1024
    max_future: timedelta = timedelta(minutes=5)

    def decode(self, message: Message, now: datetime) -> WatchEvent:
        """The event, or RejectedError."""
        fields = self._fields(message.value, message.size)
        return WatchEvent(
            event_id=_event_id(fields.get("eventId"), message),
            user_id=_id(fields, "userId"),
            item_id=_id(fields, "itemId"),
            watched_at=self._time(fields.get("watchedAt"), message, now),
            duration_ms=round(_number(fields, "watchDurationMin", LONGEST_MINUTES) * 60_000),
            progress=_number(fields, "progress", 1),
        )

    def _fields(self, value: bytes | None, whole: int | None) -> dict[str, Any]:
        if value is None:
            raise RejectedError(Reason.TOMBSTONE, "the message has no value")
        size = len(value) if whole is None else whole
        if size > self.max_bytes:
            raise RejectedError(
                Reason.OVERSIZED, f"{size} bytes, at most {self.max_bytes} are read"
            )
        try:
            fields = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise _unreadable(value) from None
        if not isinstance(fields, dict):
            raise RejectedError(Reason.NOT_AN_OBJECT, f"the JSON is {_kind(fields)}")
        return fields

    def _time(self, value: Any, message: Message, now: datetime) -> datetime:
        watched_at = _moment(message.timestamp_ms if value is None else value)
        if watched_at > now + self.max_future:
            raise RejectedError(Reason.IN_THE_FUTURE, "watchedAt lies ahead of the store's clock")
        if watched_at < OLDEST:
            raise RejectedError(Reason.TOO_OLD, "watchedAt lies before the year 2000")
        return watched_at


def _unreadable(value: bytes) -> RejectedError:
    try:
        value.decode()
    except UnicodeDecodeError:
        return RejectedError(Reason.ENCODING, "the bytes are not UTF-8")
    return RejectedError(Reason.NOT_JSON, "the text is not JSON")


def _event_id(value: Any, message: Message) -> str:
    if value is None:
        return message.position
    if not isinstance(value, str):
        raise RejectedError(Reason.WRONG_TYPE, f"eventId is {_kind(value)}, not a string")
    if not 0 < len(value) <= LONGEST_EVENT_ID or "\0" in value:
        raise RejectedError(
            Reason.OUT_OF_RANGE, f"eventId needs 1 to {LONGEST_EVENT_ID} characters, without NUL"
        )
    return value


def _id(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise _missing_or_wrong(fields, name, "a whole number")
    if not 0 <= value <= LARGEST_ID:
        raise RejectedError(Reason.OUT_OF_RANGE, f"{name} must lie between 0 and 2^63 - 1")
    return value


def _number(fields: dict[str, Any], name: str, largest: int) -> float:
    value = fields.get(name)
    if type(value) is not float and type(value) is not int:
        raise _missing_or_wrong(fields, name, "a number")
    if not (math.isfinite(value) and 0 <= value <= largest):
        raise RejectedError(Reason.OUT_OF_RANGE, f"{name} must lie between 0 and {largest}")
    return float(value)


def _missing_or_wrong(fields: dict[str, Any], name: str, wanted: str) -> RejectedError:
    if fields.get(name) is None:
        return RejectedError(Reason.MISSING_FIELD, f"{name} is missing")
    return RejectedError(Reason.WRONG_TYPE, f"{name} is {_kind(fields[name])}, not {wanted}")


def _moment(value: Any) -> datetime:
    try:
        if type(value) is int:
            return EPOCH + timedelta(milliseconds=value)
        if type(value) is str:
            return parse_timestamp(value, zone_required=True)
    except TimezoneMissingError:
        raise RejectedError(Reason.BAD_TIME, "watchedAt has no time zone") from None
    except (NotATimestampError, OverflowError):
        raise RejectedError(Reason.BAD_TIME, "watchedAt is not a time") from None
    raise RejectedError(
        Reason.WRONG_TYPE, f"watchedAt is {_kind(value)}, neither text nor milliseconds"
    )


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "text", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")

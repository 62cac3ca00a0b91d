"""Timestamps in messages: ISO 8601 text, or numbers since the epoch in a declared unit."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from extensions.sources.event_stream import TimeUnit
from streaming.kafka.message_decoder import Reason, RejectedError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
# A number is absurd in its unit if it falls out of the first range there, and within the second
# one in another unit.
_CONCEIVABLE = (datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))
_LIKELY = (datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
_LARGEST_FLOAT_SECONDS = 1e12


class EpochTime(NamedTuple):
    """A time whose unit the message's own schema declares. ``zoned``: it is an instant."""

    number: int
    unit: Literal["s", "ms", "us", "ns"]
    zoned: bool = True


Read = Callable[[Any], datetime]


def timestamp_reader(  # noqa: C901
    field: str, unit: TimeUnit, *, zone_required: bool
) -> Read:
    """A function from a message's value to an aware datetime in UTC.

    Text is ISO 8601 whatever the unit; it, or a datetime, needs a zone. Numbers are in ``unit``;
    seconds may have a fraction. What is finer than a microsecond is cut off. ``zone_required``
    False: a time without a zone that a schema declares (Avro's local timestamps) is one of UTC.

    Raises (the function):
        RejectedError: the value is no such time.
    """
    fromisoformat = datetime.fromisoformat

    def read(value: Any) -> datetime:  # noqa: C901 - what a time may come as
        kind = type(value)
        if kind is str:
            try:
                parsed = fromisoformat(value)
            except ValueError:
                raise RejectedError(Reason.BAD_TIME, f"{field} is not a time") from None
            return parsed if parsed.tzinfo is UTC else _zoned(field, parsed)
        if isinstance(value, EpochTime):
            if zone_required and not value.zoned:
                raise RejectedError(Reason.BAD_TIME, f"{field} has no time zone")
            return _of_count(field, value.number, value.unit)
        if isinstance(value, datetime):
            if value.tzinfo is None:
                if zone_required:
                    raise RejectedError(Reason.BAD_TIME, f"{field} has no time zone")
                return value.replace(tzinfo=UTC)
            return _in_utc(field, value)
        if unit != "iso":
            if kind is int:
                return _of_count(field, value, unit)
            if unit == "s" and isinstance(value, float | Decimal):
                return _of_seconds(field, value)
        raise RejectedError(
            Reason.WRONG_TYPE,
            f"{field} is {kind_of(value)}, "
            + ("not ISO 8601 text" if unit == "iso" else f"neither ISO text nor {_NAMES[unit]}"),
        )

    return read


def _zoned(field: str, parsed: datetime) -> datetime:
    if parsed.tzinfo is None:
        raise RejectedError(Reason.BAD_TIME, f"{field} has no time zone")
    return _in_utc(field, parsed)


def _in_utc(field: str, value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise RejectedError(Reason.BAD_TIME, f"{field} is not a time") from None


def _of_count(field: str, count: int, unit: str) -> datetime:
    found = at(count, unit)
    if found is None or not _CONCEIVABLE[0] <= found <= _CONCEIVABLE[1]:
        if other := looks_like(count, unit, *_LIKELY):
            raise absurd(field, unit, other)
        if found is None:
            raise RejectedError(Reason.BAD_TIME, f"{field} is not a time in {_NAMES[unit]}")
    return found


def _of_seconds(field: str, value: Any) -> datetime:
    if not abs(value) < _LARGEST_FLOAT_SECONDS:  # NaN, too
        other = looks_like(int(value), "s", *_LIKELY) if abs(value) < 1e20 else None
        if other:
            raise absurd(field, "s", other)
        raise RejectedError(Reason.BAD_TIME, f"{field} is not a time in seconds")
    # A double of today's seconds is exact to a quarter of a microsecond.
    found = at(round(value * 1_000_000), "us")
    if found is None:
        raise RejectedError(Reason.BAD_TIME, f"{field} is not a time in seconds")
    return found


def at(count: int, unit: str) -> datetime | None:
    """The time of a number in a unit; None if no calendar has it."""
    try:
        if unit == "ns":
            return EPOCH + timedelta(microseconds=count // 1_000)
        return EPOCH + timedelta(microseconds=count * _MICROSECONDS[unit])
    except OverflowError:
        return None


def looks_like(count: int, declared: str, first: datetime, last: datetime) -> str | None:
    """The unit in which the number is a time from ``first`` to ``last``, if another one."""
    for unit in _NAMES:
        if unit != declared:
            found = at(count, unit)
            if found is not None and first <= found <= last:
                return unit
    return None


def absurd(field: str, declared: str, other: str) -> RejectedError:
    """The refusal of a number that is a time in another unit than the declared one."""
    return RejectedError(
        Reason.BAD_TIME,
        f"{field} is declared in {_NAMES[declared]}, but looks like {_NAMES[other]}",
    )


def kind_of(value: Any) -> str:
    """What a value is, as JSON calls it; never the value itself."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for kinds, name in (
        (dict, "an object"), (list | tuple, "an array"), (str, "text"), (bytes, "bytes"),
        (EpochTime, "a time"), (datetime, "a time"),
    ):  # fmt: skip
        if isinstance(value, kinds):
            return "a time" if isinstance(value, EpochTime) else name
    return "a number" if hasattr(value, "__float__") else f"a {type(value).__name__}"

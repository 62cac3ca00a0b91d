"""Parsing of timestamps: one rule for text and objects. ISO 8601; without a zone they are UTC."""

from datetime import UTC, datetime

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NotATimestampError(ValueError):
    """What was given is no timestamp; completes a sentence such as "The option must be"."""

    def __init__(self, value: object) -> None:
        super().__init__(
            f"a time such as 2026-01-31T12:00:00Z (without a zone it is UTC), not {value!r}"
        )


class TimezoneMissingError(NotATimestampError):
    """The time names no zone where one is required."""


def parse_timestamp(text: str, *, zone_required: bool = False) -> datetime:
    """One timestamp, in UTC.

    Raises:
        NotATimestampError: the text is no ISO 8601 time.
        TimezoneMissingError: it names no zone, and one is required.
    """
    try:
        parsed = datetime.fromisoformat(text)
        if parsed.tzinfo is not None:
            return parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise NotATimestampError(text) from None
    if zone_required:
        raise TimezoneMissingError(text)
    return parsed.replace(tzinfo=UTC)

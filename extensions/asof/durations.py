"""Durations as tags write them: ``7 days``, ``12 hours``."""

import re
from datetime import timedelta

DURATION = re.compile(r"([1-9]\d{0,6}) (day|hour|minute|second)s?")
_UNITS = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}


def duration_text(duration: timedelta) -> str:
    """A duration of whole seconds in the largest unit that fits, as `DURATION` reads it."""
    seconds = int(duration.total_seconds())
    unit = next(unit for unit, size in _UNITS.items() if seconds % size == 0)
    number = seconds // _UNITS[unit]
    return f"{number} {unit}{'' if number == 1 else 's'}"


def read_duration(text: str) -> timedelta | None:
    """The duration that a tag says; None if it does not read like one."""
    match = DURATION.fullmatch(text)
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]]) if match else None

"""How values are written for people: times with their zone, rounded numbers, no Python literals.

For terminals and messages; JSON keeps every value as it is.
"""

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import singledispatch
from typing import Any

MISSING = "–"
# Control characters but for line breaks and tabs, lone surrogates, and changes of direction.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
YES, NO = "✓", "✗"


@singledispatch
def value_text(value: Any) -> str:
    """One value in one line; what is nested is written out with commas."""
    if is_dataclass(value) and not isinstance(value, type):
        return value_text(asdict(value))
    return str(value)


@value_text.register(type(None))
def _(_value: None) -> str:
    return MISSING


@value_text.register
def _(value: bool) -> str:
    return YES if value else NO


@value_text.register
def _(value: datetime) -> str:
    # As in messages, but that a narrow column of a table can wrap it between date and time.
    return time_text(value).replace("T", " ")


@value_text.register
def _(value: timedelta) -> str:
    return duration_text(value)


@value_text.register
def _(value: Enum) -> str:
    return value_text(value.value)


@value_text.register(float)
@value_text.register(Decimal)
def _(value: float | Decimal) -> str:
    return number_text(float(value))


@value_text.register(bytes)
@value_text.register(bytearray)
@value_text.register(memoryview)
def _(value: bytes) -> str:
    return printable(bytes(value).decode(errors="backslashreplace"))


@value_text.register(str)
def _(value: str) -> str:
    return printable(value)


@value_text.register(Mapping)
def _(value: Mapping[Any, Any]) -> str:
    return ", ".join(f"{name}={value_text(each)}" for name, each in value.items()) or MISSING


@value_text.register(Sequence)
@value_text.register(AbstractSet)
def _(value: Sequence[Any] | AbstractSet[Any]) -> str:
    return ", ".join(value_text(each) for each in value) or MISSING


def printable(text: str) -> str:
    """A text that cannot drive a terminal: control and direction characters are escaped."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def evidence_text(value: Any, longest: int = 60) -> str:
    """A value as evidence: nothing rounded, for two values may differ in the last bit.

    Texts are cut to ``longest`` characters; a long list keeps its first three elements.
    """
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, datetime):
        return exact_time_text(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={evidence_text(each)}" for name, each in value.items()) or MISSING
    if isinstance(value, list | tuple):
        shown = ", ".join(evidence_text(each) for each in value[:3])
        return f"[{shown}, … {len(value)} elements]" if len(value) > 3 else f"[{shown}]"
    text = value_text(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def time_text(at: datetime) -> str:
    """``2026-01-31T08:00:00Z``: UTC, whole seconds. A time without a zone is one of UTC."""
    return f"{_in_utc(at):%Y-%m-%dT%H:%M:%SZ}"


def exact_time_text(at: datetime) -> str:
    """As `time_text`, with the fraction of a second where there is one: for commands to repeat."""
    return _in_utc(at).isoformat().replace("+00:00", "Z")


def _in_utc(at: datetime) -> datetime:
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def number_text(value: float) -> str:
    """Four significant digits; from a thousand on, whole with thousands separators."""
    if abs(value) >= 1_000 and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def bytes_text(count: int) -> str:
    """``512 B``, ``12.3 kB``, ``4.56 GB``: powers of 1,000."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1_000:
            return f"{size:.3g} {unit}"
        size /= 1_000
    return f"{size:.3g} TB"


def duration_text(length: timedelta | float) -> str:
    """``0.5 s``, ``2 min 5 s``, ``3 h 20 min``, ``2 d 4 h``: the two largest units."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else float(length)
    if seconds < 0:
        return f"-{duration_text(-seconds)}"
    if seconds < 10:
        return f"{seconds:.2g} s"
    parts: list[tuple[int, str]] = []
    left = round(seconds)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)

"""The lengths of time that a computation's text has: at these ages a row leaves a window.

A view that counts over a day and over a week changes where a row is a day old, and where it is a
week old; its horizon says the longest alone. Both stand in the text as literals (``interval '24
hours'``), whether it was compiled or written by hand, so they are read there. A length that ends no
window costs some values that are computed once more, and makes none wrong.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache

from extensions.asof.durations import duration_text
from extensions.asof.sql_normalization import scan

# Units of a fixed length, in a session that speaks UTC, where a day has 24 hours.
_SECONDS = {
    **dict.fromkeys(("microsecond", "us", "usec"), Decimal("0.000001")),
    **dict.fromkeys(("millisecond", "ms", "msec"), Decimal("0.001")),
    **dict.fromkeys(("second", "sec", "s"), Decimal(1)),
    **dict.fromkeys(("minute", "min", "m"), Decimal(60)),
    **dict.fromkeys(("hour", "hr", "h"), Decimal(3_600)),
    **dict.fromkeys(("day", "d"), Decimal(86_400)),
    **dict.fromkeys(("week", "w"), Decimal(7 * 86_400)),
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
_CLOCK = re.compile(r"\s*(\d+):(\d\d)(?::(\d\d(?:\.\d+)?))?\s*")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_MOST = Decimal(36_525 * 86_400)


@dataclass(frozen=True)
class WrittenLength:
    """An interval literal: its text and length, None where it has no fixed one (a month).

    ``from_as_of``: it is taken from ``as_of``, so that it ends a window. ``open``: what is just so
    old has left the window (``> as_of - interval``), as the engine's horizons are meant.
    """

    literal: str
    length: timedelta | None
    from_as_of: bool
    open: bool


@lru_cache(maxsize=4096)
def window_ends(text: str) -> frozenset[timedelta]:
    """The ages at which a row may leave a window of the text.

    Where the row of just that age may still count, it leaves a microsecond later.
    """
    found = set()
    for written in written_lengths(text):
        if written.length:
            found.add(written.length)
            if not written.open:
                found.add(written.length + timedelta.resolution)
    return frozenset(found)


def written_lengths(text: str) -> list[WrittenLength]:
    """The interval literals of a text.

    >>> [each.length for each in written_lengths("e.at > s.as_of - interval '36 hours'")]
    [datetime.timedelta(days=1, seconds=43200)]
    """
    tokens = _tokens(text)
    found = []
    for begin, literal, length in _literals(tokens):
        ends = tokens[max(0, begin - 2) : begin] == ["as_of", "-"]
        before = begin - 3
        if ends and tokens[before : before + 1] == ["."]:
            before -= 2
        is_open = ends and before >= 0 and tokens[before] == ">"
        found.append(WrittenLength(literal, length, ends, is_open))
    return found


def window_problems(view: str, text: str, horizon: timedelta | None) -> Iterator[str]:
    """What is wrong with the windows of a text whose value changes by rows that enter and leave."""
    for written in written_lengths(text):
        if not written.from_as_of:
            continue
        if written.length is None:
            yield (
                f"The text of view {view} has a window of {written.literal}, which has no fixed "
                "length, so nobody knows when a row leaves it: write days or hours."
            )
        elif horizon is not None and written.length > horizon:
            yield (
                f"The text of view {view} has a window of {written.literal}, longer than the "
                f"view's horizon ({duration_text(horizon)}): make the horizon as long."
            )


def _tokens(text: str) -> list[str]:
    return [
        part if kind == "literal" else part.lower()
        for kind, part in scan(text)
        if kind not in ("gap", "comment")
    ]


def _literals(tokens: Sequence[str]) -> Iterator[tuple[int, str, timedelta | None]]:
    """Intervals: where the expression begins, its literal and its length."""
    for place, token in enumerate(tokens):
        if not token.startswith("'"):
            continue
        begin, after = place, place + 1
        unit = ""
        if tokens[place - 1 : place] == ["interval"]:
            begin = place - 1
            if tokens[after : after + 1] and tokens[after].rstrip("s") in _SECONDS:
                unit = tokens[after]  # interval '7' day
                after += 1
        elif tokens[after : after + 2] == ["::", "interval"]:
            after += 2
        elif tokens[after : after + 2] == ["as", "interval"]:  # CAST('7 days' AS interval)
            if tokens[place - 2 : place] != ["cast", "("]:
                continue
            begin, after = place - 2, after + 3
        else:
            continue
        length = _length(f"{token[1:-1]} {unit}")
        # 7 * interval '1 day', or the other way round
        factor = Decimal(1)
        if tokens[begin - 1 : begin] == ["*"] and _NUMBER.fullmatch(tokens[begin - 2]):
            factor, begin = Decimal(tokens[begin - 2]), begin - 2
        elif tokens[after : after + 1] == ["*"] and _NUMBER.fullmatch(
            next(iter(tokens[after + 1 : after + 2]), "")
        ):
            factor = Decimal(tokens[after + 1])
        yield begin, token, None if length is None else _duration(length * factor)


def _length(literal: str) -> Decimal | None:
    """The seconds of an interval's text; None where it has none, or has months."""
    at, seconds, parts = 0, Decimal(0), 0
    while literal[at:].strip():
        if clock := _CLOCK.match(literal, at):
            hours, minutes, rest = clock.groups()
            seconds += int(hours) * 3_600 + int(minutes) * 60 + Decimal(rest or 0)
            at = clock.end()
        elif part := _PART.match(literal, at):
            name = part[2].lower()
            unit = _SECONDS.get(name) or _SECONDS.get(name.removesuffix("s"))
            if unit is None:
                return None
            seconds += Decimal(part[1]) * unit
            at = part.end()
        elif parts == 0 and _NUMBER.fullmatch(literal.strip()):  # '30' is seconds
            return Decimal(literal.strip())
        else:
            return None
        parts += 1
    return seconds if parts else None


def _duration(seconds: Decimal) -> timedelta | None:
    if seconds > _MOST:
        return None
    return timedelta(microseconds=int((seconds * 1_000_000).to_integral_value()))

"""When a text's value changes by time alone: the windows that rows leave, and the calendar.

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
_SECOND = timedelta(seconds=1)
# Where the calendar turns, in UTC; what is longer than an hour turns at a day's beginning.
_STEPS = {
    **dict.fromkeys(("microseconds", "microsecond", "milliseconds", "millisecond"), _SECOND),
    **dict.fromkeys(("second", "seconds"), _SECOND),
    **dict.fromkeys(("minute", "minutes"), 60 * _SECOND),
    **dict.fromkeys(("hour", "hours"), 3_600 * _SECOND),
}
_QUARTER = timedelta(minutes=15)
# Words before a parenthesis that are no function's name.
_NO_CALLS = frozenset(
    {"from", "where", "and", "or", "on", "select", "in", "then", "when", "else", "lateral",
     "filter", "by", "not", "as", "join", "having", "exists", "over", "interval", "with",
     "materialized"}
)  # fmt: skip
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


@lru_cache(maxsize=4096)
def windowed_columns(text: str) -> frozenset[str]:
    """The columns whose age a text asks for, as ``e.at > s.as_of - interval '1 day'`` does."""
    tokens = _tokens(text)
    found = set()
    for place in _moments(tokens):
        if tokens[place + 1 : place + 2] != ["-"]:
            continue
        begin = place - 2 if tokens[place - 1 : place] == ["."] else place
        if tokens[begin - 1] in (">", ">=", "between"):
            found.add(tokens[begin - 2])
        named = place + 4 if tokens[place + 3 : place + 4] == ["."] else place + 2
        found.update(tokens[named : named + 1])  # as_of - e.at
    for begin, _, _ in _literals(tokens):
        if begin > 1 and tokens[begin - 1] == "+":  # e.at + interval '1 day'
            found.add(tokens[begin - 2])
    return frozenset(name.strip('"') for name in found)


@lru_cache(maxsize=4096)
def calendar_step(text: str) -> timedelta | None:
    """How often the calendar alone changes what a text says: ``date_trunc('day', s.as_of)``.

    None where it does not ask for a part of ``as_of``. In a time zone of its own a day begins at
    another hour of UTC, of which all lie on quarters.
    """
    tokens = _tokens(text)
    units = {unit for place in _moments(tokens) if (unit := _calendar_unit(tokens, place))}
    if not units:
        return None
    zoned = "zone" in tokens or "timezone" in tokens
    steps = {_STEPS.get(unit, _QUARTER if zoned else timedelta(days=1)) for unit in units}
    return min(steps)


def _moments(tokens: Sequence[str]) -> Iterator[int]:
    return (place for place, word in enumerate(tokens) if word == "as_of")


def _calendar_unit(tokens: Sequence[str], place: int) -> str | None:
    """The unit of which the ``as_of`` at this place is asked; None where it is taken as it is."""
    after = tokens[place + 1 : place + 3]
    if after[:1] == ["::"] and after[1:] in (["date"], ["time"], ["timetz"]):
        return "day" if after[1] == "date" else "second"
    name, opened = _call_around(tokens, place)
    if name in ("date_trunc", "date_part", "extract") and opened + 1 < len(tokens):
        unit = tokens[opened + 1].strip("'").lower()
        return None if unit == "epoch" else unit
    return "day" if name in ("date", "to_char") or name.startswith("cast_date") else None


def _call_around(tokens: Sequence[str], place: int) -> tuple[str, int]:
    """The name of the function whose argument is at this place, and where its arguments begin."""
    depth = 0
    for at in range(place - 1, 0, -1):
        if tokens[at] == ")":
            depth += 1
        elif tokens[at] == "(" and depth:
            depth -= 1
        elif tokens[at] == "(":
            if tokens[at - 1] == "cast" and tokens[place + 1 : place + 3] == ["as", "date"]:
                return "cast_date", at
            if re.fullmatch(r"[a-z_]\w*", tokens[at - 1]) and tokens[at - 1] not in _NO_CALLS:
                return tokens[at - 1], at
    return "", 0


def window_problems(view: str, text: str, horizon: timedelta | None) -> Iterator[str]:
    """What is wrong with the windows of a text whose value changes by rows that enter and leave."""
    if calendar_step(text) == timedelta(seconds=1):
        yield (
            f"The text of view {view} asks for the second of as_of, so its value changes at every "
            'moment: set the tag decays to "true", and freshness to hourly or daily.'
        )
    if _asks_for_ages(text):
        yield (
            f"The text of view {view} computes with the age of rows (extract of epoch), so its "
            'value changes at every moment: set the tag decays to "true", and freshness to hourly '
            "or daily; or, if it is a window, write > as_of - interval '1 hour'."
        )
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


def _asks_for_ages(text: str) -> bool:
    """Whether a text takes the seconds of an age: ``extract(EPOCH FROM s.as_of - e.at)``."""
    tokens = _tokens(text)
    for place in _moments(tokens):
        name, opened = _call_around(tokens, place)
        unit = tokens[opened + 1].strip("'") if opened else ""
        if (name in ("extract", "date_part") and unit == "epoch") or name == "age":
            return True
    return False


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

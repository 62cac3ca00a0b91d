"""Type modifiers: how long a column's texts and how fine its numbers and times may be.

PostgreSQL rounds a number or a time to its column's digits and cuts blanks (a ``name`` of any
letters) without a word. What does not fit a column exactly is refused here, for streams and
imports alike; floating point takes the nearest number.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

from extensions.sources.history_table import Column

# An index of PostgreSQL takes 2,704 bytes in a row, of which times and lengths take a few.
LONGEST_KEYS = 2_600
_MODIFIER = re.compile(r"\(([0-9]+)(?:,(-?[0-9]+))?\)")
_BYTES = {"name": 63, '"char"': 1}
_FINEST = 6
_TIMES = ("timestamp", "time", "interval")


def decimal_places(column: Column) -> int | None:
    """The digits after the point of a ``numeric(p, s)``, or of such in an array."""
    if not column.pg_type.startswith("numeric"):
        return None
    found = _MODIFIER.search(column.full_type)
    return int(found[2] or 0) if found else None


def longest_text(column: Column) -> tuple[int, str] | None:
    """How long a text may be, and in what: ``characters``, or ``bytes``."""
    kind = column.pg_type.removesuffix("[]")
    if kind in _BYTES:
        return _BYTES[kind], "bytes"
    found = _MODIFIER.search(column.full_type)
    if found and kind in ("character varying", "character"):
        return int(found[1]), "characters"
    return None


def time_digits(column: Column) -> int | None:
    """The digits of a second that a column of times keeps; None of other columns."""
    if not column.pg_type.startswith(_TIMES):
        return None
    found = _MODIFIER.search(column.full_type)
    return int(found[1]) if found else _FINEST


def too_fine(field: str, digits: int, *, of_a_second: bool = False) -> str:
    """The reason of a refusal."""
    what = " of a second" if of_a_second else ""
    return f"{field} has more than {digits} digits{what} after the point, which its column rounds"


def too_long(field: str, limit: tuple[int, str]) -> str:
    """The reason of a refusal."""
    return f"{field} has more than {limit[0]:,} {limit[1]}"


def too_long_for_an_index(fields: Sequence[str]) -> str:
    """The reason of a refusal."""
    verb = "is" if len(fields) == 1 else "are together"
    return (
        f"{' and '.join(fields)} {verb} longer than the {LONGEST_KEYS:,} bytes that an index of "
        "ids takes"
    )


def fits_places(number: Decimal, places: int) -> bool:
    """Whether a finite number has no digit but zeros beyond ``places`` after the point."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    beyond = -places - exponent
    return beyond <= 0 or not any(digits[-beyond:])


def finer_than(digits: int) -> str:
    """A regular expression that finds a fraction with more digits than these."""
    return rf"\.[0-9]{{{digits}}}[0-9]*[1-9]"

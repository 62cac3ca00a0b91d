"""Canonical form of entity ids: UUIDs and decimals have several spellings, but are one key.

A text is compared by its bytes: case, Unicode form, spaces and leading zeros count.
"""

import re
import uuid
from decimal import Decimal, InvalidOperation

from feast import ValueType

UUIDS = frozenset({ValueType.UUID, ValueType.TIME_UUID})
SEVERAL_SPELLINGS = UUIDS | {ValueType.DECIMAL}
# As Python and PostgreSQL read a UUID: hyphens and braces may be left out.
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{32}")
_PLAIN_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# The one way in which an integer is written: never ``007``, ``-0``, ``+7``, `` 7`` or ``7.0``.
CANONICAL_INTEGER = r"0|-?[1-9][0-9]{0,18}"
_INTEGER = re.compile(CANONICAL_INTEGER)
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
# PostgreSQL's texts cannot hold this character, so that no log could hold the id.
NUL = "\0"
# Decimals are written out while they are shorter than this, else with an exponent: an id like
# 1e999999999 must not become a gigabyte.
_WRITTEN_OUT = 40


def integer_of(text: str) -> int | None:
    """The 64-bit integer that a text is the canonical decimal form of, as in protobuf's JSON.

    >>> integer_of("42"), integer_of("042"), integer_of("4.0"), integer_of(" 42")
    (42, None, None, None)
    """
    if _INTEGER.fullmatch(text) is None:
        return None
    number = int(text)
    return number if _LEAST <= number <= _MOST else None


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID in its canonical spelling."""
    return _PLAIN_UUID.fullmatch(text) is not None


def canonical(text: str, value_type: ValueType) -> str:
    """The canonical spelling, in which an id is stored and looked up; an invalid text is unchanged.

    >>> canonical("A0EEBC999C0B4EF8BB6D6BB9BD380A11", ValueType.UUID)
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'
    >>> canonical("1.50", ValueType.DECIMAL)
    '1.5'
    """
    if value_type in UUIDS:
        return _uuid(text)
    if value_type == ValueType.DECIMAL:
        return _decimal(text)
    return text


def _uuid(text: str) -> str:
    if _PLAIN_UUID.fullmatch(text):
        return text
    digits = text.strip().removeprefix("{").removesuffix("}").replace("-", "")
    return str(uuid.UUID(digits)) if _HEXADECIMAL.fullmatch(digits) else text


def _decimal(text: str) -> str:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        return text
    if not number.is_finite():
        return "NaN" if number.is_nan() else str(number)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)  # of a finite number
    kept = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(kept)
    kept = kept.lstrip("0")
    if not kept:
        return "0"
    minus = "-" if sign else ""
    if exponent >= 0 and len(kept) + exponent <= _WRITTEN_OUT:
        return minus + kept + "0" * exponent
    if -_WRITTEN_OUT <= exponent < 0:
        padded = kept.rjust(1 - exponent, "0")
        return f"{minus}{padded[:exponent]}.{padded[exponent:]}"
    return f"{minus}{kept}E{exponent}"

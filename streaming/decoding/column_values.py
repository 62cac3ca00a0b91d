"""Values of messages by the type of their column: exact, or refused.

What a row may hold is the contract of the writers: int, float, bool, datetime, date, str, bytes by
the column's PostgreSQL type, and for every other type the text that PostgreSQL casts to it.
"""

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from extensions.sources import Column
from extensions.sources.event_stream import TimeUnit
from extensions.sources.type_modifiers import (
    decimal_places,
    finer_than,
    fits_places,
    longest_text,
    time_digits,
    too_fine,
    too_long,
)
from streaming.decoding.epochs import kind_of, timestamp_reader
from streaming.kafka.message_decoder import Reason, RejectedError

Converter = Callable[[Any], Any]

INTEGERS = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
TEXTS = frozenset({"text", "character varying", "character", '"char"', "name", "citext"})
TIMESTAMPS = frozenset({"timestamp with time zone", "timestamp without time zone"})
# Columns whose values a binary float may not hold: messages are read with exact numbers.
EXACT = re.compile(r"(numeric|json|jsonb)(\[\])?")
# What rounds to more than the largest float of 32 bits.
_LARGEST_REAL = 3.4028235677973362e38
_CANONICAL_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,6})?")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# PostgreSQL's numeric: digits before and after the point.
_NUMERIC_DIGITS = (131_072, 16_383)
_MICROSECOND = timedelta(microseconds=1)


class JsonNumber(Decimal):
    """A JSON number with a fraction or an exponent, digit by digit."""


class ReadExactlyError(Exception):
    """A float may have been a long integer in the JSON: read the message with exact numbers."""


def converter(  # noqa: PLR0911 - one return for each family of types
    field: str,
    column: Column,
    *,
    identifier: bool = False,
    coerce: bool = False,
    unit: TimeUnit = "iso",
    inexact: bool = False,
) -> Converter:
    """A function from a message's value, which is not null, to the column's.

    Args:
        field: The message's name for it, for the refusals.
        column: Its name and PostgreSQL type.
        identifier: A key or id: whole numbers may come as canonical decimal text.
        coerce: Text for a number, a number for text and the like are converted.
        unit: Of times that are numbers.
        inexact: Floats come from a JSON reader that makes floats of long integers.
    """
    kind = column.pg_type
    if kind.endswith("[]"):
        element = Column(column.name, kind[:-2], full_type=column.full_type.removesuffix("[]"))
        inner = converter(field, element, coerce=coerce, unit=unit, inexact=inexact)
        return _array(field, inner)
    if kind in INTEGERS:
        return _integer(field, INTEGERS[kind], text=identifier or coerce, coerce=coerce)
    if kind in ("real", "double precision"):
        return _float(field, real=kind == "real", coerce=coerce, inexact=inexact)
    if kind in TEXTS:
        return _text(field, column, coerce=coerce)
    if kind in TIMESTAMPS:
        return _timestamp(field, column, unit)
    if kind == "numeric":
        return _numeric(field, decimal_places(column))
    if (digits := time_digits(column)) is not None:
        return _time(field, digits, coerce=coerce)
    plain: dict[str, Callable[..., Converter]] = {
        "boolean": _boolean, "uuid": _uuid, "date": _date, "bytea": _bytea,
        "json": _json, "jsonb": _json,
    }  # fmt: skip
    if kind.rpartition(".")[2] in ("vector", "halfvec"):
        return _vector(field)
    return plain.get(kind, _other)(field, coerce=coerce)


def _wrong(field: str, value: Any, wanted: str) -> RejectedError:
    return RejectedError(Reason.WRONG_TYPE, f"{field} is {kind_of(value)}, not {wanted}")


def _integer(  # noqa: C901 - what a whole number may come as
    field: str, bound: int, *, text: bool, coerce: bool
) -> Converter:
    low, high = -bound, bound - 1
    range_ = (
        f"{field} must lie between -2^{bound.bit_length() - 1} and 2^{bound.bit_length() - 1} - 1"
    )

    def read(value: Any) -> int:
        if type(value) is not int:
            value = other(value)
        if not low <= value <= high:
            raise RejectedError(Reason.OUT_OF_RANGE, range_)
        return int(value)

    def other(value: Any) -> int:
        if isinstance(value, str) and text:
            if _CANONICAL_INTEGER.fullmatch(value):
                return int(value)
            raise RejectedError(
                Reason.WRONG_TYPE, f"{field} is text, but no whole number in its canonical form"
            )
        # Declared decimals; of JSON's numbers, 7.0 is no whole number.
        if isinstance(value, Decimal) and not isinstance(value, JsonNumber):
            if value.is_finite() and value.adjusted() < 20 and value == value.to_integral_value():
                return int(value)
            raise RejectedError(Reason.OUT_OF_RANGE, range_)
        if coerce and isinstance(value, float | JsonNumber) and abs(float(value)) < 2**53:
            whole = int(value)
            if whole == value:
                return whole
        if isinstance(value, int) and not isinstance(value, bool):
            return int(value)
        raise _wrong(field, value, "a whole number")

    return read


def _float(field: str, *, real: bool, coerce: bool, inexact: bool) -> Converter:
    largest = _LARGEST_REAL if real else float("inf")

    def read(value: Any) -> float:
        kind = type(value)
        if kind is not float:
            value = other(value)
        elif inexact and not -(2.0**63) < value < 2.0**63:
            raise ReadExactlyError
        if not -largest < value < largest:  # NaN, too
            raise RejectedError(Reason.OUT_OF_RANGE, f"{field} is more than its column holds")
        return float(value)

    def other(value: Any) -> float:
        if isinstance(value, int) and not isinstance(value, bool):
            if not (-(2**63) <= value < 2**63 and int(float(value)) == value):
                raise RejectedError(
                    Reason.OUT_OF_RANGE, f"{field} is a whole number that no float holds exactly"
                )
            return float(value)
        if isinstance(value, Decimal | float):
            return float(value)
        if coerce and isinstance(value, str) and _NUMBER.fullmatch(value):
            return float(value)
        raise _wrong(field, value, "a number")

    return read


def _text(field: str, column: Column, *, coerce: bool) -> Converter:
    limit = longest_text(column)

    def read(value: Any) -> str:
        if type(value) is not str:
            if not coerce or not isinstance(value, bool | int | float | Decimal | UUID | str):
                raise _wrong(field, value, "text")
            value = str(value).lower() if isinstance(value, bool) else str(value)
        value = checked_text(field, value)
        if limit and len(value.encode() if limit[1] == "bytes" else value) > limit[0]:
            raise RejectedError(Reason.OUT_OF_RANGE, too_long(field, limit))
        return str(value)

    return read


def checked_text(field: str, value: str) -> str:
    """The text as it is.

    Raises:
        RejectedError: it has a NUL, or half a surrogate pair, which PostgreSQL cannot store.
    """
    if "\0" in value:
        raise RejectedError(Reason.OUT_OF_RANGE, f"{field} contains NUL")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RejectedError(Reason.ENCODING, f"{field} is not Unicode text") from None
    return value


def _timestamp(field: str, column: Column, unit: TimeUnit) -> Converter:
    zoned = column.pg_type == "timestamp with time zone"
    read = exact_time(field, column, timestamp_reader(field, unit, zone_required=zoned))
    if zoned:
        return read
    return lambda value: read(value).replace(tzinfo=None)


def exact_time(
    field: str, column: Column, read: Callable[..., datetime]
) -> Callable[..., datetime]:
    """``read``, but for times with more digits than their column keeps."""
    digits = time_digits(column)
    step = 1 if digits is None else 10 ** (6 - digits)
    if digits is None or step == 1:
        return read

    def exact(*given: Any) -> datetime:
        found = read(*given)
        if found.microsecond % step:
            raise RejectedError(Reason.OUT_OF_RANGE, too_fine(field, digits, of_a_second=True))
        return found

    return exact


def _time(field: str, digits: int, *, coerce: bool) -> Converter:
    read, finer = _other(field, coerce=coerce), re.compile(finer_than(digits))

    def exact(value: Any) -> str:
        found = str(read(value))
        if finer.search(found):
            raise RejectedError(Reason.OUT_OF_RANGE, too_fine(field, digits, of_a_second=True))
        return found

    return exact


def _boolean(field: str, *, coerce: bool) -> Converter:
    words = {"true": True, "false": False, 1: True, 0: False}

    def read(value: Any) -> bool:
        if value is True or value is False:
            return value
        if coerce and isinstance(value, str | int) and value in words:
            return words[value]
        raise _wrong(field, value, "true or false")

    return read


def _numeric(field: str, places: int | None) -> Converter:
    before, after = _NUMERIC_DIGITS

    def read(value: Any) -> str:
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                raise RejectedError(Reason.WRONG_TYPE, f"{field} is text, but no decimal number")
            value = Decimal(value)
        elif isinstance(value, float):
            value = Decimal(repr(value))
        elif isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise _wrong(field, value, "a number")
        if isinstance(value, Decimal):
            exponent = value.as_tuple().exponent
            if not isinstance(exponent, int) or value.adjusted() >= before or -exponent > after:
                raise RejectedError(Reason.OUT_OF_RANGE, f"{field} is more than its column holds")
        elif value.bit_length() > 3 * before:
            raise RejectedError(Reason.OUT_OF_RANGE, f"{field} is more than its column holds")
        if places is not None and not fits_places(Decimal(value), places):
            raise RejectedError(Reason.OUT_OF_RANGE, too_fine(field, places))
        return _number_text(value)

    return read


def _number_text(value: int | Decimal) -> str:
    """The digits of a number; Python refuses to write long integers, a Decimal does not."""
    return str(Decimal(value) if isinstance(value, int) else value)


def _uuid(field: str, *, coerce: bool) -> Converter:  # noqa: ARG001 - there is nothing to coerce
    def read(value: Any) -> str:
        if isinstance(value, str):
            if _UUID.fullmatch(value):
                return value
            if _HEXADECIMAL.fullmatch(value):
                return str(UUID(value))
            raise RejectedError(Reason.WRONG_TYPE, f"{field} is text, but no UUID")
        if isinstance(value, UUID):
            return str(value)
        if isinstance(value, bytes) and len(value) == 16:
            return str(UUID(bytes=value))
        raise _wrong(field, value, "a UUID")

    return read


def _date(field: str, *, coerce: bool) -> Converter:  # noqa: ARG001
    def read(value: Any) -> date:
        if isinstance(value, date) and not isinstance(value, datetime):
            return value
        if isinstance(value, str):
            try:
                return date.fromisoformat(value)
            except ValueError:
                raise RejectedError(Reason.BAD_TIME, f"{field} is not a date") from None
        raise _wrong(field, value, "a date such as 2026-01-31")

    return read


def _bytea(field: str, *, coerce: bool) -> Converter:  # noqa: ARG001
    def read(value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                raise RejectedError(Reason.WRONG_TYPE, f"{field} is text, but no base64") from None
        raise _wrong(field, value, "bytes in base64")

    return read


_JSON = msgspec.json.Encoder(decimal_format="number")


def _json(field: str, *, coerce: bool) -> Converter:  # noqa: ARG001
    def read(value: Any) -> str:
        try:
            text = _JSON.encode(_plain(value)).decode()
        except (TypeError, ValueError, OverflowError, NotImplementedError, RecursionError):
            raise RejectedError(Reason.WRONG_TYPE, f"{field} holds what is no JSON") from None
        if "\\u0000" in text and _has_nul(value):
            raise RejectedError(Reason.OUT_OF_RANGE, f"{field} contains NUL")
        return text

    return read


def _plain(value: Any) -> Any:  # noqa: C901, PLR0911 - one return for each type
    """The value with JSON's types alone, and every number one that PostgreSQL's JSON holds."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "unit"):
        return [_plain(inner) for inner in value]
    if isinstance(value, Decimal):
        if not value.is_finite() or abs(value.adjusted()) > _NUMERIC_DIGITS[1] - 100:
            raise ValueError
        return Decimal(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value) if not -(2**63) <= value < 2**63 else value
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        raise ValueError
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "unit"):
        return timestamp_reader("", "iso", zone_required=False)(value).isoformat()
    if isinstance(value, datetime | date | time | UUID):
        return str(value) if isinstance(value, UUID) else value.isoformat()
    raise TypeError


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(name) or _has_nul(inner) for name, inner in value.items())
    return isinstance(value, list | tuple) and any(map(_has_nul, value))


def _vector(field: str) -> Converter:
    read = _float(field, real=True, coerce=False, inexact=False)

    def vector(value: Any) -> str:
        if not isinstance(value, list | tuple):
            raise _wrong(field, value, "an array of numbers")
        return "[" + ",".join(repr(read(number)) for number in value) + "]"

    return vector


def _array(field: str, inner: Converter) -> Converter:
    def read(value: Any) -> str:
        if not isinstance(value, list | tuple) or hasattr(value, "unit"):
            raise _wrong(field, value, "an array")
        return "{" + ",".join(map(element, value)) + "}"

    def element(value: Any) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, list):
            return read(value)
        found = inner(value)
        if isinstance(found, bool):
            return "t" if found else "f"
        if isinstance(found, int):
            return str(found)
        if isinstance(found, float):
            return repr(found)
        return _quoted(_element_text(found))

    return read


def _element_text(found: Any) -> str:
    if isinstance(found, bytes):
        return "\\x" + found.hex()
    return found.isoformat() if isinstance(found, date) else str(found)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _other(field: str, *, coerce: bool) -> Converter:
    def read(value: Any) -> str:
        if isinstance(value, time):
            return value.isoformat()
        if isinstance(value, timedelta):
            return f"{value // _MICROSECOND} microseconds"
        if coerce and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, datetime):
            return value.astimezone(UTC).isoformat()
        if not isinstance(value, str):
            raise _wrong(field, value, "text")
        return checked_text(field, value)

    return read

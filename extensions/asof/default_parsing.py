"""Parsing of declared defaults: JSON, read strictly as the feature's Feast type."""

import json
import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal as Number
from typing import Any

from feast.types import (
    Array,
    FeastType,
    Json,
    PrimitiveFeastType,
    Set,
    Struct,
)

from extensions.feature_types import BITS, FEATURE_TYPES
from extensions.timestamps import parse_timestamp

_LARGEST_SINGLE = 3.4028235677973366e38  # what rounds to the largest float of 32 bits


def read_default(view: str, feature: str, declared: str, dtype: FeastType) -> Any:
    """The Python value from which Feast makes the feature's protobuf value; None for ``null``.

    Times are seconds since 1970; bytes are the text's UTF-8; decimals are texts.

    Raises:
        ValueError: the default does not fit the type; the message names the feature.
    """
    try:
        return _value(json.loads(declared, parse_float=Number), dtype)
    except (ValueError, TypeError, OverflowError, ArithmeticError) as error:
        raise ValueError(
            f"The default of {view}:{feature} is {declared!r}, which is no JSON for the type "
            f'{dtype}{_reason(error)}: write tags={{"default": "…"}} with a value of that type.'
        ) from error


def _value(value: Any, dtype: FeastType) -> Any:
    if value is None:
        return None
    if isinstance(dtype, Array | Set):
        _be(isinstance(value, list), "a list")
        _be(None not in value, "a list without null")
        return [_value(item, dtype.base_type) for item in value]
    if isinstance(dtype, Struct):
        _be(isinstance(value, dict), "an object")
        return _plain(value)
    assert isinstance(dtype, PrimitiveFeastType)
    if dtype == Json and isinstance(value, str):
        json.loads(value)
        return value
    read = _READ.get(dtype.name)
    return value if read is None else read(value, dtype.name)


def _be(fits: bool, wanted: str) -> None:
    if not fits:
        raise ValueError(wanted)


def _whole(value: Any, name: str) -> int:
    is_number = isinstance(value, int | Number) and not isinstance(value, bool)
    _be(is_number and value == int(value), "a whole number")
    number, bits = int(value), BITS[FEATURE_TYPES[name].value_type]
    _be(-(2**bits) <= number < 2**bits, f"a whole number of {bits + 1} bits")
    return number


def _float(value: Any, name: str) -> float:
    # Python's JSON reads NaN and Infinity, too, as floats.
    _be(isinstance(value, int | float | Number) and not isinstance(value, bool), "a number")
    number = float(value)
    _be(not math.isnan(number), "a number")  # Feast would serve null
    limit = _LARGEST_SINGLE if name == "FLOAT32" else math.inf
    _be(isinstance(value, float) or abs(number) < limit, "a number of its range")
    return number + 0.0  # a log holds no negative zero


def _instant(value: Any, _name: str) -> int:
    if isinstance(value, str):
        value = Number(str(parse_timestamp(value).timestamp()))
    _be(isinstance(value, int | Number) and not isinstance(value, bool), "a time")
    _be(value == int(value), "a time in whole seconds")
    seconds = int(value)
    datetime.fromtimestamp(seconds, tz=UTC)
    return seconds


def _of(kind: type, wanted: str) -> Callable[[Any, str], Any]:
    def read(value: Any, _name: str) -> Any:
        _be(isinstance(value, kind), wanted)
        return _plain(value)

    return read


def _bytes(value: Any, _name: str) -> bytes:
    _be(isinstance(value, str), "a text")
    return str(value).encode()


def _uuid(value: Any, _name: str) -> str:
    _be(isinstance(value, str), "a UUID")
    return str(uuid.UUID(value))


def _decimal(value: Any, _name: str) -> str:
    _be(isinstance(value, str | int | Number) and not isinstance(value, bool), "a number")
    return str(Number(value))


def _plain(value: Any) -> Any:
    """The value with ``Decimal`` turned back into ``float``."""
    if isinstance(value, Number):
        return float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


_READ: dict[str, Callable[[Any, str], Any]] = {
    "INT32": _whole,
    "INT64": _whole,
    "FLOAT32": _float,
    "FLOAT64": _float,
    "STRING": _of(str, "a text"),
    "BOOL": _of(bool, "true or false"),
    "UNIX_TIMESTAMP": _instant,
    "BYTES": _bytes,
    "PDF_BYTES": _bytes,
    "IMAGE_BYTES": _bytes,
    "UUID": _uuid,
    "TIME_UUID": _uuid,
    "DECIMAL": _decimal,
    "JSON": _of(object, "JSON"),
    "MAP": _of(dict, "an object"),
}


def _reason(error: Exception) -> str:
    short = isinstance(error, ValueError) and str(error).startswith(("a ", "an ", "true ", "JSON"))
    return f" (wanted: {error})" if short else ""

"""Semantic types of Kafka Connect and Debezium: how a source connector encodes times and decimals.

Their names stand in the schema that comes with a message: ``name`` in the JSON converter's
schema, ``connect.name`` in an Avro schema. References: Debezium's documentation, "Data type
mappings" of the PostgreSQL and MySQL connectors; ``org.apache.kafka.connect.data``.
"""

import base64
from collections.abc import Callable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from streaming.decoding.epochs import EpochTime

_DEBEZIUM, _CONNECT = "io.debezium.time.", "org.apache.kafka.connect.data."
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAY_US = 86_400_000_000

Reader = Callable[[Any], Any]


def semantic_reader(name: str | None, parameters: Mapping[str, str]) -> Reader | None:
    """The function that makes the value of a semantic type; None for a type without one.

    Raises (the function):
        ValueError, TypeError, OverflowError: the value is none of its type.
    """
    if name == _CONNECT + "Decimal":
        scale = int(parameters.get("scale", "0"))
        return lambda value: _decimal(value, scale)
    return _READERS.get(name or "")


def _decimal(value: Any, scale: int) -> Decimal:
    """Unscaled two's complement bytes (base64 in JSON), big-endian."""
    if isinstance(value, Decimal):
        return value
    unscaled = base64.b64decode(value, validate=True) if isinstance(value, str) else value
    if not isinstance(unscaled, bytes):
        raise TypeError
    # Not `scaleb`, which rounds to the context's 28 digits.
    sign, digits, _ = Decimal(int.from_bytes(unscaled, "big", signed=True)).as_tuple()
    return Decimal((sign, digits, -scale))


def _variable_decimal(value: Any) -> Decimal:
    return _decimal(value["value"], int(value["scale"]))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _days(value: Any) -> date:
    if isinstance(value, date):  # the converter's own logical type
        return value
    return date.fromordinal(_EPOCH_DAY + _whole(value))


def _epoch(unit: Any, *, zoned: bool) -> Reader:
    return lambda value: (
        value if isinstance(value, EpochTime) else EpochTime(_whole(value), unit, zoned)
    )


def _time_of_day(units_per_second: int) -> Reader:
    def read(value: Any) -> time:
        if isinstance(value, time):
            return value
        us = _whole(value) * 1_000_000 // units_per_second
        if not 0 <= us < _DAY_US:
            raise ValueError
        second, us = divmod(us, 1_000_000)
        return time(second // 3600, second // 60 % 60, second % 60, us)

    return read


# `Timestamp`s of Debezium have no zone: they are what a column without one shows, as if in UTC.
_READERS: dict[str, Reader] = {
    "io.debezium.data.VariableScaleDecimal": _variable_decimal,
    _DEBEZIUM + "Date": _days,
    _DEBEZIUM + "Time": _time_of_day(1_000),
    _DEBEZIUM + "MicroTime": _time_of_day(1_000_000),
    _DEBEZIUM + "NanoTime": _time_of_day(1_000_000_000),
    _DEBEZIUM + "Timestamp": _epoch("ms", zoned=False),
    _DEBEZIUM + "MicroTimestamp": _epoch("us", zoned=False),
    _DEBEZIUM + "NanoTimestamp": _epoch("ns", zoned=False),
    _DEBEZIUM + "MicroDuration": lambda value: timedelta(microseconds=_whole(value)),
    _CONNECT + "Date": _days,
    _CONNECT + "Time": _time_of_day(1_000),
    _CONNECT + "Timestamp": _epoch("ms", zoned=True),
}

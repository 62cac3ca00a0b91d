"""Parsing of timestamps: one rule for text and objects. ISO 8601; without a zone they are UTC."""

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from extensions.errors import InputError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A zone after a time of day; the last two digits of a bare date are none.
_ZONE = re.compile(r"[Tt ]\S*\s*([Zz]|UTC|[+-]\d{2}(:?\d{2}){0,2})$")


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


def parse_timestamps(values: "pd.Series[Any]") -> pa.ChunkedArray:
    """A column of texts, objects or both, each in a form of its own.

    Returns:
        Nanoseconds in UTC, null where there is no value.

    Raises:
        NotATimestampError: a value is no time, or none of the years 1678 to 2261.
    """
    result = coerce_timestamps(values, values.map(_has_zone).to_numpy(bool))
    wrong = np.isnat(result) & values.notna().to_numpy()
    if wrong.any():
        raise NotATimestampError(values[wrong].iloc[0])
    return pa.chunked_array([pa.array(result).cast(pa.timestamp("ns", "UTC"))])


def parse_column(values: "pd.Series[Any]", name: str) -> pa.ChunkedArray:
    """As `parse_timestamps`.

    Raises:
        SkewlessError: a value is no time, by the column's name.
    """
    try:
        return parse_timestamps(values)
    except NotATimestampError as error:
        raise InputError(f"The column {name} must hold {error}.") from error


def coerce_timestamps(values: "pd.Series[Any]", zoned: NDArray[np.bool_]) -> NDArray[np.datetime64]:
    """Nanoseconds in UTC, ``NaT`` for what is no time; ``zoned``: which values name a zone."""
    result = np.full(len(values), "NaT", "datetime64[ns]")
    # Apart, since pandas 2 reads a time without a zone in the zone of the row before it.
    for part in (zoned, ~zoned):
        if part.any():
            parsed = pd.to_datetime(values[part], utc=True, format="ISO8601", errors="coerce")
            result[part] = pd.DatetimeIndex(parsed).as_unit("ns").tz_localize(None)
    return result


def in_utc(times: Any) -> Any:
    """An Arrow column or array of timestamps in UTC, in its own unit; without a zone it is UTC."""
    if times.type.tz is None:
        return pc.assume_timezone(times, "UTC")
    return times.cast(pa.timestamp(times.type.unit, "UTC"))


def _has_zone(value: Any) -> bool:
    if isinstance(value, str):
        return _ZONE.search(value.strip()) is not None
    return isinstance(value, datetime) and value.tzinfo is not None

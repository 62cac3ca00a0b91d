"""Parsing of timestamp columns, by the rule of `extensions.timestamps`; imports pandas."""

import re
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from extensions.errors import InputError
from extensions.timestamps import NotATimestampError

# A zone after a time of day; the last two digits of a bare date are none.
_ZONE = re.compile(r"[Tt ]\S*\s*([Zz]|UTC|[+-]\d{2}(:?\d{2}){0,2})$")


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

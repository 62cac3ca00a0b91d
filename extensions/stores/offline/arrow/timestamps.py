"""Moments as people and programs write them: text or objects, zones mixed; without one, UTC."""

import re
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa

# A zone after a time of day; the last two digits of a bare date are none.
_ZONE = re.compile(r"[Tt ]\S*\s*([Zz]|UTC|[+-]\d{2}(:?\d{2}){0,2})$")


def parsed(moments: "pd.Series[Any]") -> pa.ChunkedArray:
    """Nanoseconds in UTC, null where there is none; one form for each row (ISO 8601).

    Raises:
        ValueError, TypeError: a value is no time.
    """
    # Apart, since pandas 2 reads a time without a zone in the zone of the row before it.
    zoned = moments.map(_has_zone).astype(bool)
    result = pd.Series(pd.NaT, index=range(len(moments)), dtype="datetime64[ns, UTC]")
    for those in (zoned.to_numpy(), ~zoned.to_numpy()):
        if those.any():
            part = pd.to_datetime(moments[those], utc=True, format="ISO8601")
            result[those] = part.to_numpy()
    return pa.chunked_array([pa.Array.from_pandas(result)]).cast(
        pa.timestamp("ns", "UTC"), safe=False
    )


def _has_zone(value: Any) -> bool:
    if isinstance(value, str):
        return _ZONE.search(value.strip()) is not None
    return isinstance(value, datetime) and value.tzinfo is not None

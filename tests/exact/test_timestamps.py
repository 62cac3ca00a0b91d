"""One rule for times as text: ISO 8601, UTC where no zone is named, one sentence for the rest."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest

from extensions.timestamp_column_parsing import parse_timestamps
from extensions.timestamps import NotATimestampError, parse_timestamp

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
EAST = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    "text", ["2026-01-31T12:00:00Z", "2026-01-31 12:00", "2026-01-31T17:30+05:30"]
)
def test_a_text_and_a_column_mean_the_same(text: str) -> None:
    assert parse_timestamp(text) == NOON
    assert parse_timestamp(text).tzinfo == UTC
    assert parse_timestamps(pd.Series([text])).to_pylist() == [pd.Timestamp(NOON)]


def test_each_row_has_a_form_of_its_own() -> None:
    values: list[Any] = [
        NOON.astimezone(EAST), "2026-01-31T12:00:00", "2026-01-31T07:00:00-05:00",
        NOON.replace(tzinfo=None), np.datetime64("2026-01-31T12:00"), None, pd.NaT,
        date(2026, 1, 31),
    ]  # fmt: skip
    wanted = [pd.Timestamp(NOON)] * 5 + [None, None, pd.Timestamp("2026-01-31", tz=UTC)]
    # An index of the frame's own, as labels have it after a filter.
    column = pd.Series(values, dtype=object, index=range(10, 10 + len(values)))
    assert parse_timestamps(column).to_pylist() == wanted


@pytest.mark.parametrize("value", ["yesterday", "2026-02-30", "", 5, 5.5, True, b"2026", [1]])
def test_what_is_no_time_is_shown(value: Any) -> None:
    with pytest.raises(NotATimestampError, match="such as 2026-01-31T12:00:00Z") as error:
        parse_timestamps(pd.Series(["2026-01-31", value], dtype=object))
    assert repr(value) in str(error.value)
    if isinstance(value, str):
        with pytest.raises(NotATimestampError, match="without a zone it is UTC"):
            parse_timestamp(value)


def test_a_time_that_utc_cannot_hold_is_refused() -> None:
    with pytest.raises(NotATimestampError):
        parse_timestamp("0001-01-01T00:00:00+05:00")

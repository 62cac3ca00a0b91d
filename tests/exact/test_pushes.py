"""What is pushed online is what was pushed, or it is refused by its column."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore, FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Array, Float32, Float64, Int32, Int64, Json, String

from extensions.errors import SkewlessError
from tests.exact.conftest import user

AT = datetime(2026, 1, 1, tzinfo=UTC)
LARGE = 2**53 + 1
TYPES = {
    "whole": Int64, "small": Int32, "single": Float32, "double": Float64, "word": String,
    "wholes": Array(Int64), "document": Json,
}  # fmt: skip
ROW = {
    "whole": LARGE, "small": -7, "single": 0.1, "double": 0.1, "word": "ü", "wholes": [LARGE, 1],
    "document": '{"a": 1}',
}  # fmt: skip


@pytest.fixture
def pushed(store: FeatureStore) -> FeatureStore:
    view = FeatureView(
        name="pushed",
        entities=[user],
        ttl=timedelta(0),
        schema=[
            Field(name="user_id", dtype=Int64),
            *(Field(name=name, dtype=dtype) for name, dtype in TYPES.items()),
        ],
        source=PostgreSQLSource(
            name="pushed",
            query="SELECT 1",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )
    store.apply([view], skip_feature_view_validation=True)
    return store


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    made = pd.DataFrame(
        {
            name: pd.Series([row[name] for row in rows], dtype="Int64" if name == "whole" else None)
            for name in rows[0]
        }
    )
    made["user_id"] = range(1, len(rows) + 1)
    return made.assign(event_timestamp=AT, created_timestamp=AT)


def read(store: FeatureStore, users: int) -> dict[str, list[Any]]:
    asked = [{"user_id": one} for one in range(1, users + 1)]
    found: dict[str, list[Any]] = store.get_online_features(
        [f"pushed:{name}" for name in TYPES], asked
    ).to_dict()
    return found


def test_a_null_beside_costs_no_digits(pushed: FeatureStore) -> None:
    """Feast's own conversion made 2^53 of 2^53 + 1."""
    pushed.write_to_online_store("pushed", frame([ROW, {**ROW, "whole": None, "wholes": None}]))
    found = read(pushed, 2)
    assert found["whole"] == [LARGE, None]
    assert found["wholes"] == [[LARGE, 1], None]
    assert found["double"] == [0.1, 0.1]
    assert found["single"] == pytest.approx([0.1, 0.1], rel=1e-7)
    assert found["word"] == ["ü", "ü"]
    assert found["document"] == [{"a": 1}, {"a": 1}]


@pytest.mark.parametrize(
    ("column", "value"),
    [("small", 3_000_000_000), ("small", 5.7), ("small", "x"), ("wholes", [1.5]),
     ("wholes", [1, None]), ("single", 1e300), ("document", "{")],
)  # fmt: skip
def test_what_is_no_such_value_is_refused(pushed: FeatureStore, column: str, value: Any) -> None:
    with pytest.raises(SkewlessError, match=f"column {column}"):
        pushed.write_to_online_store("pushed", frame([{**ROW, column: value}]))
    assert read(pushed, 1)["word"] == [None]


def test_times_as_texts_are_read_by_the_one_rule(pushed: FeatureStore) -> None:
    """Zones mixed, none is UTC: of two rows for a user, the later instant stays."""
    texts = ["2026-01-01T12:00:00+05:00", "2026-01-01T08:00:00"]
    rows = frame([{**ROW, "small": number} for number in range(2)])
    rows = rows.assign(user_id=1, event_timestamp=texts, created_timestamp=texts)
    pushed.write_to_online_store("pushed", rows)
    assert read(pushed, 1)["small"] == [1]
    pushed.write_to_online_store("pushed", rows.iloc[::-1])
    assert read(pushed, 1)["small"] == [1]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT], ids=str)
def test_a_missing_id_is_refused_by_reads_and_writes(pushed: FeatureStore, missing: Any) -> None:
    """Feast answered None with an AttributeError's words, and NaN as a cast that failed."""
    for ids in ([missing], [1, missing]):
        with pytest.raises(SkewlessError, match=r"id .*is null: give every row its id"):
            pushed.get_online_features(["pushed:small"], [{"user_id": one} for one in ids])
        with pytest.raises(SkewlessError, match=r"id .*is null: give every row its id"):
            pushed.get_online_features(["pushed:small"], {"user_id": ids})
    rows = frame([ROW]).assign(user_id=pd.Series([missing], dtype=object))
    with pytest.raises(SkewlessError, match=r"id is null: give every row its id"):
        pushed.write_to_online_store("pushed", rows)


@pytest.mark.parametrize("several", [False, True])
def test_a_row_of_nulls_ends_the_values_before(pushed: FeatureStore, several: bool) -> None:
    """Feast warned, wrote nothing and answered that all was well: the old values were served on."""
    pushed.write_to_online_store("pushed", df=frame([ROW, ROW]))
    later = frame([ROW, ROW] if several else [ROW]).assign(event_timestamp=AT + timedelta(hours=1))
    for name in TYPES:
        later[name] = None
    pushed.write_to_online_store("pushed", df=later)
    rows = [{"user_id": 1}, {"user_id": 2}]
    read = pushed.get_online_features([f"pushed:{name}" for name in TYPES], rows).to_dict()
    for name in TYPES:
        assert read[name][0] is None
        assert (read[name][1] is None) == several


def test_a_row_of_nulls_is_written_by_asyncio_too(pushed: FeatureStore) -> None:
    pushed.write_to_online_store("pushed", df=frame([ROW]))
    later = frame([ROW]).assign(event_timestamp=AT + timedelta(hours=1))
    for name in TYPES:
        later[name] = None
    asyncio.run(pushed.write_to_online_store_async("pushed", df=later))
    read = pushed.get_online_features(["pushed:word"], [{"user_id": 1}]).to_dict()
    assert read["word"] == [None]

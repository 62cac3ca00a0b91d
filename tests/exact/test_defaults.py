"""A default is one value in training and online, whatever its type and the column's."""

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore, FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    Int64,
    Json,
    Map,
    String,
    UnixTimestamp,
    Uuid,
)

from tests.exact.conftest import user

AT = datetime(2026, 1, 1, tzinfo=UTC)
NUMBER = itertools.count()
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
IDENT = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
CASES = [
    ("bigint", Int64, "7", 7),
    ("integer", Int64, "-7", -7),
    ("bigint", Int64, "null", None),
    ("numeric", Float64, "0.1", 0.1),
    ("real", Float32, "0.5", 0.5),
    ("double precision", Float64, "-Infinity", float("-inf")),
    ("boolean", Bool, "false", False),
    ("text", String, '"it\'s \\\\ \\"none\\" 日本"', 'it\'s \\ "none" 日本'),
    ("varchar(20)", String, '""', ""),
    ("uuid", Uuid, f'"{IDENT.upper()}"', IDENT),
    ("numeric", Decimal, "1.50", "1.50"),
    ("numeric", Decimal, '"123456789012345678901234567890.5"', "123456789012345678901234567890.5"),
    ("timestamptz", UnixTimestamp, "0", datetime(1970, 1, 1, tzinfo=UTC)),
    ("timestamptz", UnixTimestamp, '"2026-01-31T12:00:00Z"', NOON),
    ("timestamp", UnixTimestamp, "-1", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ("date", UnixTimestamp, "86400", datetime(1970, 1, 2, tzinfo=UTC)),
    ("bytea", Bytes, '"ab\\\\c"', b"ab\\c"),
    ("jsonb", Json, '{"a": [1, 2.5, null, "x"]}', {"a": [1, 2.5, None, "x"]}),
    ("json", Json, "[1, 2]", [1, 2]),
    ("text", Json, '{"a": 1}', {"a": 1}),
    ("jsonb", Map, '{"a": 1, "b": "x"}', {"a": 1, "b": "x"}),
    ("bigint[]", Array(Int64), "[]", []),
    ("text[]", Array(String), '["a,b", "\\"{}\\\\", ""]', ["a,b", '"{}\\', ""]),
    ("boolean[]", Array(Bool), "[true, false]", [True, False]),
    ("real[]", Array(Float32), "[1, 0.5]", [1.0, 0.5]),
    ("timestamptz[]", Array(UnixTimestamp), "[0]", [datetime(1970, 1, 1, tzinfo=UTC)]),
    ("bigint[][]", Array(Array(Int64)), "[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
]  # fmt: skip


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(
    ("column", "dtype", "default", "right"), CASES, ids=[f"{c[0]}-{c[1]}-{c[2][:9]}" for c in CASES]
)
def test_one_default(
    store: FeatureStore,
    conn: psycopg.Connection,
    column: str,
    dtype: Any,
    default: str,
    right: Any,
) -> None:
    name = f"with_default_{next(NUMBER)}"
    conn.execute(
        f"CREATE TABLE {name} (user_id bigint, event_timestamp timestamptz, "
        f"created_timestamp timestamptz, x {column})"
    )
    view = FeatureView(
        name=name,
        entities=[user],
        ttl=timedelta(0),
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="x", dtype=dtype, tags={"default": default}),
        ],
        source=PostgreSQLSource(
            name=name,
            table=name,
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )
    store.apply([view])
    labels = pd.DataFrame({"user_id": [1], "event_timestamp": [AT]})
    [trained] = store.get_historical_features(labels, [f"{name}:x"]).to_arrow()["x"].to_pylist()
    [served] = store.get_online_features([f"{name}:x"], [{"user_id": 1}]).to_dict()["x"]
    assert repr(plain(trained, dtype)) == repr(plain(right, dtype))
    assert repr(plain(served, dtype)) == repr(plain(right, dtype))


def plain(value: Any, dtype: Any) -> Any:
    """Without what only the form differs in: JSON as a text, dates and times without a zone."""
    if isinstance(value, list) and isinstance(dtype, Array):
        return [plain(item, dtype.base_type) for item in value]
    if dtype in (Json, Map) and isinstance(value, str):
        return json.loads(value)
    if isinstance(value, dict):
        return dict(sorted(value.items()))
    if dtype == UnixTimestamp and value is not None:
        if not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return str(value) if dtype in (Uuid, Decimal) else value

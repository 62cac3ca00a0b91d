"""A label joins the rows that a request with the same key is served, whatever the key's type."""

import itertools
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal as Number
from decimal import InvalidOperation
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Decimal, Int32, Int64, String, UnixTimestamp, Uuid
from hypothesis import given
from hypothesis import strategies as st

from extensions.errors import InputError, SkewlessError
from extensions.stores.values.canonical_keys import canonical

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(days=1)
NUMBER = itertools.count()
IDENT = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"

# A column, what it holds, the declared type, and labels: those that are the row's key, and others.
CASES = [
    ("char(2)", "DE", String, ["DE"], ["D", "de", "DEX"]),
    ("char(8)", "A-1", String, ["A-1"], ["A-", "A-1 x"]),
    ("varchar(3)", "abc", String, ["abc"], ["abcd", "ab"]),
    ("text", "Ü '%\"\\", String, ["Ü '%\"\\"], ["ü '%\"\\"]),
    ("name", "abc", String, ["abc"], ["abcd"]),
    ("exact_kind", "sad", String, ["sad"], ["happy", "glad", ""]),
    ("exact_short", "A-1", String, ["A-1"], ["B"]),
    ("bit(4)", "1010", String, ["1010"], ["10", "x", "10100"]),
    ("varbit", "101", String, ["101"], ["1010"]),
    ("inet", "10.0.0.1", String, ["10.0.0.1"], ["10.0.0.1/32", "10.0.0.2", "nobody"]),
    ("cidr", "10.0.0.0/8", String, ["10.0.0.0/8"], ["10/8"]),
    ("macaddr", "08:00:2b:01:02:03", String, ["08:00:2b:01:02:03"], ["08002b010203"]),
    ("uuid", IDENT, String, [IDENT], [IDENT.upper(), "no uuid"]),
    ("numeric", "1.50", String, ["1.50"], ["1.5", "x"]),
    ("date", "2026-01-31", String, ["2026-01-31"], ["20260131", "x"]),
    ("interval", "1 day", String, ["1 day"], ["24:00:00"]),
    ("boolean", "t", String, ["true"], ["t", "yes"]),
    ("jsonb", '{"a": 1}', String, ['{"a": 1}'], ['{"a":1}']),
    ("int4range", "[1,5)", String, ["[1,5)"], ["[1,4]"]),
    ("uuid", IDENT, Uuid, [IDENT, IDENT.upper(), IDENT.replace("-", ""), f"{{{IDENT}}}",
                           uuid.UUID(IDENT)], ["no uuid", IDENT[:-1] + "2"]),
    ("text", IDENT.upper(), Uuid, [IDENT, IDENT.upper()], ["no uuid"]),
    ("numeric", "1.50", Decimal, ["1.50", "1.5", "+1.500", "15e-1", Number("1.5")], ["1.51", "x"]),
    ("numeric(12,2)", "100.00", Decimal, ["100", "1e2", "100.0"], ["100.001", "NaN"]),
    ("bigint", "7", Decimal, ["7", "7.0"], ["7.5", "99999999999999999999"]),
    ("smallint", "7", Int64, [7], [2**40, -(2**63), 32775]),
    ("integer", "7", Int64, [7], [3_000_000_000, 2**32 + 7]),
    ("exact_small", "7", Int64, [7], [-1, 2**40]),
    ("numeric", "7", Int64, [7], [8]),
    ("double precision", "7", Int64, [7], [8, 2**53 + 1]),
    ("text", "7", Int64, [7], [8]),
    ("bigint", "7", Int32, [7], [8]),
    ("timestamptz", "2026-01-31 12:00:00+00", UnixTimestamp,
     [datetime(2026, 1, 31, 12, tzinfo=UTC)], [datetime(2026, 1, 31, 12, 0, 1, tzinfo=UTC)]),
    ("date", "2026-01-31", UnixTimestamp, [datetime(2026, 1, 31, tzinfo=UTC)],
     [datetime(2026, 1, 31, 1, tzinfo=UTC)]),
]  # fmt: skip


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TYPE exact_kind AS ENUM ('happy', 'sad');"
            "CREATE DOMAIN exact_short AS char(8);"
            "CREATE DOMAIN exact_small AS integer CHECK (VALUE > 0)"
        )
        yield connection


def applied(
    store: FeatureStore, conn: psycopg.Connection, column: str, dtype: Any, held: str
) -> str:
    name = f"keyed_{next(NUMBER)}"
    conn.execute(
        f"CREATE TABLE {name} (k {column}, event_timestamp timestamptz, "
        "created_timestamp timestamptz, x bigint)"
    )
    conn.execute(f"INSERT INTO {name} VALUES (%s::text::{column}, %s, %s, 5)", [held, AT, AT])
    entity = Entity(name=name, join_keys=["k"], value_type=dtype.to_value_type())
    view = FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),
        schema=[Field(name="k", dtype=dtype), Field(name="x", dtype=Int64)],
        source=PostgreSQLSource(
            name=name,
            table=name,
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )
    store.apply([entity, view])
    return name


def answered(store: FeatureStore, name: str, label: Any) -> list[Any]:
    try:
        found: list[Any] = store.get_online_features([f"{name}:x"], [{"k": label}]).to_dict()["x"]
    except (ValueError, InvalidOperation, InputError):  # an id that is no such value
        return [None]
    return found


@pytest.mark.parametrize(
    ("column", "held", "dtype", "same", "others"), CASES, ids=[f"{c[0]}-{c[2]}" for c in CASES]
)
def test_training_and_serving_know_the_same_keys(
    store: FeatureStore,
    conn: psycopg.Connection,
    column: str,
    held: str,
    dtype: Any,
    same: list[Any],
    others: list[Any],
) -> None:
    name = applied(store, conn, column, dtype, held)
    store.materialize(AT - timedelta(1), AT + timedelta(1), feature_views=[name])
    for label, right in [*((one, 5) for one in same), *((one, None) for one in others)]:
        frame = pd.DataFrame({"k": [label], "event_timestamp": [LATER]})
        trained = store.get_historical_features(frame, [f"{name}:x"]).to_arrow()["x"].to_pylist()
        served = answered(store, name, label)
        assert (trained, served) == ([right], [right]), label
    query = f"SELECT k, timestamptz '{LATER}' AS event_timestamp FROM {name}"
    if not (dtype == Int64 and column == "text") and not (
        dtype == String and column in ("numeric", "boolean")
    ):
        table = store.get_historical_features(query, [f"{name}:x"]).to_arrow()
        assert table["x"].to_pylist() == [5]
        return
    with pytest.raises(SkewlessError, match="The key k must be"):
        store.get_historical_features(query, [f"{name}:x"]).to_arrow()


@pytest.mark.parametrize(
    "value", ["5.7", "1e30::float8", "'NaN'::float8", "2.5::real", "9e18::numeric * 9"]
)
def test_inexact_keys_of_a_query_are_refused(
    store: FeatureStore, conn: psycopg.Connection, value: str
) -> None:
    name = applied(store, conn, "bigint", Int64, "7")
    query = f"SELECT {value} AS k, timestamptz '{LATER}' AS event_timestamp"
    with pytest.raises(SkewlessError, match=r"The key k must be Int64.* returns "):
        store.get_historical_features(query, [f"{name}:x"]).to_arrow()
    whole = f"SELECT 7.0::numeric AS k, timestamptz '{LATER}' AS event_timestamp"
    answer = store.get_historical_features(whole, [f"{name}:x"]).to_arrow()
    assert answer["x"].to_pylist() == [5]


@given(number=st.decimals(allow_nan=False, allow_infinity=False), zeros=st.integers(0, 5))
def test_a_decimal_has_one_spelling(number: Number, zeros: int) -> None:
    text = str(number)
    plain = canonical(text, ValueType.DECIMAL)
    assert Number(plain) == number
    assert canonical(plain, ValueType.DECIMAL) == plain
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    longer = Number((sign, (*digits, *(0,) * zeros), exponent - zeros))
    assert canonical(str(longer), ValueType.DECIMAL) == plain


def test_an_id_with_a_large_exponent_stays_small() -> None:
    assert canonical("1e999999999", ValueType.DECIMAL) == "1E999999999"

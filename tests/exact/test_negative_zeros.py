"""There is one zero: no way into a log, and none online, lets a negative zero through."""

import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from feast import FeatureStore, FeatureView, Field, PushSource
from feast.data_source import PushMode
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, Float64, Int64

from extensions.asof import Computation, FeatureColumn, Freshness, Spine, append, compute
from extensions.asof.default_parsing import read_default
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.database import connect, connect_arrow
from extensions.stores.online_codec.column_format import encode_message
from streaming.processing.feature_computation import log_values
from tests.exact.conftest import user
from tests.history.tables import import_events, write_csv

AT = datetime(2026, 1, 1, tzinfo=UTC)
# Feature, PostgreSQL's type, Feast's, and the value that is written.
FEATURES: dict[str, tuple[str, Any, Any]] = {
    "single": ("real", Float32, -0.0),
    "double": ("double precision", Float64, -0.0),
    "singles": ("real[]", Array(Float32), [-0.0, 0.25, -0.0]),
    "doubles": ("double precision[]", Array(Float64), [2.5, -0.0]),
    "nested": ("double precision[]", Array(Array(Float64)), [[-0.0, 7.0], [0.0, -0.0]]),
    "plain": ("real", Float32, -1.5),
    "not_finite": ("double precision[]", Array(Float64), [-math.inf, math.inf, -0.0]),
}
# The stream has no values of several dimensions.
COMPUTED = [name for name in FEATURES if name != "nested"]


def signs(value: Any) -> list[float]:
    """The numbers in a value, and of a zero 1 or -1, which are none of the numbers here."""
    if isinstance(value, list):
        return [sign for item in value for sign in signs(item)]
    return [] if value is None else [math.copysign(1, value) if value == 0 else value]


def expected(name: str) -> list[float]:
    def folded(value: Any) -> Any:
        return [folded(item) for item in value] if isinstance(value, list) else value + 0.0

    return signs(folded(FEATURES[name][2]))


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return f"ARRAY[{', '.join(map(_literal, value))}]"
    return f"'{value}'::float8"


@pytest.fixture
def computed() -> Computation:
    """A view whose every value is a negative zero, or has one in it."""
    columns = ", ".join(
        f"{_literal(value)}::{kind} AS {name}" for name, (kind, _, value) in FEATURES.items()
    )
    return Computation(
        view="zeros", version=1, sql=f"SELECT s.user_id, s.as_of, {columns} FROM spine AS s",
        join_keys=("user_id",), key_types=("bigint",),
        features=tuple(FeatureColumn(name, FEATURES[name][0], None) for name in FEATURES),
        horizon=timedelta(days=1), freshness=Freshness.HOURLY, decays=False, reads=(),
    )  # fmt: skip


@pytest.fixture
def log(database: str, computed: Computation) -> Iterator[psycopg.Connection]:
    with connect(database, autocommit=True) as conn:
        ensure_log_tables(conn, [computed])
        yield conn
        conn.execute("DROP TABLE zeros_v1")


def logged(conn: psycopg.Connection) -> dict[str, list[float]]:
    [row] = conn.execute(f"SELECT {', '.join(FEATURES)} FROM zeros_v1").fetchall()
    return {name: signs(value) for name, value in zip(FEATURES, row, strict=True)}


EXPECTED = {name: expected(name) for name in FEATURES}


def test_what_is_computed(log: psycopg.Connection, computed: Computation, database: str) -> None:
    spine = Spine.of([(1, AT)], computed)
    append(log, computed, spine)
    assert logged(log) == EXPECTED
    log.execute("TRUNCATE zeros_v1")
    flat = replace(computed, features=tuple(f for f in computed.features if f.name in COMPUTED))
    streamed = log_values(log, flat, spine)
    wanted = {name: EXPECTED[name] for name in COMPUTED}
    assert {name: logged(log)[name] for name in COMPUTED} == wanted
    with connect_arrow(database) as arrow:
        answered = compute(arrow, flat, spine)
    for table in (streamed, answered):
        assert {name: signs(table[name].to_pylist()[0]) for name in COMPUTED} == wanted


def test_what_is_computed_from_an_import(
    database: str, computations: dict[str, Computation], tmp_path: Path
) -> None:
    computation = computations["user_item_progress.v1"]
    header = "event_id,user_id,item_id,watched_at,ingested_at,duration_ms,progress"
    at = "2025-03-01T10:00:00Z"
    import_events(database, write_csv(tmp_path / "e.csv", header, f"z,1,2,{at},{at},0,-0.0"))
    with connect(database, autocommit=True) as conn:
        append(conn, computation, Spine.of([(1, 2, AT)], computation))
        [(value,)] = conn.execute(
            f"SELECT user_item_watch_progress FROM {computation.log_table}"
        ).fetchall()
    assert signs(value) == [1.0]


@pytest.fixture
def pushed(log: psycopg.Connection, store: FeatureStore) -> FeatureStore:
    view = FeatureView(
        name="zeros",
        entities=[user],
        ttl=timedelta(0),
        schema=[
            Field(name="user_id", dtype=Int64),
            *(Field(name=name, dtype=dtype) for name, (_, dtype, _) in FEATURES.items()),
        ],
        source=PushSource(
            name="zeros_push",
            batch_source=PostgreSQLSource(
                name="zeros_v1", table="zeros_v1", timestamp_field="event_timestamp",
                created_timestamp_column="created_timestamp",
            ),
        ),
    )  # fmt: skip
    store.apply([view], skip_feature_view_validation=True)
    return store


def frame() -> pd.DataFrame:
    values = {name: [value] for name, (*_, value) in FEATURES.items()}
    return pd.DataFrame({**values, "user_id": [1]}).assign(
        single=lambda rows: rows["single"].astype("float32"),
        event_timestamp=AT,
        created_timestamp=AT,
    )


def online(store: FeatureStore) -> dict[str, list[float]]:
    found = store.get_online_features([f"zeros:{name}" for name in FEATURES], [{"user_id": 1}])
    return {name: signs(value[0]) for name, value in found.to_dict().items() if name in FEATURES}


@pytest.mark.parametrize("to", [PushMode.ONLINE, PushMode.OFFLINE, PushMode.ONLINE_AND_OFFLINE])
def test_what_is_pushed(pushed: FeatureStore, log: psycopg.Connection, to: PushMode) -> None:
    pushed.push("zeros_push", frame(), to=to)
    if to is not PushMode.OFFLINE:
        assert online(pushed) == EXPECTED
    if to is not PushMode.ONLINE:
        assert logged(log) == EXPECTED


def test_what_is_written_to_either_store(pushed: FeatureStore, log: psycopg.Connection) -> None:
    pushed.write_to_offline_store("zeros", frame())
    pushed.write_to_online_store("zeros", frame())
    assert logged(log) == online(pushed) == EXPECTED


def _with_negative_zeros(log: psycopg.Connection) -> None:
    """As a log of an older release, or a table of the user's own, may hold them."""
    values = ", ".join(f"{_literal(value)}::{kind}" for kind, _, value in FEATURES.values())
    log.execute(
        f"INSERT INTO zeros_v1 (user_id, event_timestamp, created_timestamp, {', '.join(FEATURES)})"
        f" VALUES (1, '{AT}', '{AT}', {values})"
    )


def test_what_is_materialized(pushed: FeatureStore, log: psycopg.Connection) -> None:
    _with_negative_zeros(log)
    pushed.materialize(AT - timedelta(days=1), AT + timedelta(days=1))
    assert online(pushed) == EXPECTED


def test_what_is_encoded_in_columns(pushed: FeatureStore) -> None:
    """The way of publishing, rebuilding and materializing whole columns."""
    online_store: Any = pushed._get_provider().online_store
    kinds = {"single": pa.float32(), "double": pa.float64(), "singles": pa.list_(pa.float32()),
             "doubles": pa.list_(pa.float64()), "nested": pa.list_(pa.list_(pa.float64())),
             "plain": pa.float32(), "not_finite": pa.list_(pa.float64())}  # fmt: skip
    times = pa.array([AT], pa.timestamp("us", "UTC"))
    rows = pa.table(
        {name: pa.array([FEATURES[name][2]], kind) for name, kind in kinds.items()}
        | {"user_id": [1], "event_timestamp": times, "created_timestamp": times}
    )
    view = pushed.get_feature_view("zeros")
    online_store.write_arrow(pushed.config, view, rows)
    assert online(pushed) == EXPECTED


def test_what_is_a_message() -> None:
    """Values that are not of their declared type, and types without a form of their own."""
    value = Value()
    value.double_list_val.val.extend([-0.0, 1.0])
    held = Value.FromString(encode_message(value)).double_list_val.val
    assert [struct.pack("<d", each) for each in held] == [struct.pack("<d", x) for x in (0.0, 1.0)]
    assert signs(Value.FromString(encode_message(Value(float_val=-0.0))).float_val) == [1.0]


@pytest.mark.parametrize(("text", "dtype"), [("-0.0", Float32), ("[-0.0]", Array(Float64))])
def test_what_is_a_default(text: str, dtype: Any) -> None:
    assert signs(read_default("view", "feature", text, dtype)) == [1.0]

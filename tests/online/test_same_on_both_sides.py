"""What is trained on is what is served: rows, pushes and names that once told two stories."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureStore, FeatureView, Field
from feast.data_source import PushMode
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64, Json, Map, String, Struct

from extensions.errors import SkewlessError
from tests.online.own_store import (
    TIMES,
    hours_ago,
    materialize,
    open_store,
    quiet,
    run,
    stats,
    user,
)

AT = hours_ago(2)
BOTH = PushMode.ONLINE_AND_OFFLINE
Open = Callable[..., FeatureStore]


@pytest.fixture
def opened(tmp_path: Path, fresh_database: str, redis_server: str) -> Open:
    """Makes the table ``stats`` with the columns, runs statements, and applies the view."""

    def make(columns: str, *statements: str, features: dict[str, Any]) -> FeatureStore:
        run(fresh_database, f"CREATE TABLE stats (user_id bigint, {TIMES}, {columns})", *statements)
        store = open_store(tmp_path / "repo", fresh_database, redis_server)
        store.apply([user, stats({"user_id": Int64, **features})])
        return store

    return make


def trained(store: FeatureStore, users: list[int], *refs: str, **how: Any) -> dict[str, list[Any]]:
    labels = pd.DataFrame({"user_id": users, "event_timestamp": datetime.now(UTC)})
    found = store.get_historical_features(labels, list(refs), **how).to_arrow()
    return {name: found[name].to_pylist() for name in found.column_names[2:]}


def served(store: FeatureStore, users: list[int], *refs: str, **how: Any) -> dict[str, list[Any]]:
    found = store.get_online_features(list(refs), [{"user_id": one} for one in users], **how)
    return {name: values for name, values in found.to_dict().items() if name != "user_id"}


def test_a_row_without_a_created_time_is_in_both(opened: Open) -> None:
    """It was known as of its event, and comes before any of that time which has one."""
    later = AT + timedelta(hours=1)
    store = opened(
        "x bigint",
        "INSERT INTO stats VALUES "
        f"(1, '{AT}', NULL, 7), (2, '{AT}', '{AT}', 8), (2, '{later}', NULL, 9), "
        f"(3, '{AT}', NULL, 10), (3, '{AT}', '{AT}', 11), (4, '{later}', '{AT}', 12)",
        features={"x": Int64},
    )
    materialize(store, AT - timedelta(hours=1), datetime.now(UTC))
    users = [1, 2, 3, 4]
    assert trained(store, users, "stats:x") == {"x": [7, 9, 11, 12]}
    assert served(store, users, "stats:x") == {"x": [7, 9, 11, 12]}


def pushed(value: Any, user_id: int = 1, **more: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {"user_id": [user_id], "event_timestamp": [AT], "created_timestamp": [AT], "x": [value]}
        | {name: [held] for name, held in more.items()}
    )


@pytest.mark.parametrize("index", ["", ", UNIQUE (user_id, event_timestamp, created_timestamp)"])
def test_a_correction_of_equal_times_counts_on_both_sides(opened: Open, index: str) -> None:
    """The log ignored it and Redis took it. What the log holds already is a retry, and no news."""
    store = opened(f"x bigint{index}", features={"x": Int64})
    for value, counts in ((1, 1), (2, 2), (2, 2), (9, 9), (1, 9)):
        store.push("stats_push", pushed(value), to=BOTH)
        assert trained(store, [1], "stats:x") == served(store, [1], "stats:x") == {"x": [counts]}
    materialize(store, AT - timedelta(hours=1), datetime.now(UTC))
    assert served(store, [1], "stats:x") == {"x": [9]}


REFUSED = {
    "a fraction": pushed(1.5),
    "a column that the log does not have": pushed(1, unknown=9),
    "what the log's check forbids": pushed(-1),
    "no key": pushed(1).assign(user_id=[None]),
    "beyond the column": pushed(2**40),
}


@pytest.mark.parametrize("frame", REFUSED.values(), ids=REFUSED)
def test_a_push_that_the_log_refuses_is_not_served(opened: Open, frame: pd.DataFrame) -> None:
    store = opened("x integer CHECK (x >= 0)", features={"x": Int64})
    store.push("stats_push", pushed(5), to=BOTH)
    with pytest.raises((SkewlessError, ValueError)):
        store.push("stats_push", pd.concat([pushed(6, user_id=2), frame]), to=BOTH)
    assert trained(store, [1, 2], "stats:x") == {"x": [5, None]}
    assert served(store, [1, 2], "stats:x") == {"x": [5, None]}
    with pytest.raises(ValueError, match="lacks"):
        store.push("stats_push", pushed(6).drop(columns="x"), to=BOTH)
    assert served(store, [1], "stats:x") == {"x": [5]}


def view_of(table: str, *features: str) -> FeatureView:
    return FeatureView(
        name=table,
        entities=[user],
        ttl=timedelta(0),
        schema=[Field(name=one, dtype=Int64) for one in ("user_id", *features)],
        source=PostgreSQLSource(
            name=table,
            table=table,
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


@pytest.mark.parametrize("full", [False, True], ids=["short names", "full names"])
def test_an_output_named_like_an_input(opened: Open, full: bool) -> None:
    """The transform was left out, or the view's column beside it."""
    store = opened(
        "revenue bigint, corrected bigint",
        f"INSERT INTO stats VALUES (1, '{AT}', '{AT}', 10, NULL), (2, '{AT}', '{AT}', 20, 3)",
        features={"revenue": Int64, "corrected": Int64},
    )

    @on_demand_feature_view(
        sources=[view_of("stats", "revenue", "corrected")],
        schema=[Field(name="corrected", dtype=Int64)],
        mode="pandas",
    )
    def correction(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"corrected": inputs["revenue"] + 1})

    store.apply([view_of("stats", "revenue", "corrected"), correction])
    materialize(store, AT - timedelta(hours=1), datetime.now(UTC))
    asked, output = ["stats:revenue", "correction:corrected"], "corrected"
    if full:
        output = "correction__corrected"
    expected = [11, 21]
    found = trained(store, [1, 2], *asked, full_feature_names=full)
    assert found[output] == expected
    assert found["stats__revenue" if full else "revenue"] == [10, 20]
    assert served(store, [1, 2], *asked, full_feature_names=full)[output] == expected


def test_a_feature_of_two_views_and_a_transform_of_both(opened: Open, fresh_database: str) -> None:
    """The second view's feature of the name was taken for the first's: 0 for 93."""
    store = opened("score bigint", features={"score": Int64})
    run(
        fresh_database,
        f"INSERT INTO stats VALUES (1, '{AT}', '{AT}', 100)",
        "CREATE TABLE other AS SELECT user_id, event_timestamp, created_timestamp, "
        "7::bigint AS score FROM stats",
    )
    one, other = view_of("stats", "score"), view_of("other", "score")

    @on_demand_feature_view(
        sources=[one, other], schema=[Field(name="difference", dtype=Int64)], mode="pandas"
    )
    def compared(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"difference": inputs["stats__score"] - inputs["other__score"]})

    store.apply([one, other, compared])
    materialize(store, AT - timedelta(hours=1), datetime.now(UTC))
    for full in (True, False):
        name = "compared__difference" if full else "difference"
        found = trained(store, [1], "compared:difference", full_feature_names=full)
        assert found[name] == [93]
    labels = pd.DataFrame({"user_id": [1], "event_timestamp": datetime.now(UTC), "score": [5]})
    with pytest.raises(SkewlessError, match="score"):
        store.get_historical_features(labels, ["stats:score"]).to_arrow()
    query = "SELECT 1::bigint AS user_id, now() AS event_timestamp, 5 AS score"
    with pytest.raises(SkewlessError, match="score"):
        store.get_historical_features(query, ["stats:score"]).to_arrow()


DOCUMENTS = {"a map": Map, "a structure": Struct({"a": Int64, "b": Int64}), "json": Json}


@pytest.mark.parametrize("to", [BOTH, PushMode.OFFLINE, PushMode.ONLINE], ids=str)
@pytest.mark.parametrize("dtype", DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.parametrize("column", ["jsonb", "text"])
def test_documents_of_other_keys_stay_apart(
    opened: Open, dtype: Any, column: str, to: PushMode
) -> None:
    """Beside each other they had each other's keys, or the log refused them."""
    store = opened(f"x {column}", features={"x": dtype})
    held = [{"a": 1}, {"b": 2}, None]
    frame = pd.concat([pushed(one, user_id=i) for i, one in enumerate(held)], ignore_index=True)
    store.push("stats_push", frame, to=to)
    users = [0, 1, 2]
    if to != PushMode.ONLINE:
        assert [read(one) for one in trained(store, users, "stats:x")["x"]] == held
    if to != PushMode.OFFLINE:
        assert [read(one) for one in served(store, users, "stats:x")["x"]] == held


def read(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def test_a_whole_number_stands_for_a_text_key(opened: Open, fresh_database: str) -> None:
    """Feast asks for the type that a view declares, and takes the labels' numbers."""
    store = opened(
        "x bigint", f"INSERT INTO stats VALUES (1, '{AT}', '{AT}', 7)", features={"x": Int64}
    )
    view = view_of("stats", "x")
    named = FeatureView(
        name="named",
        entities=[Entity(name="plain_user", join_keys=["user_id"])],
        schema=[Field(name="user_id", dtype=String), Field(name="x", dtype=Int64)],
        source=view.batch_source,
    )
    store.apply([Entity(name="plain_user", join_keys=["user_id"]), named])
    assert trained(store, [1, 2], "named:x") == {"x": [7, None]}
    query = "SELECT 1::bigint AS user_id, now() AS event_timestamp"
    assert store.get_historical_features(query, ["named:x"]).to_arrow()["x"].to_pylist() == [7]
    labels = pd.DataFrame({"user_id": [1.5], "event_timestamp": datetime.now(UTC)})
    with pytest.raises(SkewlessError, match="must be String"):
        store.get_historical_features(labels, ["named:x"]).to_arrow()


def test_a_transform_that_is_written_online_reads_single_floats(opened: Open) -> None:
    """Feast's conversion of what it makes of them takes no numpy.float32 for a double."""
    store = opened(
        "x real", f"INSERT INTO stats VALUES (1, '{AT}', '{AT}', 0.5)", features={"x": Float32}
    )

    @on_demand_feature_view(
        sources=[store.get_feature_view("stats")],
        entities=[user],
        schema=[Field(name="more", dtype=Float64)],
        mode="pandas",
        write_to_online_store=True,
    )
    def written(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"more": inputs["x"] + 1})

    store.apply([written])
    with quiet():
        store.materialize(AT - timedelta(hours=1), datetime.now(UTC), feature_views=["written"])
    assert served(store, [1], "written:more") == {"more": [1.5]}

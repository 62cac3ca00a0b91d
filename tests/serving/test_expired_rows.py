"""A row that is too old is none, on every route, whatever it holds: defaults, and no time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64

from extensions.serving.settings import Settings
from tests.served import serving

HOUR = timedelta(hours=1)
# Whole, with a null, and with values of another type than declared (of Feast's own form).
ROWS = {
    1: {"a": Value(int64_val=3), "b": Value(int64_val=7)},
    2: {"a": Value(), "b": Value(int64_val=7)},
    3: {"a": Value(int32_val=3), "b": Value(double_val=0.5)},
}
YOUNG, NOBODY = 10, 99


def of_keepers(name: str, ttl: timedelta, **features: str) -> FeatureView:
    keeper = Entity(name="keeper", join_keys=["keeper_id"], value_type=ValueType.INT64)
    return FeatureView(
        name=name,
        entities=[keeper],
        ttl=ttl,
        schema=[
            Field(name=one, dtype=Int64, tags={"default": default})
            for one, default in features.items()
        ],
        source=PostgreSQLSource(name=name, query="SELECT 1", timestamp_field="event_timestamp"),
    )


@pytest.fixture(scope="module")
def client(feast_store: FeatureStore, repo_root: Path) -> Iterator[httpx.Client]:
    keeper = Entity(name="keeper", join_keys=["keeper_id"], value_type=ValueType.INT64)
    # The second view keeps the key in Redis when the first's row has expired.
    short = of_keepers("short_lived", HOUR, a="-1", b="-2")
    long = of_keepers("long_lived", timedelta(0), c="0")
    service = FeatureService(name="keepers", features=[short, long])
    feast_store.apply([keeper, short, long, service], skip_feature_view_validation=True)
    now = datetime.now(UTC)
    rows = [*((one, values, now - 2 * HOUR) for one, values in ROWS.items()),
            *((YOUNG + one, values, now) for one, values in ROWS.items())]  # fmt: skip
    online: Any = feast_store._get_provider()
    for view in (short, long):
        written = [
            (
                EntityKey(join_keys=["keeper_id"], entity_values=[Value(int64_val=one)]),
                values if view is short else {"c": Value(int64_val=9)},
                at,
                None,
            )
            for one, values, at in rows
        ]
        held = feast_store.get_feature_view(view.name)
        if view is short:  # Redis would not keep what has expired already
            held.ttl = 3 * HOUR
        online.online_store.online_write_batch(feast_store.config, held, written, None)
    for url in serving(Settings(repo=repo_root), feast_store):
        with httpx.Client(base_url=url, timeout=10) as made:
            yield made


@pytest.mark.parametrize("one", [*ROWS, NOBODY])
def test_the_one_user_route_says_that_there_is_no_row(client: httpx.Client, one: int) -> None:
    """A row with a null or of another type was answered by its defaults and called fresh."""
    answer = client.get(f"/v1/features/keepers/{one}?include=meta").json()
    assert [answer["features"][name] for name in "ab"] == [-1, -2]
    assert (answer["meta"]["short_lived"]["status"], answer["meta"]["short_lived"]["asOf"]) == (
        "default",
        None,
    )


def test_a_row_that_is_young_enough_is_fresh(client: httpx.Client) -> None:
    for one, held in ((1, [3, 7]), (2, [None, 7]), (3, [3, 0.5])):
        answer = client.get(f"/v1/features/keepers/{YOUNG + one}?include=meta").json()
        assert [answer["features"][name] for name in "ab"] == held
        assert answer["meta"]["short_lived"]["status"] == "fresh"
        assert answer["meta"]["short_lived"]["asOf"] is not None


def test_many_at_once_and_feasts_route_say_the_same(client: httpx.Client) -> None:
    ids = [*ROWS, NOBODY, YOUNG + 1]
    asked = {"service": "keepers", "entities": [{"keeper_id": one} for one in ids]}
    answer = client.post("/v1/features?include=meta", json=asked).json()
    assert [row["features"]["a"] for row in answer["results"]] == [-1, -1, -1, -1, 3]
    assert answer["meta"]["short_lived"]["status"] == ["default"] * 4 + ["fresh"]
    feasts = client.post(
        "/get-online-features", json={"feature_service": "keepers", "entities": {"keeper_id": ids}}
    ).json()
    at = feasts["metadata"]["feature_names"].index("a")
    assert feasts["results"][at]["values"] == [-1, -1, -1, -1, 3]


def test_expired_rows_are_served_where_the_store_is_told_so(
    client: httpx.Client,
    feast_store: FeatureStore,
    repo_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Feast's own Redis store serves them: by all routes, and by Feast's own call."""
    monkeypatch.setattr(feast_store.config.online_store, "serve_expired", True)
    for url in serving(Settings(repo=repo_root), feast_store):
        with httpx.Client(base_url=url, timeout=10) as told:
            answer = told.get("/v1/features/keepers/1?include=meta").json()
            assert [answer["features"][name] for name in "ab"] == [3, 7]
            assert answer["meta"]["short_lived"]["status"] == "fresh"
            asked = {"service": "keepers", "entities": [{"keeper_id": 1}, {"keeper_id": NOBODY}]}
            rows = told.post("/v1/features", json=asked).json()["results"]
            assert [row["features"]["a"] for row in rows] == [3, -1]
            feasts = told.post(
                "/get-online-features",
                json={"feature_service": "keepers", "entities": {"keeper_id": [1, NOBODY]}},
            ).json()
            at = feasts["metadata"]["feature_names"].index("a")
            assert feasts["results"][at]["values"] == [3, -1]
            assert feasts["results"][at]["event_timestamps"][0] != "1970-01-01T00:00:00Z"
    own = feast_store.get_online_features(["short_lived:a"], [{"keeper_id": 1}]).to_dict()
    assert own["a"] == [3]

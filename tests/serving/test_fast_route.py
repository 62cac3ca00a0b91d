"""`/get-online-features` from our plans: to the last character what Feast's own code says."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.feature_server import convert_response_to_dict
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String

from extensions.addresses import connection_string_of
from extensions.serving.features.feature_reader import FeatureReader
from extensions.serving.features.request_plan import Plans, compile_plans
from extensions.serving.routes.get_online_features import NeedsFeastError, OnlineFeaturesRoute
from extensions.stores.log_publishing import online_store
from extensions.stores.online.store import SkewlessRedisOnlineStoreConfig

NOW = datetime.now(UTC)


def by_name(answer: dict[str, Any]) -> dict[str, Any]:
    names = answer["metadata"]["feature_names"]
    assert len(set(names)) == len(names) == len(answer["results"])
    return dict(zip(names, answer["results"], strict=True))


def by_feast(store: FeatureStore, asked: dict[str, Any]) -> dict[str, Any]:
    service = asked.get("feature_service")
    response = store.get_online_features(
        store.get_feature_service(service) if service else asked["features"],
        asked["entities"],
        full_feature_names=asked.get("full_feature_names", False),
    )
    answer: dict[str, Any] = convert_response_to_dict(response.proto)
    return answer


PAIRS = {"user_id": [3] * 40, "item_id": [*range(1, 40), 999], "request_hour": [21] * 40}
MIXED = {
    "user_id": [n % 7 for n in range(60)],
    "item_id": [n % 50 for n in range(60)],
    "request_hour": [n % 24 for n in range(60)],
}


@pytest.mark.parametrize(
    "asked",
    [
        {"feature_service": "home_page", "entities": {"user_id": [1]}},
        {"feature_service": "home_page", "entities": {"user_id": [1, 2, 2, 999_999, -1]}},
        {"feature_service": "ranking", "entities": PAIRS},
        {"feature_service": "ranking", "entities": PAIRS, "full_feature_names": True},
        {"feature_service": "ranking", "entities": MIXED},
        {"feature_service": "ranking", "entities": {k: v[:1] for k, v in MIXED.items()}},
        {"features": ["user_habits:user_preferred_hour"], "entities": {"user_id": [4, 4, 4]}},
        {
            "features": ["ranking_signals:hour_closeness", "item_profile:item_genre"],
            "entities": PAIRS,
            "full_feature_names": True,
        },
    ],
)
def test_over_http_as_feast(http, feast_store, asked) -> None:
    answer = http.post("/get-online-features", json=asked)
    assert answer.status_code == 200
    assert "x-feature-latency-ms" in answer.headers  # ours
    assert by_name(answer.json()) == by_name(by_feast(feast_store, asked))
    names = answer.json()["metadata"]["feature_names"]
    assert names[: len(names) - len(set(names) - set(asked["entities"]))] == [
        name for name in asked["entities"] if name != "request_hour"
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {"feature_service": "home_page", "entities": {"user": [5]}},
        {"feature_service": "home_page", "entities": {"user_id": [5], "more": [1]}},
        {"features": ["user_habits@v1:user_preferred_hour"], "entities": {"user_id": [5]}},
        {
            "feature_service": "home_page",
            "entities": {"user_id": [5]},
            "include_feature_view_version_metadata": True,
        },
    ],
)
def test_what_is_unusual_is_feasts(http, asked) -> None:
    answer = http.post("/get-online-features", json=asked)
    assert answer.status_code == 200
    assert "x-feature-latency-ms" not in answer.headers
    assert answer.json()["metadata"]["feature_names"]


# Generated repositories: views of random types, with and without defaults and ttl.

TYPES: dict[Any, Any] = {
    Int64: lambda rng: Value(int64_val=rng.choice([0, -1, 7, 2**40, -(2**62)])),
    Int32: lambda rng: Value(int32_val=rng.randrange(-9, 9)),
    Float32: lambda rng: Value(float_val=float(np.float32(rng.random()))),
    Float64: lambda rng: Value(double_val=rng.choice([rng.random(), 1.0, 1e300, 5e-324])),
    Bool: lambda rng: Value(bool_val=rng.random() < 0.5),
    String: lambda rng: Value(string_val=rng.choice(["", "a", 'q"\n', "ü☃", "%s"])),
    Array(Float32): lambda rng: _many("float_list_val", rng, rng.random),
    Array(Float64): lambda rng: _many("double_list_val", rng, rng.random),
    Array(Int64): lambda rng: _many("int64_list_val", rng, lambda: rng.randrange(99)),
}
DEFAULTS = {
    Int64: "7", Int32: "-3", Float32: "0.5", Float64: "0.1", Bool: "true", String: '"none"',
    Array(Float32): "[0.5, 1.0]", Array(Float64): "[]", Array(Int64): "[1, 2]",
}  # fmt: skip


def _many(kind: str, rng: random.Random, one: Any) -> Value:
    value = Value()
    getattr(value, kind).SetInParent()
    getattr(value, kind).val.extend(
        np.float32(one()) if "float" in kind else one() for _ in range(rng.randrange(4))
    )
    return value


def drawn(rng: random.Random, source: FileSource) -> tuple[list[Any], list[FeatureView]]:
    user = Entity(name="u", join_keys=["u_id"], value_type=ValueType.INT64)
    item = Entity(name="i", join_keys=["i_id"], value_type=ValueType.STRING)
    views = []
    for number in range(rng.randrange(2, 5)):
        declared = rng.random() < 0.5
        kinds = rng.sample(list(TYPES), rng.randrange(1, 5))
        views.append(
            FeatureView(
                name=f"view{number}",
                # One without entities beside those with some.
                entities=rng.choice([[user], [item], [user, item]]) if number != 1 else [],
                ttl=rng.choice([timedelta(0), timedelta(days=10)]),
                schema=[
                    Field(
                        name=f"v{number}_f{i}",
                        dtype=kind,
                        tags={"default": DEFAULTS[kind]} if declared else {},
                    )
                    for i, kind in enumerate(kinds)
                ],
                source=source,
            )
        )
    return [user, item], views


@pytest.mark.parametrize("seed", range(6))
def test_generated_repositories_as_feast(redis_url: str, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    pd.DataFrame({"event_timestamp": [NOW]}).to_parquet(tmp_path / "none.parquet")
    source = FileSource(path=str(tmp_path / "none.parquet"), timestamp_field="event_timestamp")
    store = FeatureStore(
        config=RepoConfig(
            project=f"drawn{seed}",
            provider="local",
            registry=str(tmp_path / "registry.db"),
            online_store=SkewlessRedisOnlineStoreConfig(
                connection_string=connection_string_of(redis_url)
            ),
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )
    entities, views = drawn(rng, source)
    store.apply([*entities, *views])
    services = [
        FeatureService(name="all", features=views),
        FeatureService(name="some", features=[view[[view.features[0].name]] for view in views[:2]]),
    ]
    store.apply(services)
    for view in views:
        write(store, store.get_feature_view(view.name), rng)
    store.refresh_registry()
    plans = compile_plans(store, 1)
    route = OnlineFeaturesRoute(store, FeatureReader(Direct(redis.Redis.from_url(redis_url))))
    fast = beside = 0
    for asked in questions(rng, views):
        theirs = by_feast(store, asked)
        try:
            body = asyncio.run(answered(route, json.loads(json.dumps(asked)), plans))
        except NeedsFeastError:
            continue
        fast += 1
        beside += asked.get("feature_service") is not None
        assert by_name(json.loads(body)) == by_name(theirs), asked
    assert fast >= 8
    assert beside >= 8  # each service reads the view without entities


async def answered(route: OnlineFeaturesRoute, read: Any, plans: Plans) -> bytes:
    plan = await route.plan(read, plans, by_reference=True)
    body, _, _ = await route.answer(plan, read, int(NOW.timestamp() * 1e6))
    return body


class Direct:
    """A link that asks at once."""

    connected = True

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    async def run(self, commands: Any) -> list[Any]:
        return [self.client.execute_command(*command) for command in commands]


def write(store: FeatureStore, view: FeatureView, rng: random.Random) -> None:
    rows = []
    keys = [field.name for field in view.entity_columns]
    for u in range(6):
        for i in range(6):
            ids = {
                "u_id": Value(int64_val=u),
                "i_id": Value(string_val=f"i{i}"),
                DUMMY_ENTITY_ID: Value(string_val=DUMMY_ENTITY_VAL),
            }
            values = {field.name: TYPES[field.dtype](rng) for field in view.features}
            if rng.random() < 0.2:  # a null
                values[rng.choice(list(values))] = Value()
            age = timedelta(days=rng.choice([0, 1, 100]), microseconds=rng.choice([0, 5, 3000]))
            key = EntityKey(join_keys=keys, entity_values=[ids[name] for name in keys])
            if rng.random() < 0.7:
                rows.append((key, values, NOW.replace(microsecond=0) - age, None))
    online_store(store).online_write_batch(store.config, view, rows, None)


def questions(rng: random.Random, views: list[FeatureView]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for n in (1, 2, 17, 40):
        for user in (None, rng.randrange(7)):
            ids = {
                "u_id": [rng.randrange(8) if user is None else user for _ in range(n)],
                "i_id": [f"i{rng.randrange(8)}" for _ in range(n)],
            }
            one = rng.choice(views)
            needed = [name for name in ids if any(name[0] in v.entities for v in views)]
            some = [name for name in ids if any(name[0] in v.entities for v in views[:2])]
            mine = [name for name in ids if name[0] in one.entities]
            found += [
                {"feature_service": "all", "entities": {k: ids[k] for k in needed}},
                {"feature_service": "some", "entities": {k: ids[k] for k in some}},
                {
                    "features": [f"{one.name}:{field.name}" for field in one.features],
                    "entities": {k: ids[k] for k in mine},
                    "full_feature_names": True,
                },
            ]
    # Feast's route cannot be asked of no entity at all.
    return [asked for asked in found if asked["entities"]]

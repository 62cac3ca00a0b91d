"""Generated repositories and data: our store and our server answer what stock Feast answers.

The other side is Feast's own Redis store and Feast's own server, over the same registry.
"""

import math
import os
import random
import string
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pandas as pd
import pytest
import yaml
from fastapi.testclient import TestClient
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    RequestSource,
    ValueType,
)
from feast.feature_server import get_app
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types import Value_pb2 as pb
from feast.types import Float64, Int64, from_value_type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extensions.addresses import connection_string_of
from extensions.serving.settings import Settings
from tests.online.views import key
from tests.served import serving

RELAXED = settings(
    max_examples=int(os.environ.get("EXAMPLES", "40")),
    deadline=None,
    derandomize="EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
RNG = random.Random(20260101)
NOW = datetime.now(UTC).replace(microsecond=0)  # Feast's store keeps whole seconds
ENTITIES = {"g_user": ValueType.INT64, "g_label": ValueType.STRING}
USERS, LABELS = [-3, 0, 1, 2, 2**40], ["", "a", "a:b", "ä\n", "5"]
UNKNOWN: dict[str, Any] = {"g_user": 77, "g_label": "nobody"}


def text() -> str:
    return "".join(RNG.choice(string.printable + "äß🎬") for _ in range(RNG.randrange(9)))


SCALARS: dict[ValueType, Any] = {
    ValueType.INT64: ("int64_val", lambda: RNG.randrange(-(2**63), 2**63)),
    ValueType.INT32: ("int32_val", lambda: RNG.randrange(-(2**31), 2**31)),
    ValueType.DOUBLE: ("double_val", lambda: RNG.choice([RNG.gauss(0, 1e9), 0.0, -0.0, math.nan])),
    ValueType.FLOAT: ("float_val", lambda: RNG.gauss(0, 1)),
    ValueType.BOOL: ("bool_val", lambda: RNG.random() < 0.5),
    ValueType.STRING: ("string_val", text),
    ValueType.BYTES: ("bytes_val", lambda: RNG.randbytes(RNG.randrange(6))),
    ValueType.UNIX_TIMESTAMP: ("unix_timestamp_val", lambda: RNG.randrange(2**31)),
}
LISTS: dict[ValueType, Any] = {
    ValueType.INT64_LIST: ("int64_list_val", pb.Int64List, ValueType.INT64),
    ValueType.FLOAT_LIST: ("float_list_val", pb.FloatList, ValueType.FLOAT),
    ValueType.STRING_LIST: ("string_list_val", pb.StringList, ValueType.STRING),
    ValueType.BOOL_LIST: ("bool_list_val", pb.BoolList, ValueType.BOOL),
}
TYPES = [*SCALARS, *LISTS]


def value_of(kind: ValueType) -> pb.Value:
    if RNG.random() < 0.15:
        return pb.Value()
    if kind in SCALARS:
        name, content = SCALARS[kind]
        return pb.Value(**{name: content()})
    name, message, item = LISTS[kind]
    items = [SCALARS[item][1]() for _ in range(RNG.randrange(4))]
    return pb.Value(**{name: message(val=items)})


def generated() -> list[tuple[FeatureView, dict[str, ValueType]]]:
    """Six views; every set of join keys twice."""
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=kind)
        for name, kind in ENTITIES.items()
    }
    made = []
    for number in range(6):
        keys = (["g_user"], ["g_label"], ["g_user", "g_label"])[number % 3]
        kinds = {f"g{number}_base": ValueType.INT64} | {
            f"g{number}_{i}": RNG.choice(TYPES) for i in range(RNG.randrange(1, 6))
        }
        view = FeatureView(
            name=f"g_view{number}",
            entities=[entities[name] for name in keys],
            schema=[
                Field(name=name, dtype=from_value_type(kind))
                for name, kind in ({k: ENTITIES[k] for k in keys} | kinds).items()
            ],
            ttl=timedelta(0),
            source=FileSource(name=f"g_source{number}", path="/dev/null",
                              timestamp_field="event_timestamp"),
        )  # fmt: skip
        made.append((view, kinds))
    return made


class Both(NamedTuple):
    """Two stores of one registry, a client of each one's server, and what can be asked."""

    ours: FeatureStore
    stock: FeatureStore
    http: httpx.Client
    feast: TestClient
    references: list[str]


@pytest.fixture(scope="module")
def both(feast_store: FeatureStore, repo_root: Path, redis_server: str) -> Iterator[Both]:
    views = generated()
    base = RequestSource(name="g_request", schema=[Field(name="bump", dtype=Int64)])

    @on_demand_feature_view(
        sources=[views[0][0], views[1][0], base],
        schema=[Field(name="g_sum", dtype=Float64)],
        mode="pandas",
    )
    def g_transform(inputs: pd.DataFrame) -> pd.DataFrame:
        known = inputs[["g0_base", "g1_base"]].astype("float64").fillna(0.0)
        return pd.DataFrame(
            {"g_sum": known["g0_base"] / 2.0 + known["g1_base"] / 4.0 + inputs["bump"]}
        )

    services = [
        FeatureService(name="g_one", features=[view for view, _ in views[:3]]),
        FeatureService(name="g_two", features=[views[3][0], views[5][0]]),
        FeatureService(name="g_made", features=[views[0][0], views[1][0], g_transform]),
    ]
    objects = [
        *(Entity(name=n, join_keys=[n], value_type=kind) for n, kind in ENTITIES.items()),
        *(view for view, _ in views),
        g_transform,
        *services,
    ]
    feast_store.apply(objects, partial=True)
    words = yaml.safe_load((repo_root / "feature_store.yaml").read_text())
    words["online_store"] = {
        "type": "redis",
        "connection_string": connection_string_of(redis_server.rpartition("/")[0] + "/12"),
    }
    stock = FeatureStore(config=RepoConfig(**words, repo_path=repo_root))
    stock._get_provider().online_store._get_client(stock.config.online_store).flushdb()
    for view, kinds in views:
        held = feast_store.get_feature_view(view.name)
        users = USERS if "g_user" in view.entities else [None]
        labels = LABELS if "g_label" in view.entities else [None]
        rows = []
        for user in users:
            for label in labels:
                ids = {"g_user": user, "g_label": label}
                given_ids = {name: one for name, one in ids.items() if one is not None}
                at = NOW - timedelta(seconds=RNG.randrange(10**6))
                values = {name: value_of(kind) for name, kind in kinds.items()}
                if RNG.random() < 0.9:
                    rows.append((key(**given_ids), values, at, None))
        for store in (feast_store, stock):
            store._get_provider().online_store.online_write_batch(store.config, held, rows, None)
    references = [f"{view.name}:{name}" for view, kinds in views for name in kinds]
    app = get_app(stock, registry_ttl_sec=0)
    for url in serving(Settings(repo=repo_root, poll=0.2), FeatureStore(config=feast_store.config)):
        with httpx.Client(base_url=url, timeout=20) as http, TestClient(app) as feast:
            yield Both(feast_store, stock, http, feast, references)


@st.composite
def requests(draw: Any, references: list[str]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if draw(st.booleans()):
        asked["feature_service"] = draw(st.sampled_from(["g_one", "g_two", "g_made"]))
    else:
        chosen = draw(st.lists(st.sampled_from(references), min_size=1, max_size=6, unique=True))
        asked["features"] = [*chosen, *(["g_transform:g_sum"] if draw(st.booleans()) else [])]
    n = draw(st.integers(1, 5))
    asked["entities"] = {
        "g_user": draw(st.lists(st.sampled_from([*USERS, 77]), min_size=n, max_size=n)),
        "g_label": draw(st.lists(st.sampled_from([*LABELS, "nobody"]), min_size=n, max_size=n)),
    }
    if asked.get("feature_service") == "g_made" or "g_transform:g_sum" in asked.get("features", []):
        asked["entities"]["bump"] = draw(st.lists(st.integers(-100, 100), min_size=n, max_size=n))
    asked["full_feature_names"] = draw(st.booleans())
    return asked


def test_there_is_something_to_compare(both: Both) -> None:
    entities = {"g_user": USERS, "g_label": LABELS}
    found = both.stock.get_online_features(both.references, entities).to_dict()
    values = [one for name in found if name not in entities for one in found[name]]
    assert len([one for one in values if one is not None]) > len(values) / 2
    assert len({str(one) for one in values}) > 20


@RELAXED
@given(data=st.data())
def test_the_store(both: Both, data: Any) -> None:
    asked = data.draw(requests(both.references))
    features = asked.get("features") or [asked["feature_service"]]
    answers = []
    for store in (both.ours, both.stock):
        what = store.get_feature_service(features[0]) if "feature_service" in asked else features
        found = store.get_online_features(
            what, dict(asked["entities"]), full_feature_names=asked["full_feature_names"]
        )
        answers.append({k: list(map(plain, v)) for k, v in found.to_dict().items()})
    assert answers[0] == answers[1]


@RELAXED
@given(data=st.data())
def test_the_route(both: Both, data: Any) -> None:
    asked = data.draw(requests(both.references))
    answers = []
    for client in (both.http, both.feast):
        answer = client.post("/get-online-features", json=asked)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        names = body["metadata"]["feature_names"]
        columns = zip(names, body["results"], strict=True)
        answers.append({name: list(map(plain, one["values"])) for name, one in columns})
        for one in body["results"]:
            assert len(one["values"]) == len(one["statuses"]) == len(one["event_timestamps"])
    assert answers[0] == answers[1]


def plain(value: Any) -> Any:
    """NaN is itself; a float's digits are those of its own width."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else pytest.approx(value, rel=1e-6)
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value

"""Training at t is HTTP at t: over generated views, not only over generated data.

Each seed draws view definitions (keys, feature types, defaults on all, some or none, ttl, field
mappings, with and without created times, transforms) and rows (nulls, ties, several rows of one
instant, expired ones), publishes them by Feast's materialization or by pushes, and asks every
entity both ways. Types that the two sides write differently are compared as what they mean: times
as seconds, float32 as bits.
"""

import json
import os
import random
import struct
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    PushSource,
    ValueType,
)
from feast.data_source import PushMode
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import (
    Array,
    Bool,
    Decimal,
    FeastType,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    Map,
    String,
    UnixTimestamp,
    Uuid,
)

from extensions.database import connect
from tests.serving.redis_nodes import until

VIEWS = int(os.environ.get("EXAMPLES", "24"))
SEED = int(os.environ.get("SKEWLESS_SEED", "20"))
SECOND = timedelta(seconds=1)

TYPES: dict[str, tuple[FeastType, str, str]] = {
    "whole": (Int64, "bigint", "7"),
    "small": (Int32, "integer", "-3"),
    "real": (Float32, "real", "0.1"),
    "double": (Float64, "double precision", "2.5"),
    "word": (String, "text", '"né\\"e"'),
    "flag": (Bool, "boolean", "true"),
    "counts": (Array(Int64), "bigint[]", "[1, 2]"),
    "vector": (Array(Float32), "real[]", "[0.5]"),
    "words": (Array(String), "text[]", '["a"]'),
    "moment": (UnixTimestamp, "timestamptz", '"2026-01-02T03:04:05Z"'),
    "amount": (Decimal, "numeric", '"1.50"'),
    "ident": (Uuid, "uuid", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
    "document": (Json, "jsonb", '{"a": [1, null]}'),
    "mapped": (Map, "jsonb", '{"a": "b"}'),
}
KEYS: dict[str, tuple[ValueType, str, list[Any]]] = {
    "id": (ValueType.INT64, "bigint", [1, 2, 3, -(2**62)]),
    "short_id": (ValueType.INT32, "integer", [1, 2, 3, -5]),
    "name": (ValueType.STRING, "text", ["a", "A", "é", " b"]),
    "uuid": (ValueType.UUID, "uuid", [f"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1{i}" for i in range(4)]),
}


@dataclass
class Drawn:
    """One generated view with the rows of its log."""

    name: str
    keys: tuple[str, ...]
    features: dict[str, str]
    view: FeatureView
    entities: list[tuple[Any, ...]]
    transform: OnDemandFeatureView | None = None
    pushed: bool = False
    asked: list[str] = field(default_factory=list)


def value(draw: random.Random, kind: str) -> Any:
    if draw.random() < 0.2:
        return None
    return {
        "whole": lambda: draw.randint(-(2**60), 2**60),
        "small": lambda: draw.randint(-(2**31), 2**31 - 1),
        "real": lambda: float(np.float32(draw.uniform(-1e6, 1e6))),
        "double": lambda: draw.uniform(-1e300, 1e300),
        "word": lambda: draw.choice(["", "x", "ü\u0000"[:1], "long " * 70]),
        "flag": lambda: draw.random() < 0.5,
        "counts": lambda: [draw.randint(-9, 9) for _ in range(draw.randint(0, 3))],
        "vector": lambda: [float(np.float32(draw.random())) for _ in range(draw.randint(0, 3))],
        "words": lambda: [draw.choice(["", "y"]) for _ in range(draw.randint(0, 2))],
        "moment": lambda: datetime(2026, 1, 1, tzinfo=UTC) + SECOND * draw.randint(0, 10**6),
        "amount": lambda: f"{draw.randint(-(10**30), 10**30)}.{draw.randint(0, 99):02}",
        "ident": lambda: str(uuid.UUID(int=draw.getrandbits(128))),
        "document": lambda: json.dumps({"k": [draw.randint(-9, 9), None], "é": draw.random()}),
        "mapped": lambda: json.dumps({draw.choice("ab"): draw.choice(["", "x"])}),
    }[kind]()


def entity(key: str) -> Entity:
    return Entity(name=f"gen_{key}", join_keys=[f"gen_{key}"], value_type=KEYS[key][0])


def definition(draw: random.Random, number: int, conn: Any, now: datetime) -> Drawn:
    name = f"gen_view_{number}"
    keys = draw.choice([("id",), ("short_id",), ("name",), ("uuid",), ("id", "name"), ()])
    features = {f"{kind}_{number}": kind for kind in draw.sample(sorted(TYPES), draw.randint(1, 4))}
    declaring = draw.choice([0.0, 0.5, 1.0])
    created = draw.choice(["none", "nullable", "always"])
    mapped = draw.random() < 0.4
    columns = {feature: f"c_{feature}" if mapped else feature for feature in features}
    types = [f"gen_{key} {KEYS[key][1]}" for key in keys]
    types += [f"{columns[f]} {TYPES[kind][1]}" for f, kind in features.items()]
    types += ["at timestamptz NOT NULL"] + (["made timestamptz"] if created != "none" else [])
    conn.execute(f"CREATE TABLE {name} ({', '.join(types)})")
    source = PostgreSQLSource(
        name=f"{name}_log",
        table=name,
        timestamp_field="at",
        created_timestamp_column="made" if created != "none" else "",
        field_mapping={column: feature for feature, column in columns.items()} if mapped else {},
    )
    pushed = draw.random() < 0.3 and created != "none" and bool(keys)
    view = FeatureView(
        name=name,
        entities=[entity(key) for key in keys],
        ttl=draw.choice([timedelta(0), timedelta(hours=2, minutes=30)]),
        schema=[
            Field(
                name=feature,
                dtype=TYPES[kind][0],
                tags={"default": TYPES[kind][2]} if draw.random() < declaring else {},
            )
            for feature, kind in features.items()
        ],
        source=PushSource(name=f"{name}_push", batch_source=source) if pushed else source,
        online=True,
    )
    known = [tuple(KEYS[key][2][i] for key in keys) for i in range(4)] if keys else [()]
    drawn = Drawn(name, keys, features, view, known, pushed=pushed)
    rows = []
    for one in known[: draw.randint(1, len(known))]:
        for _ in range(draw.randint(1, 4)):
            at = now - timedelta(hours=draw.choice([1, 2, 2, 3]))
            made = at + SECOND * draw.choice([0, 0, 1, 60])
            if created == "nullable" and draw.random() < 0.3:
                made = None  # type: ignore[assignment]
            rows.append((*one, *(value(draw, k) for k in features.values()), at, made))
    if created == "none":
        rows = [row[:-1] for row in rows]
    if not pushed:
        marks = ", ".join(["%s"] * len(types))
        with conn.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
    else:
        # A push has the columns of its log, as Feast asks.
        names = [*(f"gen_{key}" for key in keys), *columns.values(), "at", "made"]
        drawn.asked = [pd.DataFrame(rows, columns=names)]  # type: ignore[list-item]
    if "double" in features.values():
        drawn.transform = doubling(drawn)
    return drawn


def doubling(drawn: Drawn) -> OnDemandFeatureView:
    """A transform of the view's one feature of type double."""
    [read] = [f for f, kind in drawn.features.items() if kind == "double"]
    # Feast keeps a function by its source, so that it must hold its names itself.
    made: dict[str, Any] = {}
    source = (
        f"def gen_twice_{read}(inputs):\n"
        f"    import pandas as pd\n"
        f"    return pd.DataFrame({{'twice_{read}': inputs['{read}'] * 0.5}})\n"
    )
    exec(source, made)
    return OnDemandFeatureView(
        name=f"gen_twice_{read}",
        sources=[drawn.view],
        schema=[Field(name=f"twice_{read}", dtype=Float64)],
        feature_transformation=PandasTransformation(
            udf=made[f"gen_twice_{read}"], udf_string=source
        ),
        mode="pandas",
    )


def applied(
    store: FeatureStore,
    drawn: list[Drawn],
    transforms: list[OnDemandFeatureView],
    services: list[FeatureService],
    now: datetime,
) -> None:
    """Tell Feast of the views and what reads them, and bring their rows online."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store.apply([*map(entity, KEYS), *(one.view for one in drawn), *transforms, *services])
        loaded = [one.name for one in drawn if not one.pushed]
        store.materialize(now - timedelta(days=1), now, feature_views=loaded)
        for one in drawn:
            for frame in one.asked:
                for row in frame.to_dict("records"):
                    store.push(
                        f"{one.name}_push",
                        pd.DataFrame([row]).astype(object),
                        to=PushMode.ONLINE_AND_OFFLINE,
                    )


@pytest.fixture(scope="module")
def generated(feast_store: FeatureStore, database: str) -> list[Drawn]:
    draw = random.Random(SEED)
    now = datetime.now(UTC).replace(microsecond=0)
    with connect(database, autocommit=True) as conn:
        drawn = [definition(draw, number, conn, now) for number in range(VIEWS)]
    services = [
        FeatureService(
            name=f"serve_{one.name}", features=[one.view, *filter(None, [one.transform])]
        )
        for one in drawn
    ]
    transforms = [one.transform for one in drawn if one.transform is not None]
    applied(feast_store, drawn, transforms, services, now)
    return drawn


@pytest.fixture(scope="module")
def client(generated: list[Drawn], http: httpx.Client) -> httpx.Client:
    until(lambda: _feast(http, generated[-1], generated[-1].entities[:1]) is not None)
    return http


def _feast(http: httpx.Client, one: Drawn, entities: list[tuple[Any, ...]]) -> Any:
    names = [f"gen_{key}" for key in one.keys]
    body = {
        "feature_service": f"serve_{one.name}",
        "entities": {n: [e[i] for e in entities] for i, n in enumerate(names)} or {"x": [1]},
    }
    reply = http.post("/get-online-features", json=body)
    return reply.json() if reply.status_code == 200 else None


def plain(kind: str, held: Any) -> Any:
    """What a value means, the same from a frame and from JSON."""
    if held is None or held is pd.NaT or (np.isscalar(held) and pd.isna(held)):
        return None
    if kind == "moment":
        if isinstance(held, str):
            return int(pd.Timestamp(held).timestamp())
        return int(held.timestamp()) if hasattr(held, "timestamp") else int(held)
    if kind == "real":
        return struct.pack("<f", held)
    if kind == "vector":
        return [struct.pack("<f", each) for each in held]
    if kind in ("counts", "words"):
        return list(held)
    if kind in ("whole", "small"):
        return int(held)
    if kind in ("document", "mapped"):
        return json.loads(held) if isinstance(held, str) else held
    if kind in ("amount", "ident"):
        return str(held)
    return bool(held) if kind == "flag" else held


def outputs(one: Drawn) -> dict[str, str]:
    found = dict(one.features)
    if one.transform is not None:
        found |= {f.name: "double" for f in one.transform.features}
    return found


def trained(store: FeatureStore, one: Drawn) -> list[dict[str, Any]]:
    frame = pd.DataFrame(
        {f"gen_{key}": [e[i] for e in one.entities] for i, key in enumerate(one.keys)}
    )
    if not one.keys:
        frame = pd.DataFrame(index=range(len(one.entities)))
    frame["event_timestamp"] = datetime.now(UTC)
    service = store.get_feature_service(f"serve_{one.name}")
    rows = store.get_historical_features(frame, service).to_arrow().to_pylist()
    return [{f: plain(kind, row[f]) for f, kind in outputs(one).items()} for row in rows]


def test_training_at_t_is_http_at_t(
    client: httpx.Client, feast_store: FeatureStore, generated: list[Drawn]
) -> None:
    compared = differing = 0
    told = []
    for one in generated:
        expected = trained(feast_store, one)
        for route, rows in served(client, one):
            for entity_key, want, got in zip(one.entities, expected, rows, strict=True):
                for feature, kind in outputs(one).items():
                    compared += 1
                    if plain(kind, got[feature]) != want[feature]:
                        differing += 1
                        told.append((route, one.name, entity_key, feature, want[feature],
                                     got[feature]))  # fmt: skip
    assert not differing, told[:5]
    assert compared > 4 * VIEWS


def served(client: httpx.Client, one: Drawn) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """What each route answers about the view's entities."""
    if one.keys:
        reply = _feast(client, one, one.entities)
        assert reply is not None, one.name
        names = reply["metadata"]["feature_names"]
        columns = [result["values"] for result in reply["results"]]
        yield (
            "/get-online-features",
            [
                {name: column[i] for name, column in zip(names, columns, strict=True)}
                for i in range(len(one.entities))
            ],
        )
    body = {
        "service": f"serve_{one.name}",
        "entities": [{f"gen_{key}": e[i] for i, key in enumerate(one.keys)} for e in one.entities],
    }
    reply = client.post("/v1/features", json=body)
    assert reply.status_code == 200, (one.name, reply.text)
    yield "/v1/features", [result["features"] for result in reply.json()["results"]]

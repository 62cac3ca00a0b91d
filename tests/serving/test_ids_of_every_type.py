"""Two different keys never share a row: every type of id, through every way in and out.

Hypothesis draws keys (texts that look alike, that look like numbers, that hold what separates ids
in Redis), each gets a value that says whose it is. Computed from history by a tick and published,
or pushed, or materialized from the log; read over HTTP from the near cache and without it, through
Feast's route, by training; rebuilt, and compared by `skewless doctor`'s comparison.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from urllib.parse import quote

import httpx
import pandas as pd
import psycopg
import pytest
import redis
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, PushSource, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import String, from_value_type
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from extensions.asof.computation import Computation
from extensions.asof.computation_loading import computation_of
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.spine import entities
from extensions.asof.tick import tick
from extensions.consistency.view_comparison import compare_views
from extensions.database import connect
from extensions.feature_types import pg_type
from extensions.serving.settings import Settings
from extensions.stores.log_publishing import publish
from extensions.stores.rebuild import rebuild_online
from streaming.processing.feature_computation import log_values
from tests.online.own_store import open_store, quiet
from tests.served import serving, wait_for

DAY = timedelta(days=1)
EXAMPLES = int(os.environ.get("EXAMPLES", "2"))
ALIKE = [
    "", " ", "42", "042", " 42", "42 ", "+42", "4.2e1", "-0", "0", "é", "e\u0301", "a", "\u0430",
    "A", "ａ", ":", "a:b", "a|b", "|", "1:a", "1:a1:b", "=a", "~a", "%", "%41", "a/b", "..", "?",
    "#", "+", "a b", "a+b", "a,b", '"', "'", "\\", "\\x41", "{a}", "{}", "NULL", "null", "🎬",
    "👩‍👩‍👧", "\u202e", "\ufeff", "a\n", "\n", "\t", "\x1f", "\x7f", "x" * 1024, "x" * 1023,
    "y" * 1023 + "z", "*", "[a]",
]  # fmt: skip
TEXTS = st.one_of(
    st.sampled_from(ALIKE),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
    st.text("a:|=1 ", max_size=6),
)
IDS: dict[ValueType, st.SearchStrategy[Any]] = {
    ValueType.STRING: TEXTS,
    ValueType.UUID: st.uuids().map(str),
    ValueType.INT32: st.one_of(st.integers(-300, 300), st.integers(-(2**31), 2**31 - 1)),
    ValueType.INT64: st.one_of(st.integers(-300, 300), st.integers(-(2**63), 2**63 - 1)),
}
TEXT, UUID, SMALL, LARGE = ValueType.STRING, ValueType.UUID, ValueType.INT32, ValueType.INT64
CASES: dict[str, tuple[ValueType, ...]] = {
    "text": (TEXT,), "uuid": (UUID,), "small": (SMALL,), "large": (LARGE,),
    "texts": (TEXT, TEXT), "uuid_text": (UUID, TEXT), "text_large": (TEXT, LARGE),
    "three": (TEXT, TEXT, TEXT), "mixed": (UUID, TEXT, SMALL),
}  # fmt: skip

Key = tuple[Any, ...]


@dataclass
class Case:
    """Keys of one shape: a view computed from history, and one that is pushed to."""

    name: str
    types: tuple[ValueType, ...]
    computation: Computation
    service: str

    @property
    def keys(self) -> list[str]:
        return [f"{self.name}_{i}" for i in range(len(self.types))]

    def rows(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        return [dict(zip(self.keys, key, strict=True)) for key in keys]


@dataclass
class World:
    store: FeatureStore
    conn: psycopg.Connection
    cases: dict[str, Case]
    near: httpx.Client
    plain: httpx.Client
    redis: Any


def whose(key: Key) -> str:
    return json.dumps(key)


def case_of(name: str, conn: psycopg.Connection) -> tuple[Case, list[Any]]:
    types = CASES[name]
    keys = [f"{name}_{i}" for i in range(len(types))]
    kinds = [pg_type(from_value_type(kind)) for kind in types]
    entities = [Entity(name=key, join_keys=[key], value_type=kind)
                for key, kind in zip(keys, types, strict=True)]  # fmt: skip
    # PostgreSQL compares no column of one of these with one of another: logs have "C".
    collation = "POSIX" if name == "texts" else "C"
    declared = ", ".join(
        f"{key} {kind}" + (f' COLLATE "{collation}"' if kind == "text" else "")
        for key, kind in zip(keys, kinds, strict=True)
    )
    conn.execute(f"CREATE TABLE {name}_events ({declared}, at timestamptz, said text)")
    conn.execute(
        f"CREATE TABLE {name}_pushed ({declared}, event_timestamp timestamptz NOT NULL, "
        "created_timestamp timestamptz NOT NULL, pushed text)"
    )
    events = PostgreSQLSource(
        name=f"{name}_events", table=f"{name}_events", timestamp_field="at",
        tags={"keys": ",".join(keys)},
    )  # fmt: skip
    log, pushed = (
        PostgreSQLSource(
            name=table, table=table, timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        )
        for table in (f"{name}_said_v1", f"{name}_pushed")
    )  # fmt: skip
    near = {"near": "true"} if len(types) == 1 else {}
    schema = [Field(name=key, dtype=from_value_type(kind))
              for key, kind in zip(keys, types, strict=True)]  # fmt: skip
    # In the registry the view is plain: its text is not among the repository's files.
    computed, plain = (
        FeatureView(
            name=f"{name}_said",
            version="v1",
            entities=entities,
            ttl=timedelta(0),
            schema=[*schema, Field(name=f"{name}_said", dtype=String, tags={"default": '""'})],
            source=log,
            tags={**tags, **near},
        )
        for tags in ({"freshness": "realtime", "reads": f"{name}_events"}, {})
    )
    told = FeatureView(
        name=f"{name}_told",
        entities=entities,
        ttl=timedelta(0),
        schema=[*schema, Field(name="pushed", dtype=String, tags={"default": '""'})],
        source=PushSource(name=f"{name}_push", batch_source=pushed),
        tags=near,
    )
    own = ", ".join(f"s.{key}" for key in keys)
    same = " AND ".join(f"e.{key} = s.{key}" for key in keys)
    text = (
        f"SELECT {own}, s.as_of, coalesce((SELECT e.said FROM {name}_events AS e WHERE {same} "
        f"AND e.at <= s.as_of ORDER BY e.at DESC LIMIT 1), '') AS {name}_said FROM spine AS s"
    )
    computation = computation_of(computed, list(zip(keys, kinds, strict=True)), [events, log], text)
    service = FeatureService(name=f"of_{name}", features=[plain, told])
    case = Case(name, types, computation, service.name)
    return case, [*entities, events, log, pushed, plain, told, service]


@pytest.fixture(scope="module")
def world(
    database: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    redis_url = redis_server.rpartition("/")[0] + "/9"
    client = redis.Redis.from_url(redis_url)
    client.flushdb()
    folder = tmp_path_factory.mktemp("ids")
    store = open_store(
        folder, database, redis_url, registry={"enable_online_feature_view_versioning": True}
    )
    with connect(database, autocommit=True) as conn:
        cases, objects = {}, []
        for name in CASES:
            cases[name], made = case_of(name, conn)
            objects += made
        store.apply(objects)
        store.registry.refresh(store.project)
        ensure_log_tables(conn, [case.computation for case in cases.values()])
        near, plain = (
            serving(
                Settings(folder, redis_deadline_ms=5_000, near_megabytes=megabytes),
                # A store's connections belong to one event loop.
                FeatureStore(repo_path=str(folder)),
            )
            for megabytes in (64, 0)
        )
        with (
            httpx.Client(base_url=next(near), timeout=60) as cached,
            httpx.Client(base_url=next(plain), timeout=60) as uncached,
        ):
            yield World(store, conn, cases, cached, uncached, client)
        for server in (near, plain):
            assert next(server, None) is None
    client.flushdb()


def keys_of(name: str) -> st.SearchStrategy[list[Key]]:
    key = st.tuples(*(IDS[kind] for kind in CASES[name]))
    return st.lists(key, min_size=60, max_size=120, unique=True)


def store_events(world: World, case: Case, keys: Sequence[Key], at: datetime) -> None:
    marks = ", ".join(["%s"] * (len(case.types) + 2))
    with world.conn.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {case.name}_events VALUES ({marks})",
            [(*key, at, whose(key)) for key in keys],
        )


def push(world: World, case: Case, keys: Sequence[Key], at: datetime, to: str) -> None:
    columns = dict(zip(case.keys, map(list, zip(*keys, strict=True)), strict=True))
    frame = {
        **columns,
        "event_timestamp": [at.isoformat()] * len(keys),
        "created_timestamp": [at.isoformat()] * len(keys),
        "pushed": [whose(key) for key in keys],
    }
    answer = world.near.post(
        "/push", json={"push_source_name": f"{case.name}_push", "df": frame, "to": to}
    )
    assert answer.status_code == 200, answer.text


Read = dict[str, list[Any]]


def read_v1(http: httpx.Client, case: Case, keys: Sequence[Key]) -> Read:
    body = {"service": case.service, "entities": case.rows(keys), "layout": "columns"}
    answer = http.post("/v1/features", json=body)
    assert answer.status_code == 200, answer.text
    entities = answer.json()["entities"]
    assert list(zip(*(entities[name] for name in case.keys), strict=True)) == list(keys)
    found: Read = answer.json()["features"]
    return found


def read_feast(http: httpx.Client, case: Case, keys: Sequence[Key]) -> Read:
    columns = dict(zip(case.keys, map(list, zip(*keys, strict=True)), strict=True))
    body = {"feature_service": case.service, "entities": columns}
    answer = http.post("/get-online-features", json=body)
    assert answer.status_code == 200, answer.text
    names = answer.json()["metadata"]["feature_names"]
    values = [result["values"] for result in answer.json()["results"]]
    found = dict(zip(names, values, strict=True))
    assert [found.pop(name) for name in case.keys] == list(columns.values())
    return found


def read_single(http: httpx.Client, case: Case, keys: Sequence[Key]) -> Read:
    found: Read = {f"{case.name}_said": [], "pushed": []}
    for (key,) in keys:
        # A client would go up the path for dots, however they are encoded.
        if key in (".", ".."):
            continue
        answer = http.get(f"/v1/features/{case.service}/{quote(str(key), safe='')}")
        assert answer.status_code == 200, (key, answer.text)
        assert answer.json()[case.keys[0]] == key
        for name, value in answer.json()["features"].items():
            found[name].append(value)
    return found


def read_ranked(http: httpx.Client, case: Case, keys: Sequence[Key]) -> dict[Key, dict[str, Any]]:
    """Each of some leading ids with all others: pairs that exist, and pairs that do not."""
    leading, other = case.keys
    others = list(dict.fromkeys(key[1] for key in keys))
    found = {}
    for first in list(dict.fromkeys(key[0] for key in keys))[:12]:
        answer = http.post(f"/v1/rank/{case.service}", json={leading: first, other: others})
        assert answer.status_code == 200, answer.text
        assert answer.json()[leading] == first
        for item, second in zip(answer.json()["items"], others, strict=True):
            assert item[other] == second
            found[first, second] = item["pair_features"]
    return found


def trained(world: World, case: Case, keys: Sequence[Key]) -> Read:
    labels = pd.DataFrame(case.rows(keys))
    labels["event_timestamp"] = datetime.now(UTC)
    service = world.store.get_feature_service(case.service)
    table = world.store.get_historical_features(labels, service).to_arrow()
    for name, kind in zip(case.keys, case.types, strict=True):
        assert list(map(str, table[name].to_pylist())) == [
            str(row[name]) for row in case.rows(keys)
        ]
        assert kind in IDS
    return {name: table[name].to_pylist() for name in (f"{case.name}_said", "pushed")}


def check(world: World, case: Case, keys: Sequence[Key]) -> None:
    """Every key's own value, from every side; one that nobody wrote has none."""
    expected = [whose(key) for key in keys]
    wanted = {f"{case.name}_said": expected, "pushed": expected}
    wait_for(lambda: read_v1(world.near, case, keys) == wanted, seconds=10)
    for http in (world.near, world.plain):
        assert read_v1(http, case, keys) == wanted
        assert read_feast(http, case, keys) == wanted
        if len(case.types) == 1:
            some = [key for key in keys[:40] if key[0] not in (".", "..")]
            assert read_single(http, case, some) == {
                name: [whose(key) for key in some] for name in wanted
            }
        if len(case.types) == 2:
            known = set(keys)
            for key, features in read_ranked(http, case, keys).items():
                said = whose(key) if key in known else features["pushed"]
                assert features == {f"{case.name}_said": said, "pushed": said}
                assert said in ("", whose(key))
    assert trained(world, case, keys) == wanted


@pytest.mark.parametrize("name", CASES)
def test_no_two_keys_share_a_value(world: World, name: str) -> None:
    case = world.cases[name]
    seen: dict[Key, None] = {}

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None,
        derandomize="EXAMPLES" not in os.environ, suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],  # each example takes seconds: none is shrunk
    )  # fmt: skip
    @given(keys=keys_of(name))
    def run(keys: list[Key]) -> None:
        at = datetime.now(UTC) - timedelta(hours=1)
        store_events(world, case, keys, at)
        # As the stream computes named entities; then by a tick.
        with world.conn.transaction(force_rollback=True):
            table = log_values(
                world.conn, case.computation, entities(case.computation, set(keys[::3]), at)
            )
        columns = [table[name].to_pylist() for name in (*case.keys, f"{name}_said")]
        told = {tuple(row[:-1]): row[-1] for row in zip(*columns, strict=True)}
        assert told == {key: whose(key) for key in keys[::3]}
        assert tick(world.conn, case.computation, full=True).rows
        publish(world.store, world.conn, case.computation)
        half = len(keys) // 2
        push(world, case, keys[:half], at, "online_and_offline")
        push(world, case, keys[half:], at, "offline")
        with quiet():
            world.store.materialize(at - DAY, datetime.now(UTC), [f"{name}_told"])
        seen.update(dict.fromkeys(keys))
        check(world, case, keys)

    run()
    [compared] = compare_views(world.store, [case.computation], entities=2_000)
    assert compared.entities >= len(seen)
    assert compared.counts == {}
    assert not compared.left_out

    # Redis is made again from the logs, and holds what it held.
    world.redis.flushdb()
    rebuild_online(world.store, None, computations=[case.computation])
    check(world, case, list(islice(seen, 500)))


def test_a_rebuild_takes_out_keys_that_no_log_can_hold(world: World) -> None:
    at = datetime.now(UTC) - timedelta(hours=2)
    keys: dict[str, list[Key]] = {"uuid": [(str(uuid.UUID(int=9)),)], "text": [("a",)],
                                  "large": [(42,)]}  # fmt: skip
    for name, strange in (("uuid", b"=not-a-uuid"), ("text", b"=a\0b"), ("large", b"042")):
        case = world.cases[name]
        store_events(world, case, keys[name], at)
        assert tick(world.conn, case.computation, full=True).rows
        rebuild_online(world.store, None, computations=[case.computation])
        prefix = f"{world.store.project}:{case.keys[0]}:".encode()
        held = next(iter(world.redis.scan_iter(prefix + b"*")))
        row = world.redis.get(held)
        world.redis.set(prefix + strange, row)
        [done] = rebuild_online(world.store, case.computation.name, computations=[case.computation])
        assert done.removed == 1, name
        # Of the other view, which nothing computes, no log of ours knows.
        assert (world.redis.get(prefix + strange) or b"") != row


def test_the_texts_of_logs_are_in_order_of_their_bytes(world: World) -> None:
    """Whatever the database's collation is: so are rebuilds that go on after a key."""
    tables = [f"{name}_said_v1" for name in CASES]
    found = world.conn.execute(
        "SELECT DISTINCT c.collname FROM pg_attribute AS a INNER JOIN pg_collation AS c "
        "ON c.oid = a.attcollation INNER JOIN pg_class AS t ON t.oid = a.attrelid "
        "WHERE t.relname = ANY(%s) AND a.attname NOT LIKE '%%said' AND a.attnum > 0",
        [tables],
    ).fetchall()
    assert found == [("C",)]


def test_uuids_are_one_id_in_every_spelling(world: World) -> None:
    case = world.cases["uuid"]
    known = str(uuid.UUID(int=7))
    at = datetime.now(UTC) - timedelta(minutes=5)
    push(world, case, [(known.upper(),)], at, "online_and_offline")
    spelled = [known, known.upper(), "{" + known + "}", known.replace("-", "")]
    wanted = [whose((known.upper(),))] * 4
    for http in (world.near, world.plain):
        wait_for(lambda http=http: read_v1(http, case, [(s,) for s in spelled])["pushed"] == wanted)
        assert read_feast(http, case, [(s,) for s in spelled])["pushed"] == wanted

"""Every PostgreSQL type as every Feast type through pushes and HTTP: as it is, or refused.

Two ways in (Feast's call, and POST /push), each to the log and to Redis at once; three ways out (a
training set, /get-online-features and /v1/features). What is right is PostgreSQL's own text.
"""

import base64
import itertools
import json
import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psycopg
import pytest
from feast import FeatureService, FeatureStore
from feast.data_source import PushMode
from feast.types import Array, Float32, Float64, Int64, Set
from psycopg import sql

from extensions.errors import SkewlessError
from extensions.serving.settings import Settings
from extensions.stores.offline.arrow.adbc_session import arrow_session
from extensions.stores.offline.arrow.query_rows import read_exactly
from tests.exact.catalogue import Held, held_values, is_right
from tests.exact.conftest import user
from tests.exact.typed_tables import AT, declared_types, pushed_view, typed_tables
from tests.online.own_store import open_store
from tests.served import serving
from tests.serving.redis_nodes import until

PAIRS = int(os.environ.get("EXAMPLES", "12"))
SEED = int(os.environ.get("SKEWLESS_SEED", "7"))
WAYS = ("call", "http")


@dataclass
class Pair:
    """A column's type and a declared one: the values as they are read, and what they are."""

    name: str
    kind: str
    dtype: Any
    read: dict[int, Any]
    held: dict[int, Held | None]

    def view(self, way: str) -> str:
        return f"{self.name}_{way}"


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield connection


@pytest.fixture(scope="module")
def store(
    database: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> FeatureStore:
    made = open_store(tmp_path_factory.mktemp("http") / "repo", database, redis_server)
    made.apply([user])
    return made


@pytest.fixture(scope="module")
def pairs(store: FeatureStore, conn: psycopg.Connection) -> list[Pair]:
    """Pairs of which some values can be read, with a log of their own for each way in."""
    every = list(itertools.product(typed_tables(conn).items(), declared_types()))
    random.Random(SEED).shuffle(every)
    chosen: list[Pair] = []
    with arrow_session(store.config, "reading") as session:
        for (kind, (table, array)), dtype in every:
            if len(chosen) == PAIRS:
                break
            values: dict[int, Any] = {}
            held = held_values(conn, table, array=array)
            for number in held:
                query = sql.SQL("SELECT x FROM {} WHERE user_id = {}").format(
                    sql.Identifier(table), sql.Literal(number)
                )
                try:
                    [value] = next(iter(read_exactly(session, query, {"x": dtype})))["x"]
                except SkewlessError:
                    continue
                values[number] = value.as_py()
            if any(value is not None for value in values.values()):
                name = f"pair_{len(chosen)}"
                for way in WAYS:
                    conn.execute(f"CREATE TABLE {name}_{way} (LIKE {table})")
                chosen.append(Pair(name, kind, dtype, values, held))
    views = [pushed_view(p.view(w), p.view(w), p.dtype) for p in chosen for w in WAYS]
    store.apply([*views, *(FeatureService(name=f"of_{v.name}", features=[v]) for v in views)])
    return chosen


@pytest.fixture(scope="module")
def http(store: FeatureStore, pairs: list[Pair]) -> Iterator[httpx.Client]:
    for url in serving(Settings(repo=Path(store.repo_path)), store):
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client


def test_what_is_pushed_is_trained_on_and_served(
    store: FeatureStore, conn: psycopg.Connection, pairs: list[Pair], http: httpx.Client
) -> None:
    wrong: list[str] = []
    taken = refused = 0
    for pair in pairs:
        for way in WAYS:
            for number, value in pair.read.items():
                refusal = push(store, http, pair, way, number, value)
                if refusal is not None:
                    refused += 1
                    rows = conn.execute(
                        f"SELECT 1 FROM {pair.view(way)} WHERE user_id = %s", [number]
                    ).fetchall()
                    if rows or "x" not in refusal.replace(".", " ").replace(",", " ").split():
                        wrong.append(f"{way}: {pair.kind} as {pair.dtype}: {value!r}: {refusal}")
                    continue
                taken += 1
                for route, got in answers(store, http, pair, way, number):
                    online = route != "training"
                    if not right(got, pair.held[number], pair.dtype, online=online):
                        wrong.append(
                            f"{way}, {route}: {pair.kind} as {pair.dtype}: "
                            f"{pair.held[number]}: {got!r}"
                        )
    assert not wrong, "\n".join(wrong[:40])
    assert taken > 2 * PAIRS


def push(
    store: FeatureStore, http: httpx.Client, pair: Pair, way: str, number: int, value: Any
) -> str | None:
    """None where it was taken, else what was said."""
    frame: dict[str, list[Any]] = {
        "user_id": [number],
        "event_timestamp": [AT],
        "created_timestamp": [AT],
        "x": [value],
    }
    if way == "call":
        made = pd.DataFrame({**frame, "x": pd.Series([value], dtype=object)})
        try:
            store.push(f"{pair.view(way)}_push", made, to=PushMode.ONLINE_AND_OFFLINE)
        except SkewlessError as error:
            return str(error)
        return None
    try:
        body = json.dumps(in_json(frame), allow_nan=False)
    except ValueError:
        return "x is not a number, of which JSON has no form"
    named = f'"push_source_name":"{pair.view(way)}_push","to":"online_and_offline"'
    asked = f'{{{named},"df":{body}}}'
    reply = http.post("/push", content=asked, headers={"content-type": "application/json"})
    if reply.status_code == 200:
        return None
    assert reply.status_code == 422, (pair.kind, pair.dtype, value, reply.text)
    return str(reply.json()["error"]["message"])


def in_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: in_json(one) for name, one in value.items()}
    if isinstance(value, list | set):
        return [in_json(one) for one in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date) else value


def answers(
    store: FeatureStore, http: httpx.Client, pair: Pair, way: str, number: int
) -> Iterator[tuple[str, Any]]:
    name = pair.view(way)
    labels = pd.DataFrame({"user_id": [number], "event_timestamp": [AT + timedelta(days=1)]})
    yield (
        "training",
        store.get_historical_features(labels, [f"{name}:x"]).to_arrow()["x"][0].as_py(),
    )
    asked = {"feature_service": f"of_{name}", "entities": {"user_id": [number]}}
    reply = http.post("/get-online-features", json=asked)
    assert reply.status_code == 200, (pair.kind, pair.dtype, reply.text)
    at = reply.json()["metadata"]["feature_names"].index("x")
    yield "/get-online-features", of_json(reply.json()["results"][at]["values"][0], pair.dtype)
    asked = {"service": f"of_{name}", "entities": [{"user_id": number}]}
    reply = http.post("/v1/features", json=asked)
    assert reply.status_code == 200, (pair.kind, pair.dtype, reply.text)
    yield "/v1/features", of_json(reply.json()["results"][0]["features"]["x"], pair.dtype)


def of_json(value: Any, dtype: Any) -> Any:
    """A value of a reply as Python has it."""
    if value is None:
        return None
    if isinstance(dtype, Array | Set):
        return [of_json(one, dtype.base_type) for one in value]
    if "BYTES" in dtype.name:
        return base64.b64decode(value)
    if dtype.name.startswith("FLOAT"):
        return float(np.float32(value)) if dtype.name == "FLOAT32" else float(value)
    if "TIMESTAMP" in dtype.name and isinstance(value, str):
        return datetime.fromisoformat(value)
    return value


def right(got: Any, held: Held | None, dtype: Any, *, online: bool) -> bool:
    if got is None and held is not None and online:  # JSON has no NaN and no infinity
        name = getattr(dtype, "name", "")
        return name.startswith("FLOAT") and not math.isfinite(float(held.texts[0]))
    if online and isinstance(got, list) and dtype in (Array(Float32), Array(Float64)):
        got = [math.nan if one is None else one for one in got]
    try:
        return is_right(got, held, dtype, online=online)
    except (ValueError, ArithmeticError, TypeError, KeyError):
        return False


def test_a_matrix_over_http(
    store: FeatureStore, conn: psycopg.Connection, http: httpx.Client
) -> None:
    """Two dimensions came as one."""
    conn.execute(
        "CREATE TABLE matrices (user_id bigint, event_timestamp timestamptz, "
        "created_timestamp timestamptz, x bigint[])"
    )
    view = pushed_view("matrices", "matrices", Array(Array(Int64)))
    store.apply([view])
    matrix = [[1, 2], [3, 4], [5, 6]]
    frame = pd.DataFrame({"user_id": [1], "event_timestamp": [AT], "created_timestamp": [AT]})
    store.push("matrices_push", frame.assign(x=[matrix]), to=PushMode.ONLINE_AND_OFFLINE)
    labels = pd.DataFrame({"user_id": [1], "event_timestamp": [AT + timedelta(days=1)]})
    trained = store.get_historical_features(labels, ["matrices:x"]).to_arrow()["x"].to_pylist()
    found = store.get_online_features(["matrices:x"], [{"user_id": 1}]).to_dict()["x"]
    assert trained == found == [matrix]
    until(lambda: _asked(http).status_code == 200)
    [result] = _asked(http).json()["results"][1:]
    assert result["values"] == [matrix]


def _asked(http: httpx.Client) -> httpx.Response:
    body = {"features": ["matrices:x"], "entities": {"user_id": [1]}}
    return http.post("/get-online-features", json=body)

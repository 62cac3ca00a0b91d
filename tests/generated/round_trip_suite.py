"""What was sent is what each path tells: table, log, Redis, HTTP, training.

Run by `test_generated_platforms` over a repository of its own.
"""

import io
import json
import os
import threading
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import fastavro
import httpx
import numpy as np
import pandas as pd
import psycopg
import pytest
from feast import FeatureStore
from kafka import KafkaProducer
from psycopg import sql

from extensions.database import connect
from extensions.serving.settings import Settings as ServingSettings
from streaming.kafka import dead_letters
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from streaming.worker import Worker
from streaming.worker_metrics import WorkerMetrics
from tests.generated.drawing import Platform, avro_schema, draw
from tests.online.repository import applied
from tests.served import serving, wait_for

SEED = int(os.environ["SKEWLESS_SEED"])
ENTITIES, EVENTS = 70, 160
START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)

Keys = tuple[Any, ...]
# The rows of each key in order of their times, as messages have their columns.
Told = dict[Keys, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def platforms() -> list[Platform]:
    return draw(Random(SEED))


@pytest.fixture(scope="module")
def store(database: str, redis_server: str, repo_root: Path) -> Iterator[FeatureStore]:
    with applied(database, redis_server, repo_root) as made:
        yield made


@pytest.fixture(scope="module")
def told(
    platforms: list[Platform], store: FeatureStore, database: str, kafka_server: str,
    repo_root: Path,
) -> Iterator[dict[str, Told]]:  # fmt: skip
    """Send everything, and wait until the streams are at rest."""
    rng, stopping, metrics = Random(SEED), threading.Event(), WorkerMetrics()
    workers = [
        Worker(
            Settings(
                database, kafka_server, repo_root, stream=f"{each.name}_stream",
                worker=each.name, partitions=1, sweep_every=0.5, idle_every=0.3,
                session_timeout=2.0,
            ),
            metrics=metrics,
        )
        for each in platforms
    ]  # fmt: skip
    for worker in workers:  # the broker would give a topic that is sent to four partitions
        ensure_topics(worker.settings)
    threads = [threading.Thread(target=worker.run, args=(stopping,)) for worker in workers]
    for thread in threads:
        thread.start()
    found, sent = {}, {}
    try:
        producer = KafkaProducer(bootstrap_servers=kafka_server)
        for each in platforms:
            messages, found[each.name] = drawn_events(each, rng)
            sent[each.name] = len(messages)
            for message in messages:
                producer.send(each.name, written(each, message))
        producer.flush()
        producer.close()

        def at_rest() -> bool:
            assert all(thread.is_alive() for thread in threads)
            with connect(database) as conn:
                rows = conn.execute(
                    "SELECT topic, next_offset FROM stream_offsets "
                    "WHERE computed_through >= stored_through"
                ).fetchall()
            return dict(rows) == sent

        try:
            wait_for(at_rest, 60)
        except AssertionError:
            with connect(database) as conn:
                stood = conn.execute("SELECT * FROM stream_offsets").fetchall()
            raise AssertionError(f"{sent} was sent, read is {stood}") from None
        letters = [letter for each in workers for letter in dead_letters.list_(each.settings)]
        assert not letters, letters[:3]
        yield found
    finally:
        stopping.set()
        for thread in threads:
            thread.join(30)


def drawn_events(platform: Platform, rng: Random) -> tuple[list[dict[str, Any]], Told]:
    """Messages in the order in which they are sent, some of them twice; and what is true then."""
    entities = platform.entities(rng, ENTITIES)
    ids = iter(drawn_ids(platform.id_type, rng))
    told: Told = {}
    messages: list[dict[str, Any]] = []
    order = entities + rng.choices(entities, k=EVENTS - len(entities))
    for number, keys in enumerate(order):
        row = {
            column.name: None if column.nullable and rng.random() < 0.3 else column.kind.draw(rng)
            for column in platform.columns
        }
        at = START + timedelta(seconds=rng.randrange(6000), microseconds=number)
        said = map(said_key, keys, [rng] * len(keys)) if "json" in platform.form else keys
        message = dict(zip(platform.fields, said, strict=True))
        message |= {column.field: row[column.name] for column in platform.columns}
        message["at"] = at.isoformat()
        if platform.id_type:
            message["event_id"] = next(ids)
        told.setdefault(keys, []).append({"at": at, **row})
        messages.append(message)
        if platform.id_type and rng.random() < 0.1:  # a second one of the id says other things
            others = dict(zip(platform.fields, rng.choice(entities), strict=True))
            messages.append({**message, **others})
    for rows in told.values():
        rows.sort(key=lambda row: row["at"])
    return messages, told


def written(platform: Platform, message: dict[str, Any]) -> bytes:
    """A message as its platform writes it."""
    if platform.form == "avro":
        file = io.BytesIO()
        fastavro.schemaless_writer(file, avro_schema(platform), message)
        return file.getvalue()
    if platform.form == "protobuf":
        made = import_module("feature_repo.messages").__dict__[platform.name]
        present = {name: value for name, value in message.items() if value is not None}
        return bytes(made(**present).SerializeToString())
    if platform.form == "debezium":
        source = {"ts_ms": int(START.timestamp() * 1000), "table": platform.name}
        message = {"op": "c", "before": None, "after": message, "source": source}
    return json.dumps(message).encode()


def drawn_ids(kind: str | None, rng: Random) -> list[Any]:
    if kind == "text":
        return [f"{text}{n}" for n in range(EVENTS) for text in ("e", "E", "é", " e", "e\u0301")]
    if kind == "bigint":
        return rng.sample(range(2**63 - 10**6, 2**63), EVENTS)
    return [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(EVENTS)]


def said_key(key: Any, rng: Random) -> Any:
    """An integer also comes as its decimal text."""
    return str(key) if isinstance(key, int) and rng.random() < 0.3 else key


def expected(platform: Platform, rows: list[dict[str, Any]]) -> list[Any]:
    """The features of a key whose rows these are: their number, and the last one's columns."""
    values: list[Any] = [len(rows)]
    for column in platform.columns:
        value = rows[-1][column.name] if rows else None
        if value is None:
            value = json.loads(column.kind.default)
            if column.kind.dtype == "UnixTimestamp":
                value = datetime.fromisoformat(value)
        else:
            value = column.kind.held(value)
        values.append(value)
    return values


def names(platform: Platform) -> list[str]:
    return ["f_rows", *(f"f_{n}" for n in range(len(platform.columns)))]


def plain(value: Any, dtype: str) -> Any:
    """A value of any path as Python has it."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return value
    if dtype == "UnixTimestamp":
        if isinstance(value, int):
            value = datetime.fromtimestamp(value, UTC)
        value = datetime.fromisoformat(value) if isinstance(value, str) else value
        return value.astimezone(UTC)
    if dtype == "Float32":
        return float(np.float32(value))
    return str(value) if dtype == "Uuid" else value


def compare(platform: Platform, told: Told, path: str, found: dict[Keys, list[Any]]) -> None:
    """``found``: what ``path`` tells of each key; Feast's times are whole seconds online."""
    kinds = ["Int64", *(column.kind.dtype for column in platform.columns)]
    assert len(found) >= len(told) - 1
    wrong = []
    for keys, values in found.items():
        got = [plain(value, kind) for value, kind in zip(values, kinds, strict=True)]
        true = expected(platform, told.get(keys, []))
        if path not in ("log", "training"):
            true = [v.replace(microsecond=0) if isinstance(v, datetime) else v for v in true]
        if list(map(repr, got)) != list(map(repr, true)):
            wrong.append((keys, got, true))
    assert not wrong, f"{path}, {platform.name}: {len(wrong)} of {len(found)} wrong: {wrong[:2]}"


def asked(platform: Platform, told: Told) -> list[Keys]:
    """All keys that have rows, and some that have none."""
    nobody = {"STRING": "nobody", "UUID": str(uuid.UUID(int=5)), "INT32": 77, "INT64": 2**40}
    return [*told, tuple(nobody[kind.value_type] for kind in platform.key_kinds)]


def test_the_table_and_the_log_hold_each_key_apart(
    platforms: list[Platform], told: dict[str, Told], database: str
) -> None:
    with psycopg.connect(database) as conn:
        for each in platforms:
            keys = sql.SQL(", ").join(
                sql.SQL("{}::text" if k.value_type == "UUID" else "{}").format(sql.Identifier(key))
                for key, k in zip(each.keys, each.key_kinds, strict=True)
            )
            query = sql.SQL("SELECT {}, count(*) FROM {} GROUP BY {}").format(
                keys, sql.Identifier(each.name), identifiers(each.keys)
            )
            stored = {row[:-1]: row[-1] for row in conn.execute(query)}
            assert stored == {key: len(rows) for key, rows in told[each.name].items()}, each
            query = sql.SQL(
                "SELECT DISTINCT ON ({own}) {keys}, {names} FROM {log} "
                "ORDER BY {own}, event_timestamp DESC, created_timestamp DESC"
            ).format(
                own=identifiers(each.keys), keys=keys, names=identifiers(names(each)),
                log=sql.Identifier(f"{each.name}_view_v1"),
            )  # fmt: skip
            width = len(each.keys)
            found = {row[:width]: list(row[width:]) for row in conn.execute(query)}
            compare(each, told[each.name], "log", found)


def identifiers(columns: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def test_redis_tells_it(
    platforms: list[Platform], told: dict[str, Told], store: FeatureStore
) -> None:
    for each in platforms:
        keys = asked(each, told[each.name])
        entities = [dict(zip(each.keys, key, strict=True)) for key in keys]
        service = store.get_feature_service(f"{each.name}_service")
        columns = store.get_online_features(service, entities).to_dict()
        rows = [[columns[name][n] for name in names(each)] for n in range(len(keys))]
        compare(each, told[each.name], "Redis", dict(zip(keys, rows, strict=True)))


def test_training_tells_it(
    platforms: list[Platform], told: dict[str, Told], store: FeatureStore
) -> None:
    for each in platforms:
        keys = asked(each, told[each.name])
        labels = pd.DataFrame(keys, columns=list(each.keys))
        labels["event_timestamp"] = datetime.now(UTC)
        service = store.get_feature_service(f"{each.name}_service")
        table = store.get_historical_features(labels, service).to_arrow()
        told_keys = list(
            zip(*(map(uuid_text, table[key].to_pylist()) for key in each.keys), strict=True)
        )
        assert told_keys == keys
        columns = [table[name].to_pylist() for name in names(each)]
        rows = dict(zip(keys, map(list, zip(*columns, strict=True)), strict=True))
        compare(each, told[each.name], "training", rows)


def uuid_text(value: Any) -> Any:
    return str(value) if isinstance(value, uuid.UUID) else value


@pytest.fixture(scope="module")
def http(store: FeatureStore, repo_root: Path) -> Iterator[httpx.Client]:
    for url in serving(ServingSettings(repo=repo_root), store):
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client


def test_http_tells_it(
    platforms: list[Platform], told: dict[str, Told], http: httpx.Client
) -> None:
    """By the general route, Feast's own, and the route of one id; near caches twice."""
    near = sum(each.near for each in platforms)
    wait_for(lambda: len([1 for _ in loaded_near(http)]) >= near)
    for each in platforms:
        keys = asked(each, told[each.name])
        service = f"{each.name}_service"
        entities = [dict(zip(each.keys, key, strict=True)) for key in keys]
        reply = ask(http, "POST", "/v1/features", {"service": service, "entities": entities})
        results = reply.json()["results"]
        assert [row["entity"] for row in results] == entities
        found = [list(row["features"].values()) for row in results]
        assert list(results[0]["features"]) == names(each)
        compare(each, told[each.name], "/v1/features", dict(zip(keys, found, strict=True)))

        columns = {key: [row[n] for row in keys] for n, key in enumerate(each.keys)}
        body = {"feature_service": service, "entities": columns}
        reply = ask(http, "POST", "/get-online-features", body)
        order = reply.json()["metadata"]["feature_names"]
        values = [reply.json()["results"][order.index(name)]["values"] for name in names(each)]
        rows = dict(zip(keys, map(list, zip(*values, strict=True)), strict=True))
        compare(each, told[each.name], "/get-online-features", rows)

        if len(each.keys) == 1:
            found = []
            by_path = [key for key in keys if key != ("..",)]  # clients make a parent folder of it
            for (key,) in by_path:
                path = f"/v1/features/{service}/{urllib.parse.quote(str(key), safe='')}"
                reply = ask(http, "GET", path)
                assert reply.json()[each.keys[0]] == key
                found.append(list(reply.json()["features"].values()))
            compare(each, told[each.name], "by id", dict(zip(by_path, found, strict=True)))


def ask(http: httpx.Client, method: str, path: str, body: Any = None) -> httpx.Response:
    """The reply; on a machine that is busy, Redis may be called away for a moment."""
    replies: list[httpx.Response] = []

    def answered() -> bool:
        replies.append(http.request(method, path, json=body))
        return replies[-1].status_code != 503

    wait_for(answered)
    assert replies[-1].status_code == 200, (path, replies[-1].text)
    return replies[-1]


def loaded_near(http: httpx.Client) -> Iterator[str]:
    """The near caches that are loaded."""
    for line in http.get("/metrics").text.splitlines():
        if line.startswith("skewless_near_rows{") and float(line.rpartition(" ")[2]) > 0:
            yield line

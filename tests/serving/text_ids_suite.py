"""The published routes, training, the log of requests and the audit over text ids.

Run by `test_text_ids` with a copy of the repository whose ids are texts.
"""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from extensions.asof import Computation
from extensions.consistency.view_comparison import compare_views
from extensions.database import connect
from extensions.serving.settings import Settings
from extensions.training.label_source import read_labels
from extensions.training.training_set import take, take_again
from monitoring.audit.skew_audit import audit
from tests.served import filled, serving, wait_for

SHAPES = "SKEWLESS_TEST_SHAPES"
HOUR = {"requestHour": 21}
USER, ITEMS = "u-3", ["m-7", "m-1", "m-7", "m-900"]
ARROW = {"accept": "application/vnd.apache.arrow.stream"}


def published(http: httpx.Client, user: Any, items: list[Any]) -> dict[str, Any]:
    """The published routes' replies in all their forms."""
    rank = {"userId": user, "itemIds": items, "context": HOUR}

    def post(path: str, **more: Any) -> Any:
        answer = http.post(path, json={**rank, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()

    answer = http.get(f"/v1/features/user/{user}?include=meta")
    assert answer.status_code == 200, answer.text
    packed = http.post("/v1/features/rank", json=rank, headers={"accept": "application/msgpack"})
    table = pa.ipc.open_stream(
        http.post("/v1/features/rank", json=rank, headers=ARROW).content
    ).read_all()
    return {
        "user": answer.json(),
        "rows": post("/v1/features/rank?include=meta"),
        "columns": post("/v1/features/rank", layout="columns"),
        "msgpack": msgpack.unpackb(packed.content),
        "arrow": table.column_names,
        "nobody": http.get(f"/v1/features/user/{items[-1]}").json(),
    }


def shape(value: Any) -> Any:
    """A reply without its values: names in order, and types; ids count as one type."""
    if isinstance(value, dict):
        return [
            [name, "id" if name in ("userId", "itemId", "itemIds") else shape(one)]
            for name, one in value.items()
        ]
    if isinstance(value, list):
        return [shape(one) for one in value] if len(value) < 10 else len(value)
    return "number" if type(value) in (int, float) else type(value).__name__


@pytest.fixture(scope="module")
def feast_store(
    database: str, redis_url: str, repo_root: Path, computations: dict[str, Computation]
) -> Iterator[FeatureStore]:
    ids = {"user": "'u-' || {}", "item": "'m-' || {}"}
    with filled(database, redis_url, repo_root, computations, users=20, events=900, **ids) as store:
        yield store


@pytest.fixture(scope="module")
def url(feast_store: FeatureStore, repo_root: Path) -> Iterator[str]:
    yield from serving(Settings(repo=repo_root, max_items=200, log_rate=1.0), feast_store)


def test_replies_are_as_published(http: httpx.Client) -> None:
    shapes = json.loads(Path(os.environ[SHAPES]).read_text())
    found = published(http, USER, ITEMS)
    assert {name: shape(reply) for name, reply in found.items()} == shapes
    assert found["user"]["userId"] == found["rows"]["userId"] == USER
    assert [item["itemId"] for item in found["rows"]["items"]] == ITEMS
    assert found["columns"]["itemIds"] == found["msgpack"]["itemIds"] == ITEMS
    assert found["user"]["features"]["user_watch_count_7d"] > 0
    assert found["rows"]["meta"]["item_profile"]["near"]["generation"] >= 1


def test_all_routes_and_training_tell_the_same(
    http: httpx.Client, feast_store: FeatureStore
) -> None:
    ranked = http.post(
        "/v1/features/rank", json={"userId": USER, "itemIds": ITEMS, "context": HOUR}
    ).json()
    rows = [
        {**ranked["userFeatures"], **item["itemFeatures"], **item["interactionFeatures"]}
        for item in ranked["items"]
    ]
    generic = http.post(
        "/v1/rank/ranking", json={"user_id": USER, "item_id": ITEMS, "context": HOUR}
    ).json()
    assert list(generic) == ["user_id", "features", "items", "latencyMs"]
    assert [
        {**generic["features"], **item["item_features"], **item["pair_features"]}
        for item in generic["items"]
    ] == rows
    entities = [{"user_id": USER, "item_id": item} for item in ITEMS]
    body = {"service": "ranking", "entities": entities, "context": HOUR}
    plain = http.post("/v1/features", json=body).json()["results"]
    assert [row["features"] for row in plain] == rows
    assert [row["entity"] for row in plain] == entities

    columns = {"user_id": [USER] * 4, "item_id": ITEMS, "request_hour": [21] * 4}
    feast = http.post(
        "/get-online-features", json={"feature_service": "ranking", "entities": columns}
    ).json()
    names = feast["metadata"]["feature_names"]
    held = dict(zip(names, (result["values"] for result in feast["results"]), strict=True))
    assert (held.pop("user_id"), held.pop("item_id")) == ([USER] * 4, ITEMS)

    labels = pd.DataFrame({**columns, "event_timestamp": datetime.now(UTC)})
    service = feast_store.get_feature_service("ranking")
    trained = feast_store.get_historical_features(labels, service).to_arrow()
    assert trained["item_id"].to_pylist() == ITEMS
    for i, row in enumerate(rows):
        assert set(row) == set(held)
        for name, value in row.items():
            told = trained[name][i].as_py()
            if isinstance(told, (float, list)):
                assert np.array_equal(np.float32(told), np.float32(value)), name
                assert np.array_equal(np.float32(told), np.float32(held[name][i])), name
            else:
                assert told == value == held[name][i], name


@pytest.mark.parametrize("user", ["U-3", "u-3 ", "u%2D3", "3", "", "u-3/", "ü-3"])
def test_another_text_is_another_user(http: httpx.Client, user: str) -> None:
    same = user == "u%2D3"
    answer = http.get(f"/v1/features/user/{user}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["userId"] == ("u-3" if same else user)
    assert (answer.json()["features"]["user_watch_count_7d"] > 0) == same


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"userId": 3, "itemIds": []}, "userId"),
        ({"userId": USER, "itemIds": ["m-7", 7]}, "itemIds[1]"),
        ({"userId": USER, "itemIds": ["m-7", "m\0"]}, "itemIds[1]"),
        ({"userId": None, "itemIds": []}, "userId"),
        ({"userId": USER, "itemIds": ["x" * 20_000]}, "itemIds[0]"),
    ],
)
def test_what_is_no_text_is_refused(http: httpx.Client, body: Any, field: str) -> None:
    answer = http.post("/v1/features/rank", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field


def test_requests_are_logged_and_audited(
    http: httpx.Client,
    database: str,
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        start = datetime.now(UTC)
        for number in range(12):
            body = {"userId": f"u-{number}", "itemIds": [f"m-{i}" for i in range(1, 11)]}
            assert http.post("/v1/features/rank", json=body).status_code == 200
            assert http.get(f"/v1/features/user/u-{number}").status_code == 200
        since = "FROM served_features WHERE served_at >= %s"
        wait_for(lambda: conn.execute(f"SELECT count(*) {since}", [start]).fetchone() == (12 * 11,))
        rows = conn.execute(
            f"SELECT DISTINCT user_id, item_id {since} AND service = 'ranking'", [start]
        ).fetchall()
        assert set(rows) == {(f"u-{n}", f"m-{i}") for n in range(12) for i in range(1, 11)}
    report = audit(feast_store, computations, start, datetime.now(UTC), entities=20)
    assert report.compared > 0
    assert (report.bugs, report.equal) == (0, report.compared)


def test_the_comparison_of_doctor_finds_nothing(
    feast_store: FeatureStore, computations: Mapping[str, Computation]
) -> None:
    for compared in compare_views(feast_store, computations.values(), entities=200):
        assert compared.entities > 0
        assert compared.counts == {}, compared.worst
        assert compared.left_out == ()


def test_examples_of_the_document_can_be_sent(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    rank = paths["/v1/features/rank"]["post"]["requestBody"]["content"]["application/json"]
    [example] = rank["examples"].values()
    assert example["value"]["itemIds"] == ["1", "2", "3"]
    assert http.post("/v1/features/rank", json=example["value"]).status_code == 200
    [parameter, _] = paths["/v1/features/user/{user_id}"]["get"]["parameters"]
    assert parameter["schema"]["type"] == "string"


def test_labels_of_a_csv_keep_their_texts(
    feast_store: FeatureStore, database: str, tmp_path: Path
) -> None:
    """Its columns have no types: 042 and 42 are two users, and NULL is one."""
    ids = ["042", "42", " 42", "4.2e1", "NULL", "true", "2026-01-01", "nan", "u-3"]
    now = datetime.now(UTC) - timedelta(minutes=10)
    with connect(database) as conn, conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO user_watch_stats_v1 (user_id, event_timestamp, created_timestamp, "
            "user_watch_count_7d) VALUES (%s, %s, %s, %s)",
            [(one, now, now, 1000 + i) for i, one in enumerate(ids[:-1])],
        )
    labels = tmp_path / "labels.csv"
    rows = [f'"{one}",{datetime.now(UTC).isoformat()}' for one in ids]
    labels.write_text("\n".join(["user_id,event_timestamp", *rows]) + "\n")
    made = take(feast_store, "home_page", read_labels(labels), tmp_path / "set.parquet")
    table = pq.read_table(made.path)
    assert table["user_id"].to_pylist() == ids
    assert table["user_watch_count_7d"].to_pylist()[:-1] == [1000 + i for i in range(8)]
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("\n".join(["user_id,event_timestamp", *rows[:1], *rows[1:2]]) + "\n")
    made = take(feast_store, "home_page", read_labels(numbers), tmp_path / "two.parquet")
    assert pq.read_table(made.path)["user_id"].to_pylist() == ["042", "42"]
    again = take_again(feast_store, made.manifest_path, tmp_path / "again.parquet")
    assert again.manifest.sha256 == made.manifest.sha256

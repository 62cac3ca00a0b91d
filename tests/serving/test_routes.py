"""The hot routes answer what Feast answers, and refuse by name what they cannot answer."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import msgpack
import numpy as np
import pyarrow as pa
import pytest

from extensions.serving.settings import Settings
from tests.served import serving

HOUR = {"requestHour": 21}
HOUR_FIELD = "context.requestHour"
UNKNOWN = 999_999


def by_feast(store: Any, service: str, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = store.get_online_features(
        store.get_feature_service(service), rows
    ).to_dict()
    return found


def close(ours: Any, theirs: Any) -> bool:
    """Equal as float32: Feast prints the float64 of a float32."""
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    if isinstance(theirs, float):
        return np.float32(ours) == np.float32(theirs)
    return ours == theirs and type(ours) is type(theirs)


@pytest.mark.parametrize("user", [1, 7, 20, UNKNOWN, -5])
def test_a_users_features(http, feast_store, user) -> None:
    answer = http.get(f"/v1/features/user/{user}")
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["userId", "features", "latencyMs"]
    assert body["userId"] == user
    theirs = by_feast(feast_store, "home_page", [{"user_id": user}])
    assert set(body["features"]) == set(theirs) - {"user_id"}
    assert all(close(value, theirs[name][0]) for name, value in body["features"].items())
    assert 0 < float(answer.headers["x-feature-latency-ms"]) < 1000


ITEMS = [*range(1, 61), UNKNOWN, 5, 5]


def test_a_ranking_is_feasts_in_the_order_asked(http, feast_store) -> None:
    answer = http.post("/v1/features/rank", json={"userId": 3, "itemIds": ITEMS, "context": HOUR})
    body = answer.json()
    assert list(body) == ["userId", "userFeatures", "items", "latencyMs"]
    assert [item["itemId"] for item in body["items"]] == ITEMS
    rows = [{"user_id": 3, "item_id": item, "request_hour": 21} for item in ITEMS]
    theirs = by_feast(feast_store, "ranking", rows)
    for i, item in enumerate(body["items"]):
        assert list(item) == ["itemId", "itemFeatures", "interactionFeatures"]
        both = {**body["userFeatures"], **item["itemFeatures"], **item["interactionFeatures"]}
        assert set(both) == set(theirs) - {"user_id", "item_id", "request_hour"}
        for name, value in both.items():
            assert close(value, theirs[name][i]), (name, i)
    assert {"item_genre", "item_popularity_score"} == set(body["items"][0]["itemFeatures"])


@pytest.mark.parametrize("items", [[], [1], [UNKNOWN], [3, 3], list(range(1, 40))])
def test_small_rankings_and_the_same_as_columns(http, items) -> None:
    asked = {"userId": 2, "itemIds": items, "context": HOUR}
    rows = http.post("/v1/features/rank", json=asked).json()
    body = http.post("/v1/features/rank", json={**asked, "layout": "columns"}).json()
    assert body["itemIds"] == items == [item["itemId"] for item in rows["items"]]
    for part in ("itemFeatures", "interactionFeatures"):
        for name, column in body[part].items():
            assert column == [item[part][name] for item in rows["items"]]


def test_any_service_by_entity_rows(http) -> None:
    entities = [{"user_id": u, "item_id": i} for u, i in ((1, 2), (3, 4), (1, 4), (3, UNKNOWN))]
    asked = {"service": "ranking", "entities": entities, "context": HOUR}
    body = http.post("/v1/features", json=asked).json()
    assert [one["entity"] for one in body["results"]] == entities
    for one in body["results"]:
        ranking = {
            "userId": one["entity"]["user_id"],
            "itemIds": [one["entity"]["item_id"]],
            "context": HOUR,
        }
        other = http.post("/v1/features/rank", json=ranking).json()
        [item] = other["items"]
        both = {**other["userFeatures"], **item["itemFeatures"], **item["interactionFeatures"]}
        assert both == one["features"]
    columns = http.post("/v1/features", json={**asked, "layout": "columns"}).json()
    assert columns["entities"]["user_id"] == [1, 3, 1, 3]
    empty = http.post("/v1/features", json={"service": "home_page", "entities": []}).json()
    assert empty["results"] == []


def test_meta_says_version_moment_and_status(http) -> None:
    body = http.get(f"/v1/features/user/{UNKNOWN}?include=meta").json()
    assert body["meta"]["user_watch_stats"]["status"] == "default"
    assert body["meta"]["user_watch_stats"]["asOf"] is None
    body = http.post(
        "/v1/features/rank?include=meta", json={"userId": 1, "itemIds": [1, UNKNOWN]}
    ).json()
    assert body["meta"]["user_habits"]["status"] == "fresh"
    assert body["meta"]["user_habits"]["version"] == 1
    assert body["meta"]["user_habits"]["asOf"].endswith("Z")
    assert len(body["meta"]["user_habits"]["fingerprint"]) == 16
    assert body["meta"]["item_profile"]["status"] == ["fresh", "default"]


def test_arrow_and_msgpack(http) -> None:
    asked = {"userId": 3, "itemIds": [1, 2, UNKNOWN], "context": HOUR, "layout": "columns"}
    plain = http.post("/v1/features/rank", json=asked).json()
    packed = http.post("/v1/features/rank", json=asked, headers={"accept": "application/msgpack"})
    read = msgpack.unpackb(packed.content)
    assert (
        read["interactionFeatures"]["continue_watching"]
        == plain["interactionFeatures"]["continue_watching"]
    )
    kind = "application/vnd.apache.arrow.stream"
    answer = http.post("/v1/features/rank", json=asked, headers={"accept": kind})
    assert answer.headers["content-type"] == kind
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table["itemId"].to_pylist() == asked["itemIds"]
    assert table["item_popularity_score"].type == pa.float32()
    assert json.loads(table.schema.metadata[b"userFeatures"]) == plain["userFeatures"]
    one = http.get("/v1/features/user/3", headers={"accept": kind})
    assert pa.ipc.open_stream(one.content).read_all().num_rows == 1


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{", 400, None),
        (b'{"userId": NaN, "itemIds": []}', 400, None),
        (b"[]", 422, None),
        (b"{}", 422, "userId"),
        (b'{"userId": 1}', 422, "itemIds"),
        (b'{"userId": 1, "itemIds": 5}', 422, "itemIds"),
        (b'{"userId": "01", "itemIds": []}', 422, "userId"),
        (b'{"userId": 1.0, "itemIds": []}', 422, "userId"),
        (b'{"userId": true, "itemIds": []}', 422, "userId"),
        (b'{"userId": null, "itemIds": []}', 422, "userId"),
        (b'{"userId": 9223372036854775808, "itemIds": []}', 422, "userId"),
        (b'{"userId": 1, "itemIds": ["1", "2.0"]}', 422, "itemIds[1]"),
        (b'{"userId": 1, "itemIds": [1, null]}', 422, "itemIds[1]"),
        (b'{"userId": 1, "itemIds": [1, 9223372036854775808]}', 422, "itemIds[1]"),
        (b'{"userId": 1, "itemIds": [1e400]}', 400, None),
        (b'{"userId": 1, "itemIds": [%s]}' % b",".join([b"1"] * 201), 422, "itemIds"),
        (b'{"userId": 1, "itemIds": [], "more": 1}', 422, "more"),
        (b'{"userId": 1, "itemIds": [], "layout": "x"}', 422, "layout"),
        (b'{"userId": 1, "itemIds": [], "context": 5}', 422, "context"),
        (b'{"userId": 1, "itemIds": [], "context": {"requestHour": "5"}}', 422, HOUR_FIELD),
        (b'{"userId": 1, "itemIds": [], "context": {"requestHour": true}}', 422, HOUR_FIELD),
        (b'{"userId": 1, "itemIds": [], "context": {"other": 1}}', 422, "context.other"),
        (b" " * 2_000_000, 413, None),
    ],
)  # fmt: skip
def test_refusals_name_the_field(http, body, status, field) -> None:
    answer = http.post("/v1/features/rank", content=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"].get("field") == field
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "user", ["x", "1.5", "1e3", "%00", "1%0A", "99999999999999999999", "x" * 10_000, "%ff", ""]
)
def test_ids_in_the_path(http, user) -> None:
    answer = http.get(f"/v1/features/user/{user}")
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "user_id"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/features/user/1", 405),
        ("GET", "/v1/features/rank", 405),
        ("POST", "/v1/features/nothing", 404),
        ("GET", "/nothing", 404),
    ],
)
def test_routes_that_are_not_there(http, method, path, status) -> None:
    assert http.request(method, path).status_code == status


def test_a_service_that_is_not_there(http) -> None:
    answer = http.post("/v1/features", json={"service": "nothing", "entities": []})
    assert (answer.status_code, answer.json()["error"]["field"]) == (404, "service")
    answer = http.post("/v1/features", json={"service": "ranking", "entities": [{"user_id": 1}]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "entities[0].item_id")
    answer = http.post("/v1/features", json={"service": "ranking", "entities": [7]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "entities[0]")


def test_feasts_own_routes_behind(http, feast_store) -> None:
    asked = {"feature_service": "home_page", "entities": {"user_id": [1, 2]}}
    answer = http.post("/get-online-features", json=asked)
    assert answer.status_code == 200
    names = answer.json()["metadata"]["feature_names"]
    theirs = by_feast(feast_store, "home_page", [{"user_id": 1}, {"user_id": 2}])
    assert set(names) == set(theirs)
    assert http.get("/health").status_code == 200
    for wrong in (
        {"features": ["user_habits:nothing"], "entities": {"user_id": [1]}},
        {"features": ["nothing:x"], "entities": {"user_id": [1]}},
        {"feature_service": "home_page", "entities": {"user_id": [None]}},
        {"feature_service": "home_page", "entities": {"user_id": ["x"]}},
        {"feature_service": "home_page", "entities": {}},
    ):
        answer = http.post("/get-online-features", json=wrong)
        assert 400 <= answer.status_code < 500, (wrong, answer.text)


def test_what_operators_ask(http) -> None:
    ready = http.get("/ready").json()
    assert ready["ready"] is ready["redis"] is ready["plan"] is ready["warm"] is True
    text = http.get("/metrics").text
    assert 'skewless_request_seconds_count{route="/v1/features/rank"}' in text
    assert 'skewless_rows_served_total{status="default",view="item_stats"}' in text
    assert "skewless_plan_version 1.0" in text
    paths = http.get("/v1/openapi.json").json()["paths"]
    assert {"/v1/features/user/{user_id}", "/v1/features/rank", "/v1/features"} < set(paths)


@pytest.fixture(scope="module")
def guarded(feast_store, repo_root) -> Iterator[httpx.Client]:
    for url in serving(Settings(repo=repo_root, api_key="secret"), feast_store):
        with httpx.Client(base_url=url, timeout=10) as client:
            yield client


def test_an_api_key_is_demanded(guarded) -> None:
    assert guarded.get("/v1/features/user/1").status_code == 401
    wrong = guarded.get("/v1/features/user/1", headers={"x-api-key": "other"})
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (401, "X-Api-Key")
    right = guarded.get("/v1/features/user/1", headers={"x-api-key": "secret"})
    assert right.status_code == 200
    assert guarded.get("/health").status_code == 200

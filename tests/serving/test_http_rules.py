"""Rules that hold on every route that takes the thing: request fields' ranges, ``include``."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pyarrow as pa
import pytest
from feast import Field, RequestSource
from feast.types import Int32, Int64, String, UnixTimestamp

from extensions.errors import SkewlessError
from extensions.stores.request_fields import RequestField

RANK = {"userId": 1, "itemIds": [1, 2]}
ROWS = {"service": "ranking", "entities": [{"user_id": 1, "item_id": 2}]}
COLUMNS = {"user_id": [1, 2], "item_id": [2, 3]}
SUNDAY = datetime(2026, 11, 1, 23, 59, 59, tzinfo=UTC)
MONDAY = datetime(2026, 11, 2, tzinfo=UTC)


def refused(answer: httpx.Response, field: str) -> None:
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("hour", [-1, 24, 21_000])
def test_an_hour_outside_the_day_is_refused_on_every_route(http: httpx.Client, hour: int) -> None:
    for path, body in (("/v1/features/rank", RANK), ("/v1/features", ROWS)):
        answer = http.post(path, json={**body, "context": {"requestHour": hour}})
        refused(answer, "context.requestHour")
        limit = "at least 0" if hour < 0 else "at most 23"
        assert f"requestHour must be {limit}." == answer.json()["error"]["message"]
    entities = {**COLUMNS, "request_hour": [21, hour]}
    plain = {"feature_service": "ranking", "entities": entities}
    by_name = {"features": ["ranking_signals:hour_closeness"], "entities": entities}
    for body in (plain, by_name):
        # With version metadata it is Feast's own code that answers.
        for more in ({}, {"include_feature_view_version_metadata": True}):
            refused(
                http.post("/get-online-features", json={**body, **more}), "entities.request_hour"
            )


@pytest.mark.parametrize("hour", [0, 23])
def test_the_first_and_the_last_hour_are_taken(http: httpx.Client, hour: int) -> None:
    answer = http.post("/v1/features/rank", json={**RANK, "context": {"requestHour": hour}})
    assert answer.status_code == 200
    entities = {**COLUMNS, "request_hour": [hour, hour]}
    body = {"feature_service": "ranking", "entities": entities}
    assert http.post("/get-online-features", json=body).status_code == 200


@pytest.mark.parametrize("query", ["include=metadata", "include=meta&include=x", "include="])
def test_what_cannot_be_included_is_refused_on_every_route(http: httpx.Client, query: str) -> None:
    refused(http.get(f"/v1/features/user/1?{query}"), "include")
    refused(http.post(f"/v1/features/rank?{query}", json=RANK), "include")
    refused(http.post(f"/v1/features?{query}", json=ROWS), "include")


def test_meta_is_included(http: httpx.Client) -> None:
    for answer in (
        http.get("/v1/features/user/1?include=meta"),
        http.post("/v1/features/rank?include=meta", json=RANK),
        http.post("/v1/features?include=meta", json=ROWS),
    ):
        assert answer.json()["meta"]["user_habits"]["version"] == 1
    assert "meta" not in http.get("/v1/features/user/1?other=1").json()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"minimum": "low"}, "not JSON"),
        ({"maximum": "true"}, "maximum must be a number"),
        ({"default_from": "moon"}, "one of utc_hour, utc_weekday, unix_seconds, not moon"),
    ],
)
def test_tags_that_cannot_be_read(tags: dict[str, str], message: str) -> None:
    source = RequestSource(name="context", schema=[Field(name="x", dtype=Int64, tags=tags)])
    with pytest.raises(SkewlessError, match=message) as error:
        RequestField.of(source.schema[0], source.name)
    assert "Field x of the request source context" in str(error.value)


@pytest.mark.parametrize(
    ("tags", "good", "bad"),
    [
        ({"minimum": "0", "maximum": "23"}, [0, 23, 1.5], [-1, 24, float("nan"), "5", None]),
        ({"minimum": "0.5"}, [0.5, 1e300], [0, 0.4]),
        ({"maximum": "0"}, [-5, 0], [1]),
        ({}, ["anything", None], []),
    ],
)
def test_ranges(tags: dict[str, str], good: list[Any], bad: list[Any]) -> None:
    field = RequestField.of(Field(name="x", dtype=Int64, tags=tags), "context")
    assert field.in_range(good)
    assert not any(field.in_range([value]) for value in bad)


def test_a_declared_default() -> None:
    field = RequestField.of(Field(name="x", dtype=Int64, tags={"default": "7"}), "context")
    assert field.default() == 7


@pytest.mark.parametrize(
    ("dtype", "tags", "values"),
    [
        (Int64, {"default_from": "utc_hour"}, [23, 0]),
        (Int32, {"default_from": "utc_weekday"}, [6, 0]),
        (Int64, {"default_from": "unix_seconds"}, [1_793_577_599, 1_793_577_600]),
        (UnixTimestamp, {"default_from": "unix_seconds"}, [SUNDAY, MONDAY]),
        (UnixTimestamp, {"default": '"2026-11-02T00:00:00Z"'}, [MONDAY, MONDAY]),
        (String, {"default": '"web"'}, ["web", "web"]),
    ],
)
def test_a_label_gets_the_default_that_a_request_of_its_time_had(
    dtype: Any, tags: dict[str, str], values: list[Any]
) -> None:
    field = RequestField.of(Field(name="x", dtype=dtype, tags=tags), "context")
    times = pa.chunked_array([pa.array([SUNDAY, MONDAY], pa.timestamp("us", "Asia/Tokyo"))])
    assert field.defaults_at(times).to_pylist() == values


def test_a_default_of_another_type_is_refused_with_the_field() -> None:
    with pytest.raises(SkewlessError, match="context:x"):
        RequestField.of(Field(name="x", dtype=Int64, tags={"default": '"seven"'}), "context")

"""An id is taken, or refused, alike on every way by which ids come in."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, PushSource, ValueType
from feast.data_source import PushMode
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.serving.settings import Settings
from tests.served import serving

AT = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
# The declared type, the log's column, an id that holds a row, and as JSON what is no such id.
KEYS: dict[str, tuple[ValueType, str, Any, list[Any]]] = {
    "whole": (
        ValueType.INT64,
        "bigint",
        5,
        [
            5.7,
            -5.7,
            5.0,
            True,
            "05",
            " 5",
            "5.0",
            "+5",
            "-0",
            "x",
            str(2**63),
            "",
            2**63,
            [5],
            {"a": 5},
        ],
    ),
    "small": (ValueType.INT32, "integer", 1, [1.5, 1.0, True, "1", 2**31, [1]]),
    "text": (ValueType.STRING, "text", "5", [5, 5.0, True, ["5"], "5\0", "\0"]),
    "uuid": (ValueType.UUID, "uuid", UUID, [5, 5.5, True, [UUID], "5", UUID[:-1], UUID + "\0"]),
}


@pytest.fixture(scope="module")
def http(feast_store: FeatureStore, database: str, repo_root: Path) -> Iterator[httpx.Client]:
    for name, (value_type, column, good, _) in KEYS.items():
        key, view = f"id_{name}", f"ids_{name}"
        entity = Entity(name=key, join_keys=[key], value_type=value_type)
        source = PostgreSQLSource(
            name=f"{view}_log", table=f"{view}_log", timestamp_field="at",
            created_timestamp_column="made",
        )  # fmt: skip
        declared = FeatureView(
            name=view,
            entities=[entity],
            ttl=timedelta(days=1),
            schema=[Field(name=key, dtype=from_kind(value_type)), Field(name="x", dtype=Int64)],
            source=PushSource(name=f"{view}_push", batch_source=source),
        )
        with connect(database, autocommit=True) as conn:
            conn.execute(
                f"CREATE TABLE {view}_log ({key} {column}, x bigint, at timestamptz, "
                "made timestamptz)"
            )
        service = FeatureService(name=f"{view}_v1", features=[declared])
        objects = [entity, source, declared, service]
        if name == "whole":
            objects.append(on_demand_feature_view(
                sources=[declared], schema=[Field(name="failed", dtype=Float64)], mode="pandas"
            )(failing))  # fmt: skip
        feast_store.apply(objects)
        feast_store.push(
            f"{view}_push",
            pd.DataFrame({key: [good], "x": [42], "at": [AT], "made": [AT]}),
            to=PushMode.ONLINE_AND_OFFLINE,
        )
    for base in serving(Settings(repo_root, poll=0.1), feast_store):
        with httpx.Client(base_url=base, timeout=30) as client:
            yield client


def from_kind(value_type: ValueType) -> Any:
    from feast.types import from_value_type  # noqa: PLC0415

    return String if value_type == ValueType.STRING else from_value_type(value_type)


def failing(inputs: pd.DataFrame) -> pd.DataFrame:
    if (inputs["x"] == 42).any():  # Feast runs it once when it is applied
        raise RuntimeError("a fault of the user's own")
    return pd.DataFrame({"failed": inputs["x"].astype(float)})


def read_by_feast(http: httpx.Client, name: str, one: Any) -> httpx.Response:
    return http.post(
        "/get-online-features",
        json={"features": [f"ids_{name}:x"], "entities": {f"id_{name}": [one]}},
    )


def read_by_service(http: httpx.Client, name: str, one: Any) -> httpx.Response:
    return http.post(
        "/get-online-features",
        json={"feature_service": f"ids_{name}_v1", "entities": {f"id_{name}": [one]}},
    )


def read_v1(http: httpx.Client, name: str, one: Any) -> httpx.Response:
    return http.post(
        "/v1/features", json={"service": f"ids_{name}_v1", "entities": [{f"id_{name}": one}]}
    )


def frame(name: str, one: Any) -> dict[str, list[Any]]:
    return {f"id_{name}": [one], "x": [7], "at": [AT.isoformat()], "made": [AT.isoformat()]}


def push(to: str) -> Callable[[httpx.Client, str, Any], httpx.Response]:
    def pushing(http: httpx.Client, name: str, one: Any) -> httpx.Response:
        body = {"push_source_name": f"ids_{name}_push", "df": frame(name, one), "to": to}
        return http.post("/push", json=body)

    return pushing


def write(http: httpx.Client, name: str, one: Any) -> httpx.Response:
    body = {"feature_view_name": f"ids_{name}", "df": frame(name, one)}
    return http.post("/write-to-online-store", json=body)


READS = {"feast": read_by_feast, "service": read_by_service, "v1": read_v1}
WRITES = {to: push(to) for to in ("online", "offline", "online_and_offline")} | {"write": write}
WAYS = READS | WRITES


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", KEYS)
def test_what_is_no_such_id_is_refused_by_its_name(
    http: httpx.Client, database: str, way: str, name: str
) -> None:
    for one in KEYS[name][3]:
        answer = WAYS[way](http, name, one)
        assert answer.status_code == 422, (one, answer.text)
        error = answer.json()["error"]
        assert f"id_{name}" in error["message"] + error.get("field", ""), (one, error)
    with connect(database) as conn:
        assert conn.execute(f"SELECT x FROM ids_{name}_log").fetchall() == [(42,)]
    assert read_by_feast(http, name, KEYS[name][2]).json()["results"][1]["values"] == [42]


@pytest.mark.parametrize("name", KEYS)
def test_what_is_one_is_answered(http: httpx.Client, name: str) -> None:
    good = KEYS[name][2]
    assert read_by_feast(http, name, good).json()["results"][1]["values"] == [42]
    assert read_by_service(http, name, good).json()["results"][1]["values"] == [42]
    assert read_v1(http, name, good).json()["results"][0]["features"]["x"] == 42
    path = f"/v1/features/ids_{name}_v1/{good}"
    assert http.get(path).json()["features"] == {"x": 42}


SPELLED = {"whole": ("5", 5), "uuid": (UUID.upper(), "{" + UUID.replace("-", "") + "}")}


@pytest.mark.parametrize("name", SPELLED)
def test_an_id_in_another_form_is_that_id_and_comes_back_as_it_came(
    http: httpx.Client, name: str
) -> None:
    """As protobuf's JSON mapping: a 64-bit integer may be its text. A UUID has many spellings."""
    key, unknown = f"id_{name}", 7 if name == "whole" else UUID[:-1] + "0"
    sent = [*SPELLED[name], unknown, str(unknown)]
    for way in ({"features": [f"ids_{name}:x"]}, {"feature_service": f"ids_{name}_v1"}):
        answer = http.post("/get-online-features", json={**way, "entities": {key: sent}})
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"][0]["values"] == sent
        assert answer.json()["results"][1]["values"] == [42, 42, None, None]
        for one in sent:
            single = http.post("/get-online-features", json={**way, "entities": {key: [one]}})
            assert single.json()["results"][0]["values"] == [one]
    body = {"service": f"ids_{name}_v1", "entities": [{key: one} for one in sent]}
    rows = http.post("/v1/features", json=body).json()["results"]
    assert [row["entity"][key] for row in rows] == sent
    assert [row["features"]["x"] for row in rows] == [42, 42, None, None]
    columns = http.post("/v1/features", json={**body, "layout": "columns"}).json()
    assert columns["entities"][key] == sent
    arrow = {"accept": "application/vnd.apache.arrow.stream"}
    batch = http.post("/v1/features", json=body, headers=arrow)
    assert pa.ipc.open_stream(batch.content).read_all()[key].to_pylist() == [str(s) for s in sent]


@pytest.mark.parametrize("way", WRITES)
def test_a_pushed_id_may_be_its_text(http: httpx.Client, way: str) -> None:
    good = {**frame("whole", "9"), "at": [AT.isoformat()], "x": [8]}
    if way == "write":
        body: dict[str, Any] = {"feature_view_name": "ids_whole", "df": good}
        answer = http.post("/write-to-online-store", json=body)
    else:
        body = {"push_source_name": "ids_whole_push", "df": good, "to": way}
        answer = http.post("/push", json=body)
    assert answer.status_code == 200, answer.text
    if way != "offline":
        assert read_v1(http, "whole", 9).json()["results"][0]["features"]["x"] == 8


@pytest.mark.parametrize("name", KEYS)
def test_labels_and_the_store_itself_refuse_alike(feast_store: FeatureStore, name: str) -> None:
    for one in KEYS[name][3]:
        if isinstance(one, (list, dict)):
            continue
        labels = pd.DataFrame({f"id_{name}": [one], "event_timestamp": [AT]})
        whole = name in ("whole", "small") and one is not True
        # A frame knows no other five beside a null, and a command line no other than a text.
        joined = feast_store.get_historical_features
        in_frame = (whole and one in (5.0, 1.0)) or (name == "text" and type(one) is int)
        # A label that no row can have joins nothing.
        unknown = name == "uuid" and isinstance(one, str) and "\0" not in one
        with (
            nullcontext()
            if in_frame or unknown
            else pytest.raises(SkewlessError, match=f"id_{name}")
        ):
            joined(labels, [f"ids_{name}:x"]).to_df()
        in_command = in_frame or (whole and one == "1")
        with nullcontext() if in_command else pytest.raises(SkewlessError, match=f"id_{name}"):
            feast_store.get_online_features([f"ids_{name}:x"], [{f"id_{name}": one}])


def test_errors_have_one_shape(http: httpx.Client) -> None:
    answers = [
        read_by_feast(http, "nothing", 1),
        read_by_service(http, "nothing", 1),
        http.post("/push", json={"push_source_name": "nothing", "df": {}, "to": "online"}),
        http.post("/push", json={"df": 5}),
        http.post("/push", json={"push_source_name": "x", "df": {}, "to": "nowhere"}),
        http.post("/get-online-features", content=b"{"),
        http.post("/get-online-features", json={"features": ["ids_whole:x"], "entities": 5}),
        http.get("/nothing"),
        http.get("/push"),
        http.post("/v1/nothing"),
        http.get("/v1/features"),
        http.post(
            "/get-online-features",
            json={"features": ["failing:failed"], "entities": {"id_whole": [5]}},
        ),
        http.post("/materialize", json={"start_ts": "x", "end_ts": "y"}),
    ]
    for answer in answers:
        assert 400 <= answer.status_code <= 500, answer.text
        body = answer.json()
        assert set(body) == {"error"}, (answer.request.url, body)
        assert set(body["error"]) <= {"message", "field"}
        assert isinstance(body["error"]["message"], str)
    assert [answer.status_code for answer in answers[:3]] == [404, 404, 422]
    assert answers[8].status_code == 405
    assert answers[8].headers["allow"] == "POST"
    assert answers[10].headers["allow"] == "POST"
    assert answers[11].status_code in (409, 500)

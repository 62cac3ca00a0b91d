"""Feast's own routes answer as Feast's server does; what its clients do wrong becomes 4xx."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi.testclient import TestClient
from feast import FeatureStore, RepoConfig
from feast.feature_server import get_app

NOW = datetime.now(UTC)
HABITS = [
    "user_habits:user_preferred_hour",
    "user_habits:user_avg_watch_duration_min",
]


@pytest.fixture(scope="module")
def stock(feast_store: FeatureStore) -> Iterator[TestClient]:
    """Feast's application itself, over the same databases."""
    app = get_app(FeatureStore(config=feast_store.config), registry_ttl_sec=0)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def remote(feast_store: FeatureStore, url: str, repo_root: Path) -> FeatureStore:
    """A client of Feast's whose online store is our server."""
    text = yaml.safe_load((repo_root / "feature_store.yaml").read_text())
    text["online_store"] = {"type": "remote", "path": url}
    return FeatureStore(config=RepoConfig(**text, repo_path=repo_root))


def results(answer: httpx.Response) -> dict[str, Any]:
    """By feature: values and statuses. The order of columns is Feast's hash seed's."""
    body = answer.json()
    names = body["metadata"]["feature_names"]
    assert len(names) == len(body["results"])
    return {
        name: (one["values"], one["statuses"])
        for name, one in zip(names, body["results"], strict=True)
    }


@pytest.mark.parametrize(
    "asked",
    [
        {"feature_service": "home_page", "entities": {"user_id": [1, 2, 999_999]}},
        {"features": HABITS, "entities": {"user_id": [3]}},
        {"features": HABITS, "entities": {"user_id": [3, 3]}, "full_feature_names": True},
        {
            "feature_service": "ranking",
            "entities": {"user_id": [1] * 30, "item_id": [*range(1, 30), 999_999],
                         "request_hour": [21] * 30},
        },
        {
            "features": [
                "item_stats:item_popularity_score",
                "user_item_progress:user_item_watch_progress",
            ],
            "entities": {"user_id": [1, 2], "item_id": [2, 2]},
        },
        {"feature_service": "home_page", "entities": {"user_id": [1]},
         "include_feature_view_version_metadata": True},
    ],
)  # fmt: skip
def test_online_features_as_feast_answers_them(http, stock, asked) -> None:
    ours, theirs = (one.post("/get-online-features", json=asked) for one in (http, stock))
    assert ours.status_code == theirs.status_code == 200, ours.text
    assert results(ours) == results(theirs)
    assert set(ours.json()) == set(theirs.json())
    assert set(ours.json()["results"][0]) == set(theirs.json()["results"][0])
    more = [one.json()["metadata"].get("feature_view_metadata", []) for one in (ours, theirs)]
    assert sorted(map(str, more[0])) == sorted(map(str, more[1]))


ONE = {"user_id": [1]}
WRONG = [
    {"features": ["user_habits:nothing"], "entities": ONE},
    {"features": ["nothing:x"], "entities": ONE},
    {"features": ["rubbish"], "entities": ONE},
    {"features": [":"], "entities": ONE},
    {"features": ["user_habits@v99:user_preferred_hour"], "entities": ONE},
    {"features": [*HABITS, *HABITS], "entities": ONE},
    {"features": [], "entities": ONE},
    {"features": HABITS, "entities": {"user_id": [None]}},
    {"features": HABITS, "entities": {"user_id": ["x"]}},
    {"features": HABITS, "entities": {"user_id": [2**63]}},
    {"features": HABITS, "entities": {"user_id": [[1]]}},
    {"features": HABITS, "entities": {"user_id": [{"a": 1}]}},
    {"features": HABITS, "entities": {"user_id": []}},
    {"features": HABITS, "entities": {"user_id": 1}},
    {"features": HABITS, "entities": {"item_id": [1]}},
    {"features": HABITS, "entities": {}},
    {"features": "user_habits", "entities": ONE},
    {"feature_service": "nothing", "entities": ONE},
    {"feature_service": "ranking", "entities": ONE},
    {"feature_service": "ranking", "entities": {"user_id": [1, 2], "item_id": [1]}},
    {"feature_service": "ranking", "entities": {"user_id": [1], "item_id": [1]}},
    {},
    [],
    "x",
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_clients_mistake_is_the_clients(http: httpx.Client, wrong: Any) -> None:
    answer = http.post("/get-online-features", json=wrong)
    # Some of it Feast can answer: nothing asked is nothing, an id more is an id more.
    assert answer.status_code < 500, answer.text
    if answer.status_code == 200:
        assert not answer.json()["results"] or wrong["entities"] in (ONE, {"user_id": []})
    elif answer.status_code != 404:
        assert answer.json()


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"entities": NaN}', b"[" * 100_000])
@pytest.mark.parametrize("path", ["/get-online-features", "/push", "/materialize", "/search"])
def test_what_is_no_json(http: httpx.Client, path: str, body: bytes) -> None:
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text


def written(user: int, hour: Any, at: Any = None) -> dict[str, list[Any]]:
    return {
        "user_id": [user],
        "user_preferred_hour": [hour],
        "user_avg_watch_duration_min": [1.5],
        "event_timestamp": [at or NOW.isoformat()],
        "created_timestamp": [NOW.isoformat()],
    }


def hour_of(http: httpx.Client, user: int) -> Any:
    return http.get(f"/v1/features/user/{user}").json()["features"]["user_preferred_hour"]


def test_writing_through_feasts_routes(http: httpx.Client) -> None:
    for hour in (3, 7):
        asked = {"feature_view_name": "user_habits", "df": written(501, hour)}
        answer = http.post("/write-to-online-store", json=asked)
        assert (answer.status_code, answer.text) == (200, "null")
        assert hour_of(http, 501) == hour
    old = {"feature_view_name": "user_habits", "df": written(501, 9, "2020-01-01T00:00:00")}
    assert http.post("/write-to-online-store", json=old).status_code == 200
    assert hour_of(http, 501) == 7
    frame = {
        "user_id": [501],
        "user_watch_count_7d": [12],
        "event_timestamp": [NOW.isoformat()],
        "created_timestamp": [NOW.isoformat()],
    }
    pushed = {"push_source_name": "user_watch_stats_push", "df": frame, "to": "online"}
    answer = http.post("/push", json=pushed)
    assert (answer.status_code, answer.content) == (200, b"")
    features = http.get("/v1/features/user/501").json()["features"]
    assert features["user_watch_count_7d"] == 12


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/push", {"push_source_name": "nothing", "df": {"user_id": [1]}}),
        ("/push", {"push_source_name": "user_watch_stats_push", "df": {"user_id": [1]}}),
        ("/push", {"push_source_name": "user_watch_stats_push", "df": {"a": [1], "b": [1, 2]}}),
        ("/push", {"push_source_name": "user_watch_stats_push", "df": {}, "to": "the moon"}),
        ("/write-to-online-store", {"feature_view_name": "nothing", "df": {"user_id": [1]}}),
        ("/write-to-online-store", {"feature_view_name": "user_habits", "df": {"user_id": [1]}}),
        ("/write-to-online-store", {"feature_view_name": "user_habits", "df": written(1, "x")}),
        (
            "/write-to-online-store",
            {"feature_view_name": "user_habits", "df": written(1, 1, "yesterday")},
        ),
        (
            "/write-to-online-store",
            {"feature_view_name": "user_habits", "df": written(1, 1) | {"event_timestamp": [None]}},
        ),
        (
            "/write-to-online-store",
            {"feature_view_name": "user_habits", "df": {**written(1, 1), "user_id": [None]}},
        ),
        ("/materialize", {"start_ts": "x", "end_ts": "y"}),
        ("/materialize", {"start_ts": "2026-01-02", "end_ts": "2026-01-01"}),
        ("/materialize", {}),
        ("/materialize", {"start_ts": "2026-01-01", "end_ts": "2026-01-02",
                          "feature_views": ["nothing"]}),
        ("/materialize-incremental", {"end_ts": "never"}),
        ("/materialize-incremental", {"end_ts": "2026-01-01", "feature_views": ["nothing"]}),
        ("/materialize-incremental", {"end_ts": "2026-01-01", "version": "v7",
                                      "feature_views": ["user_habits"]}),
        ("/search", {"features": HABITS, "query": [0.5], "top_k": 1}),
        ("/v1/vector_stores/nothing/search", {"query": "x"}),
    ],
)  # fmt: skip
def test_writes_that_make_no_sense_are_refused(http: httpx.Client, path: str, body: Any) -> None:
    answer = http.post(path, json=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()


def test_materializing_and_all_the_rest(http: httpx.Client, stock: Any) -> None:
    day = timedelta(days=1)
    span = {"start_ts": (NOW - day).isoformat(), "end_ts": NOW.isoformat()}
    for path, body in (
        ("/materialize", {**span, "feature_views": ["user_habits"]}),
        ("/materialize-incremental", {"end_ts": NOW.isoformat(), "feature_views": ["item_stats"]}),
        ("/chat", {"messages": [{"role": "user", "content": "hello"}]}),
    ):
        ours, theirs = (one.post(path, json=body) for one in (http, stock))
        assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
        assert ours.status_code == 200
    for path in ("/chat", "/v1/vector_stores", "/static/chat/index.html", "/nothing"):
        ours, theirs = (one.get(path) for one in (http, stock))
        assert ours.status_code == theirs.status_code
        if ours.status_code == 200:
            assert ours.text == theirs.text
        else:
            assert ours.json() == {"error": {"message": theirs.json()["detail"]}}
    assert http.get("/health").status_code == stock.get("/health").status_code == 200


def test_feasts_remote_online_store_reads_and_writes(remote, feast_store, http) -> None:
    rows = [{"user_id": 1}, {"user_id": 2}, {"user_id": 999_999}]
    for features in (HABITS, feast_store.get_feature_service("home_page")):
        theirs = feast_store.get_online_features(features, rows).to_dict()
        ours = remote.get_online_features(features, rows).to_dict()
        assert set(ours) == set(theirs)
        assert all(approximately(theirs[name]) == ours[name] for name in theirs)
    import pandas as pd  # noqa: PLC0415

    frame = pd.DataFrame(
        {
            "user_id": [601, 602],
            "user_preferred_hour": [4, 5],
            "user_avg_watch_duration_min": [2.5, 3.5],
            "event_timestamp": pd.to_datetime([NOW, NOW]),
            "created_timestamp": pd.to_datetime([NOW, NOW]),
        }
    )
    remote.write_to_online_store("user_habits", frame)
    assert [hour_of(http, user) for user in (601, 602)] == [4, 5]
    read = remote.get_online_features(HABITS, [{"user_id": 601}, {"user_id": 602}]).to_dict()
    assert read["user_preferred_hour"] == [4, 5]
    pushed = frame.drop(columns=["user_preferred_hour", "user_avg_watch_duration_min"])
    remote.push("user_watch_stats_push", pushed.assign(user_watch_count_7d=[8, 9]))
    assert http.get("/v1/features/user/602").json()["features"]["user_watch_count_7d"] == 9
    with pytest.raises(Exception, match="nothing"):
        remote.get_online_features(["user_habits:nothing"], [{"user_id": 1}])


def approximately(values: list[Any]) -> list[Any]:
    if values and isinstance(values[0], list):
        return [pytest.approx(one, rel=1e-6) for one in values]
    return [pytest.approx(one, rel=1e-6) if isinstance(one, float) else one for one in values]

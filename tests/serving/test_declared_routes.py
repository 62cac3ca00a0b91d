"""Routes that services declare, the generic ones, and tags that cannot be read."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_contents import RepoContents
from feast.types import Int64, String

from extensions.asof.definition_validation import check_contents
from extensions.errors import DefinitionError
from extensions.service_routes import DeclaredRoute, ReplyNames
from extensions.serving.settings import Settings
from extensions.stores.log_publishing import online_store
from tests.online.views import key
from tests.served import serving

PATHS = ["a/b", "a b", "ä", "a%2Fb", "🎬", "a?b", "a#b", "a+b", "/", "a//b", "meta", "rank", ""]
SKUS = ["A-1", "B/2", ""]


@pytest.fixture(scope="module")
def http(feast_store: FeatureStore, repo_root: Path) -> Iterator[httpx.Client]:
    visitor, sku, odd = (
        Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
        for name in ("visitor_id", "sku", "features")
    )
    source = FileSource(name="shop", path="/dev/null", timestamp_field="event_timestamp")

    def view(name: str, *entities: Entity) -> FeatureView:
        return FeatureView(
            name=name,
            entities=list(entities),
            ttl=timedelta(0),
            source=source,
            schema=[Field(name=f"{name}_said", dtype=String),
                    *(Field(name=e.name, dtype=String) for e in entities)],
        )  # fmt: skip

    views = [view("visits", visitor), view("products", sku), view("views_of", visitor, sku)]
    strange = view("strange", odd)
    services = [
        FeatureService(name="visitor", features=views[:1]),
        # The service that is listed first does not say whose the list is; the pair's rows do.
        FeatureService(name="shelf", features=[views[1], views[0], views[2]]),
        FeatureService(name="products", features=views[1:2]),
        FeatureService(name="strange", features=[strange]),
        FeatureService(
            name="catalogue",
            features=views[1:2],
            tags={"route": "/v1/catalogue/{sku}", "names": "sku=SKU, features=values"},
        ),
        FeatureService(name="broken", features=views[:1], tags={"route": "/v1/broken"}),
    ]
    feast_store.apply([visitor, sku, odd, *views, strange, *services], partial=True)
    now, online = datetime.now(UTC), online_store(feast_store)
    ids: list[tuple[str, list[dict[str, str]]]] = [
        ("visits", [{"visitor_id": one} for one in PATHS]),
        ("products", [{"sku": one} for one in SKUS]),
        ("views_of", [{"visitor_id": one, "sku": two} for one in PATHS for two in SKUS[:2]]),
    ]
    for name, entities in ids:
        rows = [
            (key(**one), {f"{name}_said": Value(string_val="|".join(one.values()))}, now, None)
            for one in entities
        ]
        online.online_write_batch(
            feast_store.config, feast_store.get_feature_view(name), rows, None
        )
    for url in serving(Settings(repo=repo_root, poll=0.2, redis_deadline_ms=2_000), feast_store):
        with httpx.Client(base_url=url, timeout=10) as client:
            yield client


@pytest.mark.parametrize("one", PATHS)
def test_any_service_of_one_entity_by_its_name(http: httpx.Client, one: str) -> None:
    answer = http.get(f"/v1/features/visitor/{quote(one, safe='')}")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert list(body) == ["visitor_id", "features", "latencyMs"]
    assert (body["visitor_id"], body["features"]) == (one, {"visits_said": one})
    with_meta = http.get(f"/v1/features/visitor/{quote(one, safe='')}?include=meta").json()
    assert with_meta["meta"]["visits"]["status"] != "default"


def test_any_service_of_a_pair_by_its_name(http: httpx.Client) -> None:
    body = {"visitor_id": "a/b", "sku": [*SKUS, "C"]}
    answer = http.post("/v1/rank/shelf", json=body)
    assert answer.status_code == 200, answer.text
    reply = answer.json()
    assert list(reply) == ["visitor_id", "features", "items", "latencyMs"]
    assert reply["features"] == {"visits_said": "a/b"}
    assert reply["items"] == [
        {
            "sku": sku,
            "item_features": {"products_said": sku if sku in SKUS else None},
            "pair_features": {"views_of_said": f"a/b|{sku}" if sku in SKUS[:2] else None},
        }
        for sku in body["sku"]
    ]
    columns = http.post("/v1/rank/shelf", json={**body, "layout": "columns"}).json()
    assert list(columns) == [
        "visitor_id", "features", "sku", "item_features", "pair_features", "latencyMs",
    ]  # fmt: skip
    assert columns["sku"] == body["sku"]
    for wrong, field in (
        ({"visitor_id": "a"}, "sku"),
        ({"sku": []}, "visitor_id"),
        ({**body, "userId": 1}, "userId"),
        ({**body, "sku": [1]}, "sku[0]"),
    ):
        refused = http.post("/v1/rank/shelf", json=wrong)  # fmt: skip
        assert refused.status_code == 422
        assert refused.json()["error"]["field"] == field


def test_the_published_services_under_their_generic_names(http: httpx.Client) -> None:
    published = http.get("/v1/features/user/3").json()
    generic = http.get("/v1/features/home_page/3").json()
    assert list(generic) == ["user_id", "features", "latencyMs"]
    assert (generic["user_id"], generic["features"]) == (3, published["features"])
    assert http.get("/v1/features/home_page/03").status_code == 422
    context = {"context": {"requestHour": 3}}
    rank = {"userId": 3, "itemIds": [1, "2", 900], **context}
    theirs = http.post("/v1/features/rank", json=rank).json()
    ours = http.post(
        "/v1/rank/ranking", json={"user_id": 3, "item_id": [1, "2", 900], **context}
    ).json()
    assert [item["itemId"] for item in theirs["items"]] == [1, "2", 900]
    assert [item["item_id"] for item in ours["items"]] == [1, "2", 900]
    assert ours["features"] == theirs["userFeatures"]
    for mine, published_item in zip(ours["items"], theirs["items"], strict=True):
        assert mine["item_features"] == published_item["itemFeatures"]
        assert mine["pair_features"] == published_item["interactionFeatures"]
    # What is kept of an item's reply is kept apart for each route and form.
    for asked in ([1, 2], ["1", 2], [1, 2]):
        again = http.post("/v1/features/rank", json={"userId": 3, "itemIds": asked}).json()
        assert [item["itemId"] for item in again["items"]] == asked
        again = http.post("/v1/rank/ranking", json={"user_id": "3", "item_id": asked}).json()
        assert (again["user_id"], [item["item_id"] for item in again["items"]]) == ("3", asked)


def test_a_declared_route_has_its_own_names(http: httpx.Client) -> None:
    body = http.get("/v1/catalogue/B%2F2").json()
    assert list(body) == ["SKU", "values", "latencyMs"]
    assert (body["SKU"], body["values"]) == ("B/2", {"products_said": "B/2"})
    paths = http.get("/openapi.json").json()["paths"]
    assert {"/v1/catalogue/{sku}", "/v1/features/catalogue/{sku}", "/v1/rank/shelf"} <= set(paths)
    assert "/v1/features/strange/{features}" not in paths


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/v1/features/nothing/1", 404, "no feature service nothing"),
        ("POST", "/v1/rank/nothing", 404, "no feature service nothing"),
        ("POST", "/v1/features/visitor/1", 405, "takes GET"),
        ("GET", "/v1/rank/shelf", 405, "takes POST"),
        ("GET", "/v1/features/shelf/1", 404, "not of one entity"),
        ("POST", "/v1/rank/visitor", 404, "does not rank"),
        ("GET", "/v1/features/strange/1", 409, "join key features"),
        ("GET", "/v1/features/broken/1", 409, "of a pair"),
        ("POST", "/v1/broken", 409, "of a pair"),
        ("POST", "/v1/rank/", 404, "no such route"),
        ("POST", "/v1/rank", 404, "no such route"),
        ("POST", "/v1/rank/a/b", 404, "no such route"),
        ("POST", "/v1/r%61nk/shelf", 404, "not percent-encoded"),
        ("POST", "/v1/rank%2Fshelf", 404, "not percent-encoded"),
        ("GET", "/v1/features/v%69sitor/1", 404, "not percent-encoded"),
        ("GET", "/v1/features/visitor%2F1", 404, "not percent-encoded"),
        ("GET", "/v1/c%61talogue/A-1", 404, "not percent-encoded"),
        ("GET", "/v1/features/visitor/%ff", 422, "not UTF-8"),
        ("GET", "/v1/features/visitor/a%00", 422, "NUL"),
    ],
)
def test_what_is_no_such_route(
    http: httpx.Client, method: str, path: str, status: int, says: str
) -> None:
    answer = http.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("tags", "keys", "says"),
    [
        ({"route": "v1/x"}, ["k"], "must be a path"),
        ({"route": "/x/{id}"}, ["k"], "must be a path"),
        ({"route": "/v1/x/{id}/y"}, ["k"], "must be a path"),
        ({"route": "/v1/features"}, ["k"], "other routes answer"),
        ({"route": "/v1/rank/x"}, ["k"], "other routes answer"),
        ({"route": "/v1/openapi.json"}, ["k"], "other routes answer"),
        ({"names": "k=K"}, ["k"], "without a tag route"),
        ({"route": "/v1/x/{id}", "names": "k"}, ["k"], "must read like"),
        ({"route": "/v1/x/{id}", "names": "kk=K"}, ["k"], "names kk"),
        ({"route": "/v1/x/{id}", "names": "features=k"}, ["k"], "two things are called k"),
        ({"route": "/v1/x/{id}", "names": "k=latencyMs"}, ["k"], "two things are called latencyMs"),
        ({"route": "/v1/x/{id}"}, ["k", "l"], "of one entity"),
        ({"route": "/v1/x"}, ["k"], "of a pair"),
        ({"route": "/v1/x", "names": "l[]=items"}, ["k", "l"], "two things are called items"),
    ],
)
def test_tags_that_declare_no_route(tags: Mapping[str, str], keys: list[str], says: str) -> None:
    def read() -> Any:
        route = DeclaredRoute.of("shop", tags)
        assert route is not None
        return route.reply_names(keys)

    with pytest.raises(DefinitionError, match=says):
        read()


def test_names_that_are_not_given_are_the_join_keys() -> None:
    route = DeclaredRoute.of("shop", {"route": "/v1/x", "names": "l=L, pair_features=both"})
    assert route is not None
    assert route.reply_names(["k", "l"]) == ReplyNames("k", "L", "l", pair_features="both")


def test_apply_refuses_what_it_cannot_route(feast_store: FeatureStore) -> None:
    def contents(*tags: dict[str, str]) -> RepoContents:
        services = [
            FeatureService(name=f"s{i}", features=[], tags=each) for i, each in enumerate(tags)
        ]
        return RepoContents(
            projects=[], data_sources=[], feature_views=[], on_demand_feature_views=[],
            stream_feature_views=[], entities=[], feature_services=services, permissions=[],
            label_views=[],
        )  # fmt: skip

    check_contents(contents({"route": "/v1/a"}, {"route": "/v1/b"}, {"team": "shop"}))
    for tags, says in (
        ([{"route": "/v1/a"}, {"route": "/v1/a"}], "declare one route"),
        ([{"route": "a"}], "must be a path"),
        ([{"routes": "/v1/a"}], "did you mean route"),
    ):
        with pytest.raises(DefinitionError, match=says):
            check_contents(contents(*tags))


@pytest.mark.parametrize("written", ["objects", "names"])
@pytest.mark.parametrize(
    ("features", "tags", "says"),
    [
        (["both"], {"route": "/v1/x", "names": "sku[]=skus, item_features=products"}, None),
        (["by_visitor", "both"], {"route": "/v1/x", "names": "sku[]=skus"}, None),
        (["by_visitor"], {"route": "/v1/x/{id}", "names": "visitor_id=visitorId"}, None),
        (["both"], {"route": "/v1/x", "names": "sku_features=products"}, "names sku_features"),
        (["both"], {"route": "/v1/x", "names": "visitor_id[]=ids"}, r"names visitor_id\[\]"),
        (["by_visitor"], {"route": "/v1/x"}, "is of a pair"),
        (["by_visitor", "both"], {"route": "/v1/x/{id}"}, "is of one entity"),
        (["summed"], {"route": "/v1/x", "names": "by_visitor=x"}, "is of a pair"),
        # A view that another folder declares: its keys are not known here.
        (["by_visitor", "elsewhere"], {"route": "/v1/x", "names": "nothing=x"}, None),
    ],
)
def test_apply_refuses_names_of_what_a_reply_has_not(
    features: list[str], tags: dict[str, str], says: str | None, written: str
) -> None:
    visitor, sku = (
        Entity(name=name, join_keys=[key], value_type=ValueType.STRING)
        for name, key in (("visitor", "visitor_id"), ("product", "sku"))
    )
    views = {
        name: FeatureView(
            name=name,
            entities=entities,
            schema=[Field(name=f"{name}_n", dtype=Int64)],
            source=FileSource(name="shop", path="/dev/null", timestamp_field="event_timestamp"),
        )
        for name, entities in (
            ("by_visitor", [visitor]), ("both", [visitor, sku]), ("elsewhere", [sku]),
        )
    }  # fmt: skip

    @on_demand_feature_view(sources=[views["by_visitor"]], schema=[Field(name="n", dtype=Int64)])
    def summed(inputs: pd.DataFrame) -> pd.DataFrame:
        return inputs

    known: dict[str, Any] = {**views, "summed": summed}
    service = FeatureService(
        name="s",
        features=[known[name] if written == "objects" else name for name in features],
        tags=tags,
    )
    contents = RepoContents(
        projects=[], data_sources=[], feature_views=[views["by_visitor"], views["both"]],
        on_demand_feature_views=[summed], stream_feature_views=[], entities=[visitor, sku],
        feature_services=[service], permissions=[], label_views=[],
    )  # fmt: skip
    if says is None:
        check_contents(contents)
    else:
        with pytest.raises(DefinitionError, match=says):
            check_contents(contents)

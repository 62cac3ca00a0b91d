"""The OpenAPI document is true: whatever it allows, and what it forbids, is answered as it says."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from feast import FeatureService, FeatureStore
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from extensions.serving.settings import Settings
from tests.serving.conftest import serving
from tests.serving.redis_nodes import until

OURS = {"/v1/features/user/{user_id}", "/v1/features/rank", "/v1/features", "/health", "/ready",
        "/metrics", "/v1/features/home_page/{user_id}", "/v1/rank/ranking"}  # fmt: skip
FEASTS = {"/get-online-features", "/push", "/write-to-online-store", "/materialize",
          "/materialize-incremental", "/search", "/chat", "/v1/vector_stores",
          "/v1/vector_stores/{vector_store_id}",
          "/v1/vector_stores/{vector_store_id}/search"}  # fmt: skip

load_all_checks()
CONFORMANCE = [
    CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
        "response_headers_conformance",
    )
]
RELAXED = settings(
    max_examples=int(os.environ.get("EXAMPLES", "15")),
    derandomize="EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> Any:
    return http.get("/openapi.json").json()


@pytest.fixture(scope="module")
def schema(document: Any) -> Any:
    return schemathesis.openapi.from_dict(document)


def test_the_document_is_valid_openapi(http: httpx.Client, document: Any) -> None:
    for each in (document, http.get("/v1/openapi.json").json()):
        OpenAPIV31SpecValidator(each).validate()
        assert each["openapi"] == "3.1.0"
        assert each["servers"] == [{"url": "/", "description": "This server"}]


def test_one_document_has_all_routes(http: httpx.Client, document: Any) -> None:
    assert set(document["paths"]) == OURS | FEASTS
    assert document["info"]["title"] == "Skewless"
    assert set(http.get("/v1/openapi.json").json()["paths"]) == OURS
    operations = list(of_all_routes(document))
    names = [operation["operationId"] for _, _, operation in operations]
    assert len(set(names)) == len(names)
    assert {"user_features", "rank_features", "features", "get_online_features"} <= set(names)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)
    for path, _, operation in operations:
        assert operation.get("summary"), path
        assert operation["tags"][0] in {tag["name"] for tag in document["tags"]}


def of_all_routes(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def test_every_error_has_one_shape(document: Any) -> None:
    shape = {"$ref": "#/components/schemas/Error"}
    for path, _, operation in of_all_routes(document):
        for status, response in operation["responses"].items():
            if status.startswith("4") or (
                status == "503" and "operations" not in operation["tags"]
            ):
                assert response["content"]["application/json"]["schema"] == shape, (path, status)


def test_features_are_typed(document: Any, feast_store: FeatureStore) -> None:
    schemas = document["components"]["schemas"]
    home = schemas["HomePageFeatures"]
    assert home["additionalProperties"] is False
    fields = {
        field.name: field
        for name in ("user_watch_stats", "user_preferences", "user_habits")
        for field in feast_store.get_feature_view(name).features
    }
    assert list(home["properties"]) == home["required"] == list(fields)
    for name, schema in home["properties"].items():
        assert schema["description"] == fields[name].description
    count = home["properties"]["user_watch_count_7d"]
    assert (count["type"], count["format"]) == ("integer", "int64")  # its default is 0: never null
    vector = home["properties"]["user_genre_preferences"]
    assert vector["items"] == {"type": "number", "format": "float"}
    pair = schemas["RankInteractionFeatures"]["properties"]
    assert pair["continue_watching"]["type"] == ["boolean", "null"]  # no default is declared
    item = schemas["RankItemFeatures"]["properties"]
    assert "item_popularity_score" in item
    assert not set(item) & {*pair, *schemas["RankUserFeatures"]["properties"]}
    assert schemas["RankingContext"]["properties"]["requestHour"]["maximum"] == 23
    assert schemas["RankingEntity"]["required"] == ["user_id", "item_id"]


def test_the_document_follows_the_services(feast_store: FeatureStore, http: httpx.Client) -> None:
    added = FeatureService(name="tried-out", features=[feast_store.get_feature_view("user_habits")])
    feast_store.apply([added])
    try:
        until(lambda: "TriedOutFeatures" in http.get("/openapi.json").text, 10)
    finally:
        feast_store.delete_feature_service("tried-out")
    until(lambda: "TriedOutFeatures" not in http.get("/openapi.json").text, 10)


@pytest.mark.parametrize(
    ("options", "own", "feasts"),
    [
        ({}, [], []),
        ({"api_key": "secret"}, [{"key": []}], [{"key": []}]),
    ],
)
def test_security_is_described(
    feast_store: FeatureStore, repo_root: Path, options: Any, own: Any, feasts: Any
) -> None:
    for base in serving(Settings(repo=repo_root, **options), feast_store):
        document = httpx.get(f"{base}/openapi.json", timeout=20).json()
        for path, _, operation in of_all_routes(document):
            wanted = own if path.startswith("/v1/features") else feasts
            if "operations" in operation["tags"]:
                wanted = []
            assert operation["security"] == wanted, path


def examples(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, method, operation in of_all_routes(document):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in body.get("examples", {}).values():
            yield method, path, example["value"]
        if method == "get":
            given = {one["name"]: one.get("example") for one in operation.get("parameters", [])}
            if all(f"{{{name}}}" not in path or value for name, value in given.items()):
                yield method, path.format(**given), None


def test_every_example_works_as_it_stands(http: httpx.Client, document: Any) -> None:
    tried = set()
    for method, path, body in examples(document):
        answer = http.request(method, path, json=body, timeout=60)
        assert answer.status_code in (200, 202), (path, answer.text)
        tried.add(path)
    assert tried >= {
        "/v1/features/user/1", "/v1/features/rank", "/v1/features", "/get-online-features",
        "/push", "/write-to-online-store", "/materialize", "/materialize-incremental",
        "/v1/vector_stores", "/chat",
    }  # fmt: skip


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", sorted(OURS))
def test_our_routes_answer_as_documented(schema: Any, url: str, path: str, mode: Any) -> None:
    try_out(schema, url, path, mode, CONFORMANCE)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", sorted(FEASTS))
def test_feasts_routes_make_no_server_error(schema: Any, url: str, path: str, mode: Any) -> None:
    try_out(schema, url, path, mode, CONFORMANCE[:2])


def try_out(schema: Any, url: str, path: str, mode: Any, checks: Any) -> None:
    for operation in schema[path].values():
        strategy = operation.as_strategy(generation_mode=mode)

        @RELAXED
        @given(case=strategy)
        def attempt(case: Any) -> None:
            case.call_and_validate(base_url=url, checks=checks, timeout=20)

        with contextlib.suppress(Unsatisfiable):  # nothing is wrong about what takes nothing
            attempt()

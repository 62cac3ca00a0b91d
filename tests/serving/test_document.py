"""The OpenAPI document is true: whatever it allows, and what it forbids, is answered as it says."""

import contextlib
import os
import re
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

OURS = {"/v1/features/user/{user_id}", "/v1/features/rank", "/v1/features", "/health", "/ready",
        "/metrics"}  # fmt: skip
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


def test_one_page_shows_all_routes(http: httpx.Client, document: Any) -> None:
    assert set(document["paths"]) == OURS | FEASTS
    assert document["info"]["title"] == "Skewless"
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in page.text
    assert set(http.get("/v1/openapi.json").json()["paths"]) == OURS
    whole = str(document)
    for name in re.findall(r"#/components/schemas/(\w+)", whole):
        assert name in document["components"]["schemas"]


def test_the_examples_work(http: httpx.Client, document: Any) -> None:
    schemas = document["components"]["schemas"]
    for path, name in (("rank", "RankRequest"), ("", "FeaturesRequest")):
        for example in schemas[name]["examples"]:
            answer = http.post(f"/v1/features/{path}".rstrip("/"), json=example)
            assert answer.status_code == 200, answer.text


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

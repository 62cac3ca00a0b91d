"""The pages for people, compression, and requests from pages of other origins (CORS)."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from feast import FeatureStore

from extensions.errors import SkewlessError
from extensions.serving.http.content_encoding import accepts_gzip
from extensions.serving.routes.index_and_docs_pages import PAGES, index
from extensions.serving.settings import Settings
from tests.serving.conftest import serving

RANK = {"userId": 1, "itemIds": list(range(1, 60))}
FEASTS = {"features": ["user_habits:user_preferred_hour"], "entities": {"user_id": [*range(300)]}}
APP, OTHER = "https://app.example.com", "https://other.example.com"
GZIP_BYTES = 2_000


@pytest.fixture(scope="module")
def opened(feast_store: FeatureStore, repo_root: Path) -> Iterator[httpx.Client]:
    """A server with compression, a key, and an origin that may call it."""
    settings = Settings(
        repo=repo_root, gzip_bytes=GZIP_BYTES, cors_origins=(APP,), api_key="secret"
    )
    for base in serving(settings, feast_store):
        headers = {"accept-encoding": "identity", "x-api-key": "secret"}
        with httpx.Client(base_url=base, timeout=10, headers=headers) as client:
            yield client


def test_the_index_has_links_and_services_and_no_script(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in page.text
    links = set(re.findall(r'href="([^"#:]+)"', page.text))
    assert {"docs", "health", "ready", "metrics", "openapi.json"} <= links
    for link in links:
        assert http.get(f"/{link}").status_code == 200, link
    for service in ("home_page", "ranking"):
        assert f"<td>{service}<td>" in page.text


def test_names_on_the_index_are_escaped() -> None:
    page = index({"<script>": "no <b>plan</b>"}).decode()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "no &lt;b&gt;plan" in page
    assert "None is registered" in index({}).decode()


def test_the_documentation_needs_no_other_host(http: httpx.Client) -> None:
    page = http.get("/docs")
    used = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(used) == 5
    for name in used:
        assert not re.match(r"https?:|//", name)
        if not name.startswith("data:"):
            assert http.get(f"/{name}").status_code == 200, name
    assert "script-src 'self';" in page.headers["content-security-policy"]
    bundle = http.get("/docs/swagger-ui-bundle.js")
    assert bundle.headers["content-encoding"] == "gzip"
    assert "SwaggerUIBundle" in bundle.text
    plain = http.get("/docs/swagger-ui-bundle.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == bundle.content


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/v1/openapi.json", *sorted(PAGES)]
)
def test_open_routes_take_get_and_head(http: httpx.Client, path: str) -> None:
    assert http.head(path).status_code == 200
    answer = http.post(path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"


def test_documentation_can_be_turned_off(feast_store: FeatureStore, repo_root: Path) -> None:
    for base in serving(Settings(repo=repo_root, docs=False), feast_store):
        with httpx.Client(base_url=base, timeout=10) as client:
            for path in (*PAGES, "/openapi.json", "/v1/openapi.json"):
                assert client.get(path).status_code == 404, path
            assert client.get("/health").status_code == 200


def test_large_replies_are_compressed_for_those_who_accept_it(opened: httpx.Client) -> None:
    requests = [("/v1/features/rank", RANK), ("/get-online-features", FEASTS)]
    for path, body in requests:
        plain = opened.post(path, json=body)
        packed = opened.post(path, json=body, headers={"accept-encoding": "br, gzip"})
        assert plain.status_code == packed.status_code == 200
        assert "content-encoding" not in plain.headers
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < len(plain.content) / 2
        assert "Accept-Encoding" in packed.headers["vary"]
        assert "Accept-Encoding" in plain.headers["vary"]
        mine, theirs = packed.json(), plain.json()
        mine.pop("latencyMs", None), theirs.pop("latencyMs", None)
        assert mine == theirs


def test_small_replies_are_not(opened: httpx.Client) -> None:
    with opened.stream("GET", "/v1/features/user/1", headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.status_code == 200
    assert len(raw) < GZIP_BYTES
    assert "content-encoding" not in answer.headers


def test_nothing_is_compressed_unless_told(http: httpx.Client) -> None:
    answer = http.post("/v1/features/rank", json=RANK, headers={"accept-encoding": "gzip"})
    assert len(answer.content) > GZIP_BYTES
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (b"gzip", True), (b"GZIP;q=0.5", True), (b"br, gzip", True), (b"*", True),
        (b"gzip;q=0", False), (b"gzip; q=0.000", False), (b"*, gzip;q=0", False),
        (b"*;q=0, gzip", True), (b"br", False), (b"", False), (b"xgzip", False),
    ],
)  # fmt: skip
def test_accept_encoding(header: bytes, accepted: bool) -> None:
    assert accepts_gzip({b"accept-encoding": header}) is accepted


def test_what_is_compressed_is_gzip(opened: httpx.Client) -> None:
    with opened.stream(
        "POST", "/v1/features/rank", json=RANK, headers={"accept-encoding": "gzip"}
    ) as answer:
        raw = b"".join(answer.iter_raw())
    assert gzip.decompress(raw).startswith(b'{"userId":1')


def preflight(client: httpx.Client, path: str, origin: str) -> httpx.Response:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-api-key",
    }
    # A browser sends no key with it.
    return httpx.options(client.base_url.join(path), headers=asked)


@pytest.mark.parametrize("path", ["/v1/features/rank", "/get-online-features", "/v1/none"])
def test_a_preflight_is_answered_without_a_key(opened: httpx.Client, path: str) -> None:
    answer = preflight(opened, path, APP)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "x-api-key" in answer.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-origin" not in preflight(opened, path, OTHER).headers


def test_replies_and_errors_may_be_read_by_the_origin(opened: httpx.Client) -> None:
    for path, method, status in (
        ("/v1/features/user/1", "GET", 200),
        ("/v1/features/user/x", "GET", 422),
        ("/v1/features/rank", "GET", 405),
        ("/get-online-features", "GET", 405),
        ("/nothing", "GET", 404),
    ):
        answer = opened.request(method, path, headers={"origin": APP})
        assert answer.status_code == status, path
        assert answer.headers["access-control-allow-origin"] == APP
        assert "Origin" in answer.headers["vary"]
        other = opened.request(method, path, headers={"origin": OTHER})
        assert "access-control-allow-origin" not in other.headers
    bare = httpx.get(opened.base_url.join("/v1/features/user/1"), headers={"origin": APP})
    assert bare.status_code == 401
    assert bare.headers["access-control-allow-origin"] == APP
    exposed = bare.headers["access-control-expose-headers"]
    assert "X-Feature-Latency-Ms" in exposed
    assert "access-control-allow-credentials" not in bare.headers


def test_no_origin_may_call_unless_told(http: httpx.Client) -> None:
    assert preflight(http, "/v1/features/rank", APP).status_code == 405
    answer = http.get("/v1/features/user/1", headers={"origin": APP})
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", ["app.example.com", "https://a.example/path", "https://a b", ""])
def test_what_is_no_origin(repo_root: Path, origin: str) -> None:
    with pytest.raises(SkewlessError, match="no origin"):
        Settings(repo=repo_root, cors_origins=(origin,))
    Settings(repo=repo_root, cors_origins=("*", "http://localhost:5173"))
    with pytest.raises(SkewlessError, match="gzip-bytes"):
        Settings(repo=repo_root, gzip_bytes=-1)

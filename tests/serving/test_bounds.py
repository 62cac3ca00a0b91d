"""What strangers can do to the server: bounded in size, time and number, on every route alike."""

import contextlib
import gzip
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from feast import FeatureStore
from feast.feature_server import get_app

from extensions.serving.http import bounded_http_protocol
from extensions.serving.http.bounded_http_protocol import JoinedReply
from extensions.serving.routes import get_online_features
from extensions.serving.settings import Settings
from tests.served import serving
from tests.serving.attack import KEY, Raw, many, post
from tests.serving.redis_nodes import until

USER, RANK, ANY = "/v1/features/user/1", "/v1/features/rank", "/v1/features"
FEASTS = "/get-online-features"
RANKING = {"userId": 1, "itemIds": [1, 2], "context": {"requestHour": 3}}
BY_SERVICE = {"feature_service": "home_page", "entities": {"user_id": [1]}}
BY_NAME = {"features": ["user_habits:user_preferred_hour"], "entities": {"user_id": [1]}}
POSTS = (RANK, ANY, FEASTS, "/push", "/write-to-online-store", "/materialize",
         "/materialize-incremental", "/search", "/retrieve-online-documents", "/chat",
         "/v1/vector_stores/x/search")  # fmt: skip
OPEN = {"/health", "/ready", "/metrics", "/v1/openapi.json", "/openapi.json", "/docs"}
LIMITS = {
    "max_connections": 700, "header_seconds": 1.0, "body_seconds": 2.5, "keep_alive": 2,
    "max_bodies": 8_000_000, "max_items": 200,
}  # fmt: skip


@pytest.fixture(scope="module")
def url(feast_store: FeatureStore, repo_root: Path) -> Iterator[str]:
    yield from serving(Settings(repo=repo_root, api_key="secret", **LIMITS), feast_store)


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=20, headers=KEY) as client:
        yield client


def well(http: httpx.Client) -> None:
    """All kinds of routes answer a client that behaves."""
    for answer in (
        http.get(USER),
        http.post(RANK, json=RANKING),
        http.post(FEASTS, json=BY_SERVICE),
        http.post(FEASTS, json=BY_NAME),
        http.get("/v1/vector_stores"),  # Feast's own code
    ):
        assert answer.status_code == 200, answer.text


# Who asks comes first.


@pytest.mark.parametrize("path", POSTS)
def test_without_the_key_no_body_is_waited_for(url: str, path: str) -> None:
    raw = Raw(url).head("POST", path, Content_Length=900_000)
    assert raw.status(1.5) == 401
    raw.close()


def test_every_route_of_feasts_application_asks_who_it_is(url: str, feast_store: Any) -> None:
    """Served to those who have the key, or to nobody; the documentation's page is open."""
    with httpx.Client(base_url=url, timeout=10) as stranger:
        seen = set()
        for route in get_app(feast_store, registry_ttl_sec=0).router.routes:
            path = route.path.replace("{vector_store_id}", "x")
            path += "/chat/index.html" if path == "/static" else ""
            for method in getattr(route, "methods", None) or {"GET"}:
                answer = stranger.request(method, path)
                seen.add(path)
                if path not in OPEN:
                    assert answer.status_code == 401, (method, path)
        assert {"/redoc", "/ws/chat", "/chat", "/push"} <= seen
        assert stranger.get("/docs").status_code == 200
        for path in ("/redoc", "/ws/chat", "/docs/oauth2-redirect"):
            assert stranger.get(path, headers=KEY).status_code == 404


def test_no_other_protocol_is_spoken(url: str) -> None:
    for key in ({}, {"X-Api-Key": "secret"}):
        raw = Raw(url).head(
            "GET", "/ws/chat", Connection="Upgrade", Upgrade="websocket",
            Sec_WebSocket_Version=13, Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
            **{name.replace("-", "_"): value for name, value in key.items()},
        )  # fmt: skip
        assert raw.status() == (404 if key else 401)
        raw.close()
    raw = Raw(url)  # clients that offer HTTP/2 are answered in HTTP/1.1, again and again
    for _ in range(3):
        raw.head("GET", USER, X_Api_Key="secret", Connection="Upgrade, HTTP2-Settings",
                 Upgrade="h2c", HTTP2_Settings="AAMAAABkAAQAAP__")  # fmt: skip
        assert raw.status() == 200
    raw.close()


def test_plans_are_not_made_for_strangers_nor_without_bound(http: httpx.Client, url: str) -> None:
    views = ["user_habits:user_preferred_hour", *(f"view{i}:f" for i in range(30_000))]
    asked = {"features": views, "entities": {"user_id": [1]}}
    began = time.monotonic()
    stranger = httpx.post(url + FEASTS, json=asked, timeout=30)
    assert stranger.status_code == 401
    assert time.monotonic() - began < 2
    known = http.post(FEASTS, json=asked)
    assert (known.status_code, known.json()["error"]["field"]) == (422, "features")
    well(http)


def test_nobody_waits_while_a_plan_is_made(http, url: str, monkeypatch) -> None:
    """Plans for references are compiled aside, once for all who wait for the same."""
    made, compiled = [], get_online_features.compile_plan

    def slowly(*arguments: Any) -> Any:
        made.append(arguments)
        time.sleep(1.5)
        return compiled(*arguments)

    monkeypatch.setattr(get_online_features, "compile_plan", slowly)
    asked = {**BY_NAME, "features": ["user_habits:user_avg_watch_duration_min"]}
    answers: list[int] = []

    def ask() -> None:
        answer = httpx.post(url + FEASTS, json=asked, headers=KEY, timeout=20)
        answers.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    until(lambda: bool(made))
    began = time.monotonic()
    for _ in range(10):
        assert http.get(USER).status_code == 200
    assert time.monotonic() - began < 1.0
    for thread in threads:
        thread.join()
    assert answers == [200] * 5
    assert len(made) == 1


def test_references_that_strangers_make_up_push_no_plan_out(http, monkeypatch) -> None:
    made, compiled = [], get_online_features.compile_plan
    monkeypatch.setattr(
        get_online_features,
        "compile_plan",
        lambda *given: (made.append(given[1]), compiled(*given))[1],
    )
    asked = {**BY_NAME, "features": ["user_habits:user_avg_watch_duration_min",
                                     "user_habits:user_preferred_hour"]}  # fmt: skip
    assert http.post(FEASTS, json=asked).status_code == 200
    for i in range(300):
        http.post(FEASTS, json={**BY_NAME, "features": [f"user_habits:made_up_{i}"]})
    assert http.post(FEASTS, json=asked).status_code == 200
    assert made.count(asked["features"]) == 1


# Sizes.


@pytest.mark.parametrize("path", POSTS)
def test_bodies_are_bounded_and_not_compressed_on_every_route(
    http: httpx.Client, url: str, path: str
) -> None:
    raw = Raw(url).head("POST", path, X_Api_Key="secret", Content_Length=200_000_000)
    assert raw.status(1.5) == 413  # before any of it has come
    raw.close()

    def pieces() -> Iterator[bytes]:  # no length said beforehand
        for _ in range(60):
            yield b" " * 50_000

    assert http.post(path, content=pieces()).status_code == 413
    for coding in ("gzip", "br", "gzip, identity", "x"):
        body = gzip.compress(json.dumps(BY_SERVICE).encode())
        answer = http.post(path, content=body, headers={"content-encoding": coding})
        assert (answer.status_code, answer.json()["error"]["field"]) == (415, "Content-Encoding")
    plain = http.post(path, content=b"{}", headers={"content-encoding": "identity"})
    assert plain.status_code not in (413, 415)
    well(http)


@pytest.mark.parametrize(
    "start",
    [
        b"GET /v1/features/user/1 HTTP/1.1\r\nX-Long: ",
        b"GET /v1/features/user/",
        b"GET / HTTP/1.1\r\n",
        b"POST /push HTTP/1.1\r\nX-Api-Key: secret\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
        b"POST /push HTTP/1.1\r\nX-Api-Key: secret\r\nTransfer-Encoding: chunked\r\n\r\n1;x=",
    ],
)
def test_headers_have_an_end(url: str, http: httpx.Client, start: bytes) -> None:
    """A value, a URL, the number of headers, what trails a body, what describes a chunk."""
    raw, sent = Raw(url), 0
    more = b"a: b\r\n" * 2_000 if start.endswith(b"1.1\r\n") else b"a" * 10_000
    raw.send(start)
    while sent < 5_000_000 and not raw.answered() and raw.send(more):
        sent += len(more)
    assert sent < 2_000_000  # what the sockets' buffers hold, and 64 kB
    assert raw.status() == 431
    assert raw.ended() < 4  # and what still comes is not read for ever
    raw.close()
    well(http)


def test_a_request_with_too_large_headers_is_told_so(http: httpx.Client) -> None:
    answer = http.get(USER, headers={"x-long": "a" * 70_000})
    assert answer.status_code == 431
    assert "65536 bytes" in answer.json()["error"]["message"]
    assert http.get(USER, headers={"x-long": "a" * 50_000}).status_code == 200
    raw = Raw(str(http.base_url)).head("GET", f"{ANY}/user/{'1' * 70_000}")
    assert raw.status() == 431
    raw.close()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", USER, 200), ("GET", "/health", 200), ("HEAD", "/health", 200),
        ("GET", "/v1/nowhere", 404), ("GET", "/v1/vector_stores", 200), ("GET", "/chat", 200),
    ],
)  # fmt: skip
def test_a_reply_is_one_write(
    url: str, method: str, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head and body together, of our routes and of Feast's; and all of it arrives."""
    written = []
    write = JoinedReply.write

    def noted(self: JoinedReply, data: bytes) -> None:
        write(self, data)
        written.append(self._head)

    monkeypatch.setattr(JoinedReply, "write", noted)
    raw = Raw(url).head(method, path, X_Api_Key="secret", Connection="close")
    reply = raw.whole()
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    length = int(re.findall(rb"content-length: (\d+)", head)[0])
    assert len(body) == (0 if method == "HEAD" else length)
    # The head is kept back until the body, if there is one, and nothing is at the end.
    assert [bool(kept) for kept in written][:1] == [method != "HEAD"]
    assert not any(written[1:])


@pytest.mark.parametrize("first", [100, 30_000, 60_000, 65_500, 69_900])
@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize(("size", "status"), [(60_000, 200), (70_000, 431)])
def test_headers_are_as_large_in_pieces(
    url: str, first: int, ahead: int, size: int, status: int
) -> None:
    """However they arrive, and after requests that are sent ahead in the same piece."""
    raw = Raw(url)
    whole = f"GET {USER} HTTP/1.1\r\nHost: x\r\nX-Api-Key: secret\r\n".encode()
    before = whole + b"\r\n"
    late = whole + b"X-Long: " + b"a" * size + b"\r\nConnection: close\r\n\r\n"
    raw.send(before * ahead + late[:first])
    time.sleep(0.1)
    raw.send(late[first:])
    assert raw.statuses() == [200] * ahead + [status]
    raw.close()


def test_what_is_asked_for_is_bounded_on_every_route(http: httpx.Client) -> None:
    most = LIMITS["max_items"]
    ids = list(range(most + 1))
    for path, body, field in (
        (RANK, {"userId": 1, "itemIds": ids}, "itemIds"),
        (ANY, {"service": "home_page", "entities": [{"user_id": i} for i in ids]}, "entities"),
        (FEASTS, {**BY_SERVICE, "entities": {"user_id": ids}}, "entities"),
        (FEASTS, {**BY_NAME, "entities": {"user_id": ids}}, "entities"),
        (FEASTS, {**BY_NAME, "entities": {"a": [], "user_id": [*ids, float("nan")]}}, "entities"),
        (FEASTS, {**BY_NAME, "features": ["user_habits:x"] * 1_001}, "features"),
        ("/search", {"features": BY_NAME["features"], "query": [0.5], "top_k": 10**9}, "top_k"),
        ("/v1/vector_stores/x/search", {"query": "a", "max_num_results": 10**9},
         "max_num_results"),
        ("/push", {"push_source_name": "x", "df": {"a": [1] * 10_001}}, "df"),
        ("/write-to-online-store", {"feature_view_name": "x", "df": {"a": [1] * 10_001}}, "df"),
    ):  # fmt: skip
        answer = http.post(path, content=json.dumps(body))
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field), answer.text
    for path, body in (
        (FEASTS, {**BY_SERVICE, "entities": {"user_id": ids[:-1]}}),
        (FEASTS, {**BY_NAME, "entities": {"user_id": ids[:-1]}}),
    ):
        assert http.post(path, json=body).status_code == 200


def test_a_path_means_one_thing(http: httpx.Client, url: str) -> None:
    for path in (
        "/v1/features%2Fuser/5", "/v1/features/user%2F5", "/v1%2ffeatures/user/5",
        "/v1/f%65atures/user/5", "/v1%2Ffeatures%2Fuser%2F5", "%2Fv1/features/user/5",
        "/v1/features/us%65r/a%2Fb", "/v1%2Fvector_stores", "/v1/vector_stores/a%2Fsearch",
    ):  # fmt: skip
        raw = Raw(url).head("GET", path, X_Api_Key="secret")
        assert raw.status() in (404, 400), path
        raw.close()
    assert http.get("/v1/features/user/%35").json()["userId"] == 5
    assert http.get("/v1/features/user/a%2Fb").status_code == 422  # an id, of the wrong type


# Time.


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 0),
        (b"\r\n", 0),
        (b"G", 408),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", 408),
        (b"POST /push HTTP/1.1\r\nX-Api-Key: secret\r\nContent-Length: 9\r\n\r\n{", 408),
        (b"POST /v1/features HTTP/1.1\r\nX-Api-Key: secret\r\nTransfer-Encoding: chunked\r\n\r\n5",
         408),
    ],
)  # fmt: skip
def test_slow_requests_end(url: str, sent: bytes, status: int) -> None:
    """Whatever was sent, and however it is dripped on: nothing after a moment is a deadline too."""
    began = time.monotonic()
    raw = Raw(url)
    raw.send(sent)
    drip = b"\r\n" if sent in (b"", b"\r\n") else b"E" if sent == b"G" else b""
    stop = threading.Event()

    def dripping() -> None:
        while drip and not stop.wait(0.3):
            raw.send(drip)

    thread = threading.Thread(target=dripping)
    thread.start()
    try:
        seen = raw.status(6)
        # A request line that has gone wrong is told so before it is late.
        assert seen == status or (sent == b"G" and seen == 400)
        raw.ended(6)
    finally:
        stop.set()
        thread.join()
        raw.close()
    assert time.monotonic() - began < 7


def test_an_early_answer_does_not_keep_an_endless_body(url: str) -> None:
    raw = Raw(url).head("POST", "/push", Transfer_Encoding="chunked")
    assert raw.status() == 401
    began = time.monotonic()
    while raw.send(b"1000\r\n" + b" " * 0x1000 + b"\r\n") and time.monotonic() - began < 8:
        time.sleep(0.001)
    assert time.monotonic() - began < 6
    raw.close()


def test_idle_connections_end_and_used_ones_stay(url: str) -> None:
    raw = Raw(url)
    for _ in range(8):  # four seconds in all: each request begins the idle time anew
        raw.head("GET", USER, X_Api_Key="secret")
        assert raw.status() == 200
        time.sleep(0.5)
    assert 0.2 < raw.ended() < 4
    raw.close()


def test_a_client_that_does_not_read_is_let_go(url, http, monkeypatch) -> None:
    monkeypatch.setattr(bounded_http_protocol, "WRITE_SECONDS", 1.0)
    ranking = post(RANK, {**RANKING, "itemIds": list(range(1, 201))})
    with many(url, 5) as raws:
        for raw in raws:
            raw.socket.setsockopt(1, 8, 4096)  # SO_RCVBUF
            raw.socket.settimeout(1)
            with contextlib.suppress(OSError):
                for _ in range(400):
                    raw.socket.sendall(ranking)
        began = time.monotonic()
        while any(_alive(raw) for raw in raws):
            assert time.monotonic() - began < 10
            time.sleep(0.2)
    well(http)


def test_replies_that_nobody_reads_are_bounded_all_together(url, http, monkeypatch) -> None:
    """Those unread longest go first; who reads is not ended."""
    monkeypatch.setattr(bounded_http_protocol, "MOST_UNREAD", 400_000)
    ranking = post(RANK, {**RANKING, "itemIds": list(range(1, 201))})
    with many(url, 12) as raws:
        for raw in raws:
            raw.socket.setsockopt(1, 8, 4096)  # SO_RCVBUF
            raw.socket.settimeout(0.5)
            with contextlib.suppress(OSError):
                for _ in range(60):
                    raw.socket.sendall(ranking)
        began = time.monotonic()
        while sum(_alive(raw) for raw in raws) > 6:
            assert time.monotonic() - began < 10
            well(http)
            time.sleep(0.1)


def _alive(raw: Raw) -> bool:
    """Whether the server's end has not gone: what it reset cannot be written to."""
    raw.socket.settimeout(0.01)
    try:
        raw.socket.send(b"x")
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


# Number.


@pytest.mark.parametrize("path", [FEASTS, ANY, "/push"])
def test_bodies_that_do_not_come_take_nobodys_place(url, http, path: str) -> None:
    with many(url, 600) as raws:
        for raw in raws:
            raw.head("POST", path, X_Api_Key="secret", Content_Length=1_000)
            raw.send(b'{"')
        well(http)


def test_large_bodies_that_do_not_end_give_way(url: str, http: httpx.Client) -> None:
    """Forty of 0.9 MB where eight may be held: who sends a whole one is served all the time."""
    stop = threading.Event()

    def hold() -> None:
        while not stop.is_set():
            raw = Raw(url).head("POST", "/push", X_Api_Key="secret", Content_Length=900_001)
            raw.send(b" " * 900_000)
            stop.wait(0.5)
            raw.close()

    threads = [threading.Thread(target=hold) for _ in range(40)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        for _ in range(5):
            well(http)
            big = {**BY_SERVICE, "entities": {"user_id": [1] * 100}, "full_feature_names": False}
            padded = json.dumps(big).encode() + b" " * 300_000
            assert http.post(FEASTS, content=padded).status_code == 200
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_connections_beyond_the_limit_are_told_so(url: str, http: httpx.Client) -> None:
    assert http.get(USER).status_code == 200  # holds one
    with many(url, LIMITS["max_connections"] + 20) as raws:
        for raw in raws[-15:]:
            assert raw.status() == 503
        assert http.get(USER).status_code == 200
    until(lambda: _served(url), 10)


def _served(url: str) -> bool:
    try:
        return httpx.get(url + USER, headers=KEY).status_code == 200
    except httpx.TransportError:
        return False


def test_requests_sent_ahead_are_answered_in_order_up_to_a_bound(url: str) -> None:
    raw = Raw(url)
    raw.send(b"".join(b"GET /v1/features/user/%d HTTP/1.1\r\nX-Api-Key: secret\r\n\r\n" % i
                      for i in range(1, 41)))  # fmt: skip
    data = b""
    while data.count(b'"userId":') < 40:
        data += raw.socket.recv(65_536)
    found = [int(part.split(b",")[0]) for part in data.split(b'"userId":')[1:]]
    assert found == list(range(1, 41))
    raw.close()
    flood = Raw(url)
    flood.send(b"GET /health HTTP/1.1\r\n\r\n" * 5_000)
    data = b""
    with contextlib.suppress(ConnectionError):
        while more := flood.socket.recv(65_536):
            data += more
    assert 1 <= data.count(b"HTTP/1.1 200") <= 100
    flood.close()

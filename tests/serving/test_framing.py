"""How a body is framed: chunks with extensions and trailers, and lengths that lie."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from feast import FeatureStore

from extensions.serving.settings import Settings
from tests.served import serving
from tests.serving.attack import Raw

BODIES = {
    "/v1/features": {"service": "home_page", "entities": [{"user_id": 1}]},
    "/get-online-features": {"feature_service": "home_page", "entities": {"user_id": [1]}},
    # Feast's own code answers, which reads the headers once more.
    "/get-online-features?": {
        "features": ["user_habits:user_preferred_hour"], "entities": {"user_id": [1]},
        "include_feature_view_version_metadata": True,
    },
}  # fmt: skip
CHUNKED, CLOSE = {"Transfer-Encoding": "chunked"}, {"Connection": "close"}
LIMITS = {"header_seconds": 1.0, "body_seconds": 1.5, "keep_alive": 1}


@pytest.fixture(scope="module")
def url(feast_store: FeatureStore, repo_root: Path) -> Iterator[str]:
    yield from serving(Settings(repo=repo_root, api_key="secret", **LIMITS), feast_store)


def statuses(url: str, data: bytes) -> list[int]:
    """Of all that the server answers on one connection, until it ends it."""
    raw = Raw(url)
    raw.socket.settimeout(6)
    raw.send(data)
    found = b""
    with contextlib.suppress(ConnectionError):
        while more := raw.socket.recv(65_536):
            found += more
    raw.close()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", found)]


def head(path: str, headers: dict[str, str], key: str = "secret") -> bytes:
    lines = [f"POST {path.rstrip('?')} HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"X-Api-Key: {key}"] if key else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def chunks(body: object, *, extension: str = "", trailers: str = "") -> bytes:
    """The body in chunks of seven bytes."""
    data = json.dumps(body).encode()
    parts = [data[at : at + 7] for at in range(0, len(data), 7)]
    sent = b"".join(b"%x%b\r\n%b\r\n" % (len(one), extension.encode(), one) for one in parts)
    return sent + f"0{extension}\r\n{trailers}\r\n".encode()


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("extension", ["", ";a", ";a=b", ' ;a="b;\\" c"', ";" + "a" * 500])
def test_extensions_of_chunks_say_nothing(url: str, path: str, extension: str) -> None:
    sent = head(path, CHUNKED | CLOSE) + chunks(BODIES[path], extension=extension)
    assert statuses(url, sent) in ([200], [400])
    if extension in ("", ";a=b"):
        assert statuses(url, sent) == [200]


@pytest.mark.parametrize("path", BODIES)
def test_trailers_are_no_headers(url: str, path: str) -> None:
    """What follows the body was not there when the request was admitted, and changes nothing."""
    trailers = (
        "X-Api-Key: other\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n"
        "Accept: application/msgpack\r\nAuthorization: Bearer x\r\n"
    )
    asked = chunks(BODIES[path], trailers=trailers)
    assert statuses(url, head(path, CHUNKED | CLOSE) + asked) == [200]
    stranger = head(path, CHUNKED, key="")
    assert statuses(url, stranger + chunks(BODIES[path], trailers="X-Api-Key: secret\r\n")) == [401]
    for framing in ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"):
        sent = head(path, CHUNKED) + chunks(BODIES[path], trailers=framing) + after(path)
        assert set(statuses(url, sent)) == {400}


def test_trailers_are_not_seen_by_the_application(url: str) -> None:
    sent = head("/v1/features", CHUNKED) + chunks(
        BODIES["/v1/features"], trailers="Accept: application/msgpack\r\n"
    )
    raw = Raw(url)
    raw.send(sent)
    raw.socket.settimeout(5)
    answer = raw.socket.recv(65_536)
    raw.close()
    assert b"content-type: application/json" in answer, answer[:300]


def after(path: str) -> bytes:
    """A request that would be answered 200 were it taken for one of its own."""
    data = json.dumps(BODIES[path]).encode()
    return head(path, {"Content-Length": str(len(data))}) + data


@pytest.mark.parametrize(
    "lie",
    [
        {"Content-Length": "-1"}, {"Content-Length": "+5"}, {"Content-Length": "0x5"},
        {"Content-Length": "5, 5"}, {"Content-Length": "5 5"}, {"Content-Length": ""},
        {"Content-Length": "9" * 30}, {"Content-Length": "1_0"}, {"Content-Length": "٥"},
        {"Content-Length": "5", "content-length": "6"},
        {"Content-Length": "5", "Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "chunked", "content-length": "5"},
        {"Transfer-Encoding": "chunked, identity"}, {"Transfer-Encoding": "gzip"},
        {"Transfer-Encoding": "xchunked"}, {"Transfer-Encoding": "chunked\r\n x"},
    ],
    ids=str,
)  # fmt: skip
def test_a_length_that_can_be_read_in_two_ways_is_refused(url: str, lie: dict[str, str]) -> None:
    path = "/get-online-features"
    found = statuses(url, head(path, lie) + chunks(BODIES[path]) + after(path))
    assert found, "no answer"
    assert 400 <= found[0] < 500
    assert 200 not in found  # what follows is not taken for a request


@pytest.mark.parametrize(
    "size", [b"-1", b"0x5", b"+5", b"f" * 20, b"5 5", b"", b" 5", b"g", b"5\n", b"5\r"]
)
def test_a_chunks_size_that_is_none_is_refused(url: str, size: bytes) -> None:
    path = "/get-online-features"
    sent = head(path, CHUNKED) + size + b'\r\n{"a":\r\n0\r\n\r\n' + after(path)
    found = statuses(url, sent)
    assert found
    assert 400 <= found[0] < 500
    assert 200 not in found


def test_a_body_that_is_shorter_than_it_says_is_waited_for_and_then_refused(url: str) -> None:
    data = json.dumps(BODIES["/v1/features"]).encode()
    raw = Raw(url)
    raw.send(head("/v1/features", {"Content-Length": str(len(data) + 1)}) + data)
    assert raw.status(6) == 408
    raw.close()


def test_a_body_that_is_longer_than_it_says_is_cut_there(url: str) -> None:
    data = json.dumps(BODIES["/v1/features"]).encode()
    for length, more in ((len(data) - 1, b"\r\n"), (len(data), b"GARBAGE\r\n\r\n"), (0, b"\r\n")):
        sent = head("/v1/features", {"Content-Length": str(length)}) + data + more
        first, *rest = statuses(url, sent)
        assert first == (200 if length == len(data) else 400)
        assert 200 not in rest
    assert httpx.get(f"{url}/health").status_code == 200

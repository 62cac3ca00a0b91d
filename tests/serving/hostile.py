"""Requests that nobody should send, drawn at random over all routes; and connections that hold.

`python -m tests.serving.hostile PORT NUMBER` holds so many connections until it is killed: idle
ones, headers and bodies that do not end, replies that nobody reads; what the server ends is made
again.
"""

import json
import random
import selectors
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

KEY = b"X-Api-Key: secret\r\n"
GETS = ("/v1/features/user/{}", "/health", "/ready", "/metrics", "/docs", "/openapi.json",
        "/v1/openapi.json", "/v1/vector_stores", "/v1/vector_stores/{}", "/chat",
        "/static/chat/index.html", "/redoc", "/ws/chat", "/{}", "/v1/{}", "/v1/features/{}",
        "/v1/features%2Fuser/{}", "//v1/features/user/{}", "/../{}", "*")  # fmt: skip
FEATURES = ("user_habits:user_preferred_hour", "item_stats:item_popularity_score",
            "user_habits:nothing", "nothing:x", "user_habits@v1:user_preferred_hour", ":", "a:b:c",
            "")  # fmt: skip
IDS = (1, 7, 0, -1, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 1.5, "1", "", "a", None, True, [], {},
       "\u0000", "\ud83d\ude00", "007")  # fmt: skip
WORDS = ("a", "%", "%2F", "%00", "%ff", "..", "\u00e9", "1" * 300, "-0", "9" * 23, "5/6", "", "'")


def body_of(rng: random.Random, path: str) -> Any:
    """Something like what the route takes."""
    n = rng.choice((0, 1, 2, 50, 199, 200, 201, 1_000) if rng.random() < 0.2 else (1, 2, 3))
    ids = [rng.choice(IDS) if rng.random() < 0.3 else rng.randrange(60) for _ in range(n)]
    frame = {"user_id": ids, "user_preferred_hour": [rng.choice((3, None, "x"))] * n,
             "event_timestamp": [rng.choice(("2026-01-01", 5, "", None, "9999-99-99"))] * n
             }  # fmt: skip
    names = [rng.choice(FEATURES) for _ in range(rng.choice((0, 1, 2, 3, 40)))]
    if rng.random() < 0.01:
        names = [f"v{i}:f" for i in range(30_000)]
    if path == "/v1/features/rank":
        return {"userId": rng.choice(IDS), "itemIds": ids, "context": {"requestHour": 3}}
    if path == "/v1/features":
        service = rng.choice(("home_page", "ranking", "x", None, 5))
        return {"service": service, "entities": [{"user_id": one} for one in ids]}
    if path == "/get-online-features":
        if rng.random() < 0.4:
            return {"feature_service": "home_page", "entities": {"user_id": ids}}
        return {"features": names, "entities": {"user_id": ids, "item_id": ids[: rng.randrange(3)]}}
    if path == "/push":
        return {"push_source_name": rng.choice(("x", "user_watch_stats_push")), "df": frame,
                "to": rng.choice(("online", "offline", "x"))}  # fmt: skip
    if path == "/write-to-online-store":
        return {"feature_view_name": rng.choice(("x", "user_habits")), "df": frame}
    if path in ("/materialize", "/materialize-incremental"):  # none that would run
        return {"end_ts": rng.choice(("x", 5, None)), "feature_views": ["nothing"]}
    return {"features": names, "query": rng.choice(("x", [0.5], None)),
            "top_k": rng.choice((1, -1, 10**9, "x")), "max_num_results": rng.choice((1, 10**9)),
            "messages": [{"role": "user", "content": "x"}]}  # fmt: skip


POSTS = ("/v1/features/rank", "/v1/features", "/get-online-features", "/push",
         "/write-to-online-store", "/materialize", "/materialize-incremental", "/search",
         "/retrieve-online-documents", "/chat", "/v1/vector_stores/x/search")  # fmt: skip


def spoilt(rng: random.Random, data: bytes) -> bytes:
    """The body, mostly as it is."""
    kind = rng.random()
    if kind < 0.6:
        return data
    if kind < 0.7:
        return data[: rng.randrange(len(data) + 1)]
    if kind < 0.78:
        at = rng.randrange(len(data) + 1)
        return data[:at] + rng.randbytes(rng.randrange(20)) + data[at:]
    if kind < 0.82:
        return rng.choice((b"[" * 50_000, b'{"a":' * 20_000, b"[]", b"null", b'"x"', b"5", b""))
    if kind < 0.86:
        return data.replace(b"1", rng.choice((b"NaN", b"1e999", b"-Infinity", b"1" * 5_000)))
    if kind < 0.87:
        return data + b" " * rng.choice((500_000, 999_000, 1_100_000))
    return data.replace(b'"', rng.choice((b"'", b'""', b'\\"')), rng.randrange(4))


def request(rng: random.Random) -> bytes:
    """One request, ready to send."""
    post = rng.random() < 0.6
    method = "POST" if post else "GET"
    if rng.random() < 0.03:
        method = rng.choice(("HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "QQ"))
    word = rng.choice(WORDS) if rng.random() < 0.5 else str(rng.randrange(60))
    path = rng.choice(POSTS) if post else rng.choice(GETS).format(word)
    if rng.random() < 0.1:
        path += rng.choice(("?include=meta", "?project=x", "?%", "?async=true", "/", "?a" * 50))
    data = spoilt(rng, json.dumps(body_of(rng, path.partition("?")[0])).encode()) if post else b""
    lines = [f"{method} {path} HTTP/1.1".encode("utf-8", "replace"), b"Host: x"]
    if rng.random() < 0.75:
        lines.append(KEY.strip())
    elif rng.random() < 0.5:
        lines.append(rng.choice((b"X-Api-Key: x", b"X-Api-Key:", b"Authorization: Bearer a.b.c")))
    for chance, more in (
        (0.02, b"Content-Encoding: gzip"), (0.02, b"Expect: 100-continue"),
        (0.02, b"Upgrade: websocket\r\nConnection: Upgrade"), (0.02, b"X: " + b"a" * 8_000),
        (0.005, b"X: " + b"a" * 70_000), (0.02, b"Accept: application/msgpack"),
        (0.02, b"Accept: application/vnd.apache.arrow.stream"), (0.01, b"Broken header"),
        (0.01, b"Content-Length: 5\r\nTransfer-Encoding: chunked"), (0.02, b"X-Api-Key: y"),
        (0.05, b"Content-Type: application/json"), (0.01, b"Connection: close"),
    ):  # fmt: skip
        if rng.random() < chance:
            lines.append(more)
    if rng.random() < 0.1 and data:
        size = rng.choice((1_000, 65_536, 10**6))
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"
        return b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", body])
    if post or rng.random() < 0.05:
        lines.append(b"Content-Length: %d" % len(data))
    return b"\r\n".join([*lines, b"", data])


@dataclass
class Outcome:
    """What came of requests: statuses, with an example of each that must not be."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[bytes] = field(default_factory=list)


class Client:
    """Sends one request after the other on a connection, made anew where the server ends it."""

    def __init__(self, port: int) -> None:
        self.port, self.socket = port, socket.socket()
        self.socket.close()

    def ask(self, data: bytes, outcome: Outcome) -> None:
        """Send it and take the reply, whole."""
        status, whole, ended = 0, b"", False
        for fresh in (False, True):  # an idle connection may just have been ended
            if fresh or self.socket.fileno() < 0:
                self.socket.close()
                self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            try:
                self.socket.sendall(data)
            except OSError:
                ended = True  # refused while it was sent: the reply may be there all the same
            status, whole, close = self._reply(data.startswith(b"HEAD "))
            if close or ended:
                self.socket.close()
            if status or fresh:
                break
        outcome.statuses[status] += 1
        if status == 500 or (status == 0 and not ended):
            outcome.wrong.append(data[:600] + b" -> " + whole[:300])

    def _reply(self, head_only: bool) -> tuple[int, bytes, bool]:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                try:
                    more = self.socket.recv(1 << 18)
                except ConnectionError:
                    more = b""
                if not more:
                    return 0, data, True
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            status = int(head.split()[1])
            if status != 100:
                break
            data = rest
        lower = head.lower()
        close = b"connection: close" in lower
        try:
            if head_only or status in (204, 304):
                pass
            elif b"content-length: " in lower:
                length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
                while len(rest) < length:
                    rest += self._more()
            else:
                while not rest.endswith(b"0\r\n\r\n"):
                    rest += self._more()
        except ConnectionError:
            close = True
        return status, rest, close

    def _more(self) -> bytes:
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError
        return data


RANKING = json.dumps({"userId": 1, "itemIds": list(range(200))}).encode()
HOLDS = (
    b"",
    b"\r\n",
    b"GET /v1/features/user/1 HTTP/1.1\r\nX: a",
    b"POST /push HTTP/1.1\r\nContent-Length: 900000\r\n\r\n{",
    b"POST /push HTTP/1.1\r\n" + KEY + b"Content-Length: 900000\r\n\r\n{" + b" " * 50_000,
    b"POST /v1/features/rank HTTP/1.1\r\n" + KEY + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    b"GET /v1/features/user/1 HTTP/1.1\r\n" + KEY + b"\r\n",
    (b"POST /v1/features/rank HTTP/1.1\r\n" + KEY
     + b"Content-Length: %d\r\n\r\n" % len(RANKING) + RANKING) * 8,
)  # fmt: skip


def hold(port: int, number: int) -> None:
    """Hold so many connections; one that is ended is made again, and says the next thing."""
    ready = selectors.DefaultSelector()
    count = 0

    def make() -> None:
        nonlocal count
        made = socket.create_connection(("127.0.0.1", port))
        made.setblocking(False)
        kind = count % len(HOLDS)
        count += 1
        try:
            made.send(HOLDS[kind])
        except OSError:
            return
        # The last kind never reads: its end is not seen, and is counted as held.
        ready.register(made, selectors.EVENT_READ, kind)

    while len(ready.get_map()) < number:
        make()
    sys.stdout.write("held\n")
    sys.stdout.flush()
    while True:
        ended = 0
        for key, _ in ready.select(1.0):
            if key.data == len(HOLDS) - 1:
                continue
            try:
                data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
            except OSError:
                data = b""
            if not data:
                ready.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                ended += 1
        for _ in range(ended):
            make()
        time.sleep(0.05)


if __name__ == "__main__":
    hold(int(sys.argv[1]), int(sys.argv[2]))

"""A load client: one process of its own, one request in hand per connection.

wrk where it is installed (Debian's package of that name): it costs a server's core least. Else
the one below, on raw sockets and uvloop: `python -m benchmarks.load PORT CONNECTIONS SECONDS
FILE` sends the HTTP request in FILE over and over, and prints JSON: requests, requests per second,
latencies' p50, p95 and p99 in milliseconds, statuses. `client()` says which it is.
"""

import asyncio
import gc
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop


@dataclass(frozen=True)
class Load:
    """What one cell measured; milliseconds and requests per second."""

    requests: int
    rate: float
    p50: float
    p95: float
    p99: float
    statuses: dict[str, int]


@dataclass(frozen=True)
class Loads:
    """Several runs of one cell: medians, and how far they lie apart."""

    runs: tuple[Load, ...]

    def median(self, metric: str) -> float:
        """Of ``p50``, ``p95``, ``p99`` or ``rate``."""
        return float(statistics.median(getattr(one, metric) for one in self.runs))

    def spread(self, metric: str) -> tuple[float, float]:
        """Least and greatest."""
        found = [getattr(one, metric) for one in self.runs]
        return min(found), max(found)

    @property
    def statuses(self) -> set[str]:
        """All that was answered."""
        return {status for one in self.runs for status in one.statuses}


def in_turn(
    targets: Mapping[str, tuple[int, bytes]], connections: int, seconds: float, rounds: int
) -> dict[str, Loads]:
    """All targets (port, request), one after the other and in turns, so that none has the machine
    at a better time than the others; ``seconds`` for each in all.
    """
    found: dict[str, list[Load]] = {name: [] for name in targets}
    for number in range(rounds):
        names = list(targets)[:: 1 if number % 2 else -1]
        for name in names:
            port, sent = targets[name]
            found[name].append(measure(port, connections, seconds / rounds, sent))
    return {name: Loads(tuple(runs)) for name, runs in found.items()}


def request(method: str, path: str, body: Any = None) -> bytes:
    """An HTTP/1.1 request."""
    raw = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n"
    return (head + "content-type: application/json\r\n\r\n").encode() + raw


LONGEST = 30.0
# Bodies go to wrk through its own language, in brackets that no JSON contains.
_LUA = """
wrk.method, wrk.body = "%s", [==[%s]==]
wrk.headers["Content-Type"] = "application/json"
function done(summary, latency, requests)
  io.write(string.format("\\n@ %%d %%d %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


def client() -> str:
    """The client that measures here."""
    return "wrk" if shutil.which("wrk") else "benchmarks.load (uvloop)"


def measure(port: int, connections: int, seconds: float, sent: bytes) -> Load:
    """Run the client in a process of its own, so that it does not share our interpreter."""
    if shutil.which("wrk"):
        found = _by_wrk(port, connections, seconds, sent)
        # What is in hand at the end does not count: a slow server needs longer than that.
        while found.requests < 2 * connections and seconds < LONGEST:
            seconds *= 4
            found = _by_wrk(port, connections, seconds, sent)
        return found
    with tempfile.NamedTemporaryFile() as file:
        file.write(sent)
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load", str(port), str(connections), str(seconds),
             file.name],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    return Load(**json.loads(done.stdout))


def _by_wrk(port: int, connections: int, seconds: float, sent: bytes) -> Load:
    head, body = sent.split(b"\r\n\r\n", 1)
    method, path, _ = head.split(b"\r\n")[0].decode().split()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LUA % (method, body.decode()))
        script.flush()
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{max(1, math.ceil(seconds))}s",
             "--timeout", "60s", "-s", script.name, f"http://127.0.0.1:{port}{path}"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    line = next(one for one in done.stdout.splitlines() if one.startswith("@ "))
    requests, micros, p50, p95, p99, refused, lost = map(int, line.split()[1:])
    statuses = {"200": requests - refused, "refused": refused, "lost": lost}
    return Load(
        requests, requests / (micros / 1e6), p50 / 1e3, p95 / 1e3, p99 / 1e3,
        {status: times for status, times in statuses.items() if times},
    )  # fmt: skip


class _Connection(asyncio.Protocol):
    def __init__(self, sent: bytes, until: float, taken: list[float], seen: Counter[str]) -> None:
        self._sent, self._until, self._taken, self._seen = sent, until, taken, seen
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self.done = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        self._at = time.perf_counter()
        self._transport.write(self._sent)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:") + 15
        length = int(head[at : head.find(b"\r\n", at) if b"\r\n" in head[at:] else None])
        if len(self._buffer) < end + 4 + length:
            return
        now = time.perf_counter()
        self._taken.append(now - self._at)
        self._seen[head[9:12].decode()] += 1
        self._buffer = b""
        if now < self._until:
            self._send()
        else:
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.done.done():
            self._seen["lost"] += 1
            self.done.set_result(None)


async def _run(port: int, connections: int, seconds: float, sent: bytes) -> Load:
    taken: list[float] = []
    seen: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    made = [
        await loop.create_connection(
            lambda: _Connection(sent, began + seconds, taken, seen), "127.0.0.1", port
        )
        for _ in range(connections)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    took = time.perf_counter() - began
    ordered = sorted(taken) or [0.0]
    p50, p95, p99 = (ordered[int(len(ordered) * q)] * 1000 for q in (0.5, 0.95, 0.99))
    return Load(len(taken), len(taken) / took, p50, p95, p99, dict(seen))


if __name__ == "__main__":
    gc.disable()
    _, _port, _connections, _seconds, _file = sys.argv
    found = uvloop.run(
        _run(int(_port), int(_connections), float(_seconds), Path(_file).read_bytes())
    )
    print(json.dumps(found.__dict__))

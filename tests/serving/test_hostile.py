"""The fault suite of the server: many hostile requests, held connections, and a good neighbour.

`make test-faults` runs it in its long form: ``HOSTILE`` says how many requests are sent.
"""

import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from feast import FeatureStore

from tests.serving.attack import KEY, descriptors, many, p99, resident
from tests.serving.hostile import Client, Outcome, request
from tests.serving.redis_nodes import until
from tests.serving.test_supervisor import Running, serve

REQUESTS = int(os.environ.get("HOSTILE", "4000"))
LONG = REQUESTS > 100_000
CLIENTS = 4
HELD = 1_000
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def server(
    feast_store: FeatureStore, database: str, redis_url: str, tmp_path_factory: Any
) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("hostile")
    with serve(root, database, redis_url, "--api-key", "secret", "--max-items", "200") as made:
        until(made.ready, 120)
        yield made


@pytest.mark.timeout(3600)
def test_hostile_requests_leave_nothing_behind(server: Running) -> None:
    """No request fails by the server's mistake; memory and descriptors stay where they were."""
    pid, port = server.process.pid, int(server.url.rpartition(":")[2])
    outcomes = [Outcome() for _ in range(CLIENTS)]
    sent = run(port, outcomes, REQUESTS // 2, seed=1)  # caches are filled, threads are there
    memory, files = resident(pid), descriptors(pid)
    sent += run(port, outcomes, REQUESTS - sent, seed=2)
    time.sleep(1)
    statuses = sum((one.statuses for one in outcomes), Counter[int]())
    wrong = [example for one in outcomes for example in one.wrong]
    grown, more = (resident(pid) - memory) / MEGABYTE, descriptors(pid) - files
    say(
        f"{sent} requests, {dict(sorted(statuses.items()))}, {grown:+.0f} MB, {more:+d} descriptors"
    )
    assert not wrong, wrong[:5]
    assert len(statuses) > 8
    assert grown < 60
    assert more <= CLIENTS + 4
    assert "Traceback" not in server.said
    assert len(server.said) < 100 * REQUESTS
    assert httpx.get(server.url + "/v1/features/user/1", headers=KEY).status_code == 200


def run(port: int, outcomes: list[Outcome], number: int, seed: int) -> int:
    """Send so many requests by several clients; how many were sent."""
    import random  # noqa: PLC0415

    def attack(place: int) -> None:
        rng, client = random.Random(seed * 100 + place), Client(port)
        for _ in range(number // CLIENTS):
            client.ask(request(rng), outcomes[place])
        client.socket.close()

    threads = [threading.Thread(target=attack, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return number // CLIENTS * CLIENTS


def test_large_bodies_leave_no_memory_behind(server: Running) -> None:
    """A megabyte each, of many lengths, on routes that keep pieces of replies."""
    pid = server.process.pid
    with httpx.Client(base_url=server.url, headers=KEY, timeout=60) as http:

        def ask(n: int) -> None:
            ids = b",".join([b"1"] * n)
            body = b'{"feature_service":"home_page","entities":{"user_id":[' + ids + b"]}}"
            assert http.post("/get-online-features", content=body).status_code == 422
            assert http.post("/push", content=b'{"df":{"a":[' + ids + b"]}}").status_code == 422

        ask(450_000)
        before = resident(pid)
        for i in range(60):
            ask(450_000 + i)
        assert resident(pid) - before < 100 * MEGABYTE


@contextmanager
def held(port: int, number: int) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.hostile", str(port), str(number)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        time.sleep(3)  # what they asked for has been answered: now they hold
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(1200)
def test_a_good_neighbour_among_hostile_connections(server: Running) -> None:
    """Its p99 is no more than twice what it is alone, measured in turns."""
    port = int(server.url.rpartition(":")[2])
    alone: list[float] = []
    among: list[float] = []
    statuses: Counter[int] = Counter()
    seconds = 12.0 if LONG else 4.0  # beyond the deadlines, so that connections come and go
    with httpx.Client(base_url=server.url, headers=KEY, timeout=10) as http:
        for _ in range(7 if LONG else 3):
            alone.append(p99(neighbour(http, seconds, statuses)))
            with held(port, HELD):
                among.append(p99(neighbour(http, seconds, statuses)))
                assert descriptors(server.process.pid) > HELD * 0.8
    say(f"p99 alone {show(alone)}, among {HELD} hostile connections {show(among)}")
    assert set(statuses) == {200}
    assert statistics.median(among) <= 2 * statistics.median(alone)
    until(lambda: descriptors(server.process.pid) < 200, 60)


def neighbour(http: httpx.Client, seconds: float, statuses: Counter[int]) -> list[float]:
    took = []
    until_then = time.monotonic() + seconds
    number = 0
    while time.monotonic() < until_then:
        number += 1
        began = time.perf_counter()
        if number % 4:
            answer = http.get(f"/v1/features/user/{number % 20}")
        else:
            ids = list(range(1, 51))
            answer = http.post("/v1/features/rank", json={"userId": 1, "itemIds": ids})
        took.append(time.perf_counter() - began)
        statuses[answer.status_code] += 1
        time.sleep(0.002)
    return took


def show(seconds: list[float]) -> str:
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"{middle * 1e3:.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f})"


def say(line: str) -> None:
    """Shown with -s, for the record."""
    sys.stdout.write(f"\n{line}\n")


def test_few_descriptors_are_enough(
    feast_store: FeatureStore, database: str, redis_url: str, tmp_path: Path
) -> None:
    """1,100 idle connections where a process may open 1,024 files, and 256 unless it asks."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serve(tmp_path, database, redis_url, "--api-key", "secret") as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (256, 1_024))
        until(server.ready, 120)
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (1_024, 1_024)
        with httpx.Client(base_url=server.url, headers=KEY, timeout=10) as http:
            assert http.get("/v1/features/user/1").status_code == 200
            with many(server.url, 1_100):
                for _ in range(50):
                    assert http.get("/v1/features/user/1").status_code == 200
                    time.sleep(0.02)
                assert 500 < descriptors(server.process.pid) < 1_000
        assert server.process.poll() is None
        until(server.ready, 20)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before

"""Several workers under their supervisor: signals, deaths, and what they leave behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from feast import FeatureStore

from extensions import addresses
from extensions.local.ports import free_port
from tests.serving.redis_nodes import until
from tests.serving.test_serve_command import COMMAND, children


class Running:
    """`skewless serve` and what it says."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}"
        self.said = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=5)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.said
        try:
            return self.get("/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def serve(folder: Path, database: str, redis_url: str, *options: str) -> Iterator[Running]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PROMETHEUS_")}
    variables = {
        addresses.POSTGRES_VARIABLE: database,
        addresses.REDIS_VARIABLE: redis_url,
        "TMPDIR": str(folder),
    }
    port = free_port()
    process = subprocess.Popen(
        [*COMMAND, "--port", str(port), *options],
        env={**inherited, **variables}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Running(process, port)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def folders(root: Path) -> list[Path]:
    return sorted(root.glob("skewless-metrics-*")) + sorted(root.glob("feast_metrics_*"))


@pytest.fixture(scope="module")
def running(
    feast_store: FeatureStore, database: str, redis_url: str, tmp_path_factory: Any
) -> Iterator[tuple[Running, Path]]:
    root = tmp_path_factory.mktemp("server")
    with serve(root, database, redis_url, "--workers", "2") as made:
        until(made.ready, 120)
        until(lambda: all(made.ready() for _ in range(8)), 60)
        yield made, root


def test_a_workers_figures_outlive_it_only_where_they_add_up(running) -> None:
    server, root = running
    [folder] = folders(root)
    for _ in range(20):
        assert server.get("/v1/features/user/1").status_code == 200
    name = 'skewless_answers_total{route="/v1/features/user/",status="200"}'
    assert sample(server, name) == 20
    time.sleep(1.5)  # each worker keeps its own figures, also of what nobody asked it for
    gauges = set(folder.glob("gauge_*worker*.db"))
    assert len({file.stem.rpartition("_")[2] for file in gauges}) == 2
    files = set(folder.glob("*.db"))
    for _ in range(3):
        first = children(server.process.pid)[0]
        os.kill(first, signal.SIGKILL)
        until(lambda gone=first: len(set(children(server.process.pid)) - {gone}) == 2, 60)
        until(lambda: all(server.ready() for _ in range(8)), 60)
    assert sample(server, name) == 20
    for _ in range(10):
        assert server.get("/v1/features/user/1").status_code == 200
    assert sample(server, name) == 30
    assert {file.name for file in folder.glob("*.db")} <= {file.name for file in files} | {
        f"{kind}_worker{place}.db" for kind in ("counter", "histogram") for place in (0, 1)
    }


def test_gauges_of_a_worker_that_has_died_say_nothing(running) -> None:
    server, root = running
    [folder] = folders(root)
    text = server.get("/metrics").text
    assert 'skewless_near_rows{entity="item_id"}' in text
    # A place's gauges go with its worker, before another takes it.
    first = children(server.process.pid)[0]
    place = next(
        file.stem.rpartition("_")[2]
        for file in folder.glob("counter_worker*.db")
        if any(str(file) in line for line in maps(first))
    )
    held = {file: file.stat().st_ino for file in folder.glob(f"gauge_*_{place}.db")}
    assert held
    os.kill(first, signal.SIGKILL)
    until(lambda: all(not file.exists() or file.stat().st_ino != held[file] for file in held), 30)
    until(lambda: len(set(children(server.process.pid)) - {first}) == 2, 60)
    until(lambda: all(server.ready() for _ in range(8)), 60)


def maps(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def sample(server: Running, name: str) -> float:
    lines = [line for line in server.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(lines[0].split()[1])


def test_what_a_killed_server_left_is_removed_by_the_next_and_its_own_by_itself(
    running, database: str, redis_url: str
) -> None:
    server, root = running
    workers = children(server.process.pid)
    [left] = folders(root)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)
    assert left.exists()
    with serve(root, database, redis_url, "--workers", "2") as other:
        until(other.ready, 120)
        assert not left.exists()
        assert len(folders(root)) == 1
        with serve(root, database, redis_url) as third:  # one that lives is left alone
            until(third.ready, 120)
            assert len(folders(root)) == 2
            third.process.send_signal(signal.SIGTERM)
            third.process.wait(30)
        assert len(folders(root)) == 1
        other.process.send_signal(signal.SIGTERM)
        assert other.process.wait(30) == 0
    assert folders(root) == []


def test_the_signal_to_stop_is_heard_while_workers_crash(tmp_path: Path, redis_url: str) -> None:
    """No database: each worker ends at once, and the supervisor pauses before the next."""
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    with serve(tmp_path, nowhere, redis_url, "--workers", "2") as server:
        until(lambda: server.said.count("starting another") >= 2, 120)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
        assert server.process.returncode == 0
    assert folders(tmp_path) == []


CRASHING = """
import os, signal, sys, threading, time
from pathlib import Path
from extensions.serving.observability.multiprocess_metric_files import MetricFiles
from extensions.serving.supervisor import supervise
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
def worker():
    time.sleep(float(sys.argv[2]))
def end():
    # A signal that comes before anybody listens ends the process, as it should.
    while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        time.sleep(0.001)
    time.sleep(float(sys.argv[3]))
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end, daemon=True).start()
supervise(3, worker, MetricFiles(Path(sys.argv[1])))
print("ended", flush=True)
"""


@pytest.mark.parametrize("lives", ["0", "0.05", "30"])
@pytest.mark.parametrize("after", ["0.01", "0.4", "1.1"])
def test_a_signal_at_any_moment_ends_all(tmp_path: Path, lives: str, after: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASHING, str(tmp_path), lives, after],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "ended\n", done.stderr
    assert done.returncode == 0

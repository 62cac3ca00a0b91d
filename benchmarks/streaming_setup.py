"""Servers with a stored history, a producer, a worker and an HTTP server, each its own process."""

import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from benchmarks.streaming_load import ITEMS
from extensions.addresses import POSTGRES_VARIABLE, REDIS_VARIABLE
from extensions.database import connect
from extensions.history import bulk_load
from extensions.history.declared_tables import declared_sources
from extensions.local import apache_kafka, postgres, tansu, valkey
from extensions.local.ports import free_port
from extensions.operations.database_setup import prepare_database
from extensions.repository import repo_root
from feature_repo.simulator import Simulation, history
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from streaming.worker import run

_SPAWN = multiprocessing.get_context("spawn")
_SERVE = """
import sys
from pathlib import Path
from extensions.serving import Settings, run
run(Settings(repo=Path.cwd(), port=int(sys.argv[1]), redis_deadline_ms=5_000))
"""


@dataclass(frozen=True)
class Bench:
    """Servers with a stored history, how much to send, and the servers' process ids."""

    settings: Settings
    users: int
    backlog: int
    published: int
    pages: int
    seconds: float
    broker: str
    postgres: int
    redis: int


@contextmanager
def servers(*, quick: bool) -> Iterator[Bench]:
    """PostgreSQL and Valkey as durable as in production, and Apache Kafka where it runs."""
    genuine = apache_kafka.available() is None
    users = 2_000 if quick else 100_000
    simulation = Simulation(
        users=users, items=ITEMS, days=60, events=100_000 if quick else 5_000_000
    )
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside:
        running = []
        try:
            database = postgres.start(Path(folder) / "postgres")
            running.append(database)
            cache = valkey.start(Path(folder) / "valkey")
            running.append(cache)
            os.environ |= {POSTGRES_VARIABLE: database.url, REDIS_VARIABLE: cache.url}
            applying = beside.submit(_apply, database.url)
            kafka = (apache_kafka if genuine else tansu).start(Path(folder) / "kafka")
            running.append(kafka)
            applying.result()
            table = declared_sources(database.url, repo_root()).table("watch_events")
            bulk_load.load(database.url, table, history(simulation))
            with connect(database.url, autocommit=True) as conn:
                conn.execute("VACUUM ANALYZE")
                # What the first sweep would compute for everybody is another benchmark's matter.
                conn.execute(
                    "INSERT INTO stream_sweeps "
                    "SELECT view, 1, clock_timestamp(), clock_timestamp() "
                    "FROM unnest(ARRAY['user_watch_stats', 'user_item_progress']) AS v (view)"
                )
            settings = Settings(
                database.url, kafka.url, topic="bench", group="bench", session_timeout=6.0
            )
            ensure_topics(settings)
            yield Bench(
                settings,
                users,
                30_000 if quick else 500_000,
                1_000 if quick else 10_000,
                3_000 if quick else 20_000,
                3.0 if quick else 60.0,
                "Apache Kafka" if genuine else "Tansu",
                database.process.pid,
                cache.process.pid,
            )
        finally:
            for server in reversed(running):
                server.stop()


def _apply(url: str) -> None:
    prepare_database(url)
    config = load_repo_config(repo_root(), repo_root() / "feature_store.yaml")
    apply_total(config, repo_root(), skip_source_validation=False)


@contextmanager
def worker(settings: Settings) -> Iterator[int]:
    """One worker in a process of its own, until the block ends; its process id."""
    started = _SPAWN.Process(target=run, args=(settings,), daemon=True)
    started.start()
    assert started.pid is not None
    try:
        yield started.pid
    finally:
        started.terminate()
        started.join(30)


@contextmanager
def load(bench: Bench, rate: float, events: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Events at ``rate`` a second (0: as fast as they go) until the block ends, or ``events``."""
    started = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.streaming_load", bench.settings.kafka_bootstrap,
         bench.settings.topic, str(bench.users), str(rate), str(events)],
        cwd=repo_root(),
    )  # fmt: skip
    try:
        yield started
    finally:
        started.terminate()
        started.wait(20)


def stored(conn: Any) -> int:
    """Messages that are stored, by the offsets that came with them."""
    row = conn.execute(
        "SELECT coalesce(sum(next_offset), 0)::bigint FROM stream_offsets"
    ).fetchone()
    return int(row[0])


def lag(conn: Any) -> int:
    """Messages that are with the broker and not stored, as of the worker's last look."""
    row = conn.execute(
        "SELECT coalesce(sum(greatest(end_offset - next_offset, 0)), 0)::bigint FROM stream_offsets"
    ).fetchone()
    return int(row[0])


class Client:
    """One connection to our HTTP server."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def features(self, user: int) -> dict[str, Any]:
        """What a home page is served of a user."""
        self._connection.request("GET", f"/v1/features/user/{user}")
        reply = self._connection.getresponse()
        body = json.loads(reply.read())
        assert reply.status == 200, body
        found: dict[str, Any] = body["features"]
        return found


@dataclass(frozen=True)
class Server:
    """Our HTTP server: where it answers, and its process id."""

    port: int
    pid: int


@contextmanager
def http_server() -> Iterator[Server]:
    """Our HTTP server on the same servers, ready."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(port)], cwd=repo_root(), stdout=log, stderr=log
        )
        try:
            _ready(port, started)
            yield Server(port, started.pid)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read().decode()[-3000:])
            raise
        finally:
            started.terminate()
            started.wait(20)


def _ready(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 240
    while time.monotonic() < until and server.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError("The HTTP server did not become ready.")


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """Processor time of a process so far; with ``children``, those that ended and live ones too."""
    tick = os.sysconf("SC_CLK_TCK")
    own = _stat(pid)
    total = own[11] + own[12]
    if children:
        total += own[13] + own[14]
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                child = _stat(int(folder.name))
            except OSError:  # it ended meanwhile
                continue
            if child[1] == pid:
                total += child[11] + child[12]
    return total / tick


def _stat(pid: int) -> list[int]:
    """The fields of /proc/PID/stat after the name, in order; letters as 0."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) if field.lstrip("-").isdigit() else 0 for field in fields]

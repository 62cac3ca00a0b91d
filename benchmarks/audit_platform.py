"""A store that lives: a stream with late and repeated events, ticks, versions, a killed worker."""

import json
import os
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pyarrow as pa
from kafka import KafkaProducer

from benchmarks.audit_programs import Programs, ingest, refresh, serve
from benchmarks.versions_setup import REPO, Ours
from extensions import addresses
from extensions.database import connect
from extensions.history.bulk_load import load
from extensions.history.declared_tables import declared_sources
from extensions.history.file_import import import_file
from extensions.history.simulate import simulate
from extensions.local import apache_kafka
from extensions.local.ports import free_port
from extensions.local.stack import Stack
from extensions.operations.database_setup import prepare_database
from extensions.versions.promotion import promote, rollback
from feature_repo.simulator import EVENT_SCHEMA, Simulation
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings

USERS, ITEMS, RANKED = 2_000, 500, 100
TOPIC, PROJECT = "watch-events", "skewless"
# Both are promoted and rolled back: one is computed by the stream, the other by ticks.
VERSIONED = ("user_watch_stats", "item_stats")
WORKERS = 2
TICK_EVERY = 5.0
# Events that are loaded at once beside the stream, and as many that are imported from a file.
BESIDE = 400


@dataclass
class Store:
    """A store and the processes around it. ``killed``: exit codes of workers that were killed."""

    root: Path
    url: str
    conn: psycopg.Connection
    http: httpx.Client
    programs: Programs
    workers: list[BaseProcess]
    ticks: BaseProcess
    kafka: str
    genuine: bool
    killed: list[int | None] = field(default_factory=list)

    def kill_a_worker(self) -> None:
        """And start another in its place; only genuine Apache Kafka gives its partitions over."""
        if self.genuine:
            victim = self.workers.pop(0)
            self.programs.kill(victim)
            self.killed.append(victim.exitcode)
            self.workers.append(self.programs.start(ingest))

    def promote(self) -> None:
        """The second versions become the default."""
        for view in VERSIONED:
            promote(self.conn, PROJECT, view, 2, reason="benchmark")

    def roll_back(self) -> None:
        """The first ones are the default again."""
        for view in VERSIONED:
            rollback(self.conn, PROJECT, view, reason="benchmark")

    def load(self) -> None:
        """Events that claim to have arrived some seconds ago, which nobody has searched for."""
        at = datetime.now(UTC) - timedelta(seconds=3)
        columns = [
            [f"beside the stream {n}" for n in range(BESIDE)], list(range(1, BESIDE + 1)),
            [1 + n % ITEMS for n in range(BESIDE)], [at] * BESIDE, [at] * BESIDE,
            [120_000] * BESIDE, [0.5] * BESIDE,
        ]  # fmt: skip
        arrays = [pa.array(c, f.type) for c, f in zip(columns, EVENT_SCHEMA, strict=True)]
        table = declared_sources(self.url, REPO).table("watch_events")
        load(self.url, table, [pa.record_batch(arrays, schema=EVENT_SCHEMA)])

    def import_a_file(self) -> None:
        """Events of the days before, without arrivals: they are known from now on."""
        path, now = self.root.parent / "beside.csv", datetime.now(UTC)
        lines = [
            f"beside: from a file {n},{USERS - n},{1 + n % ITEMS},"
            f"{(now - timedelta(hours=n % 96)).isoformat()},2"
            for n in range(BESIDE)
        ]
        header = "event_id,user_id,item_id,watched_at,duration_min"
        path.write_text("\n".join([header, *lines]))
        table = declared_sources(self.url, REPO).table("watch_events")
        assert import_file(self.url, table, path).inserted == BESIDE

    def rank(self, rng: random.Random) -> None:
        """A ranking and a home page; some of the users and items are known to nobody."""
        user = rng.randrange(1, USERS + 50)
        body = {"userId": user, "itemIds": rng.sample(range(1, ITEMS + 5), RANKED),
                "context": {"requestHour": rng.randrange(24)}}  # fmt: skip
        self.http.post("/v1/features/rank", json=body).raise_for_status()
        self.http.get(f"/v1/features/user/{user}").raise_for_status()

    def quiet(self) -> None:
        """End all that computes; the server goes on."""
        self.programs.stop(*self.workers, self.ticks)

    def number(self, query: str, *values: Any) -> int:
        """One number of the database."""
        row = self.conn.execute(query, values).fetchone()
        return int(row[0]) if row else 0


@contextmanager
def living() -> Iterator[Store]:
    """History, two published versions of two views, workers, ticks, and a server that logs all."""
    genuine = apache_kafka.available() is None
    forkserver.ensure_running()  # it imports for all programs while servers start
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        broker = "apache" if genuine else "tansu"
        stack = exits.enter_context(Stack(folder / "home", kafka=broker))  # type: ignore[arg-type]
        environment = stack.environ()
        os.environ.update({name: environment[name] for name in addresses.VARIABLES.values()})
        url, kafka = stack.addresses.postgres, stack.addresses.kafka
        prepare_database(url, REPO)
        until = datetime.now(UTC) - timedelta(minutes=10)
        history = Simulation(users=USERS, items=ITEMS, days=30, events=60_000, until=until)
        simulate(url, history, declared_sources(url, REPO))
        conn = exits.enter_context(connect(url, autocommit=True))
        ours = Ours(folder / "repository", url)
        ours.publish_first(conn)
        ours.publish_second(conn)
        ensure_topics(Settings(url, kafka, topic=TOPIC))
        programs = exits.enter_context(Programs(ours.root, environment))
        port = free_port()
        programs.start(serve, port)
        ticks = programs.start(refresh, TICK_EVERY)
        workers = [programs.start(ingest) for _ in range(WORKERS)]
        base = f"http://127.0.0.1:{port}"
        wait_for(lambda: _ready(base), 180, "the server")
        http = exits.enter_context(httpx.Client(base_url=base, timeout=30))
        yield Store(ours.root, url, conn, http, programs, workers, ticks, kafka, genuine)


class Stream(threading.Thread):
    """Events of now; some are late by up to a day, some come twice, at once or after a while."""

    def __init__(self, kafka: str) -> None:
        super().__init__(daemon=True)
        self._kafka, self._stopping = kafka, threading.Event()
        self.events = self.late = self.repeated = 0

    def run(self) -> None:
        """Produce about a hundred events a second."""
        rng = random.Random(1)
        before: deque[tuple[bytes, bytes]] = deque(maxlen=500)
        producer = KafkaProducer(bootstrap_servers=self._kafka)
        while not self._stopping.is_set():
            late = rng.random() < 0.1
            back = timedelta(seconds=rng.randint(60, 86_400) if late else 0)
            user = rng.randrange(1, USERS + 1)
            event = {
                "eventId": f"audit-{self.events}", "userId": user,
                "itemId": rng.randrange(1, ITEMS + 1),
                # A second version counts no watch of less than a minute.
                "watchDurationMin": rng.choice([rng.uniform(0.1, 1), rng.uniform(1, 90)]),
                "progress": rng.random(), "watchedAt": (datetime.now(UTC) - back).isoformat(),
            }  # fmt: skip
            one = (str(user).encode(), json.dumps(event).encode())
            before.append(one)
            again = [one] * (rng.random() < 0.025) + [rng.choice(before)] * (rng.random() < 0.025)
            for key, value in (one, *again):
                producer.send(TOPIC, key=key, value=value)
            self.events += 1
            self.late += late
            self.repeated += len(again)
            time.sleep(0.01)
        producer.flush()
        producer.close()

    def stop(self) -> None:
        """All that was produced is with the broker then."""
        self._stopping.set()
        self.join(60)
        assert not self.is_alive()


def wait_for(true: Callable[[], Any], seconds: float, what: str) -> None:
    """Poll.

    Raises:
        TimeoutError: it did not come true.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Not within {seconds:g} s: {what}.")
        time.sleep(0.1)


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False

"""What the stream does: freshness under load, catching up, and the published design beside it.

The published design asks one COUNT per message and writes two keys with SETEX. It stands here in
Python, on the same servers: its figure is what that design costs, not what its language does.
"""

import multiprocessing
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import redis
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from benchmarks.report import Row, arguments, publish
from extensions.addresses import POSTGRES_VARIABLE, REDIS_VARIABLE, REPO_ROOT
from extensions.database import connect
from extensions.history.load import load_events
from extensions.history.simulate import history
from extensions.history.world import Simulation
from extensions.local import apache_kafka, postgres, tansu, valkey
from extensions.operations.prepare import prepare_database
from streaming.settings import Settings
from streaming.topics import ensure_topics
from streaming.worker import run

RATE = 500
PROBE_USER = 10**12


@dataclass(frozen=True)
class Bench:
    """Servers with a stored history, and how much to send."""

    settings: Settings
    users: int
    backlog: int
    published: int
    seconds: float
    broker: str


def main() -> None:
    """Run all parts on one stored history."""
    args = arguments(__doc__.splitlines()[0])
    rows: list[Row] = []
    with servers(quick=args.quick) as bench:
        ensure_topics(bench.settings)
        produce(bench.settings, bench.backlog, bench.users)
        stock = bench.published / published_design(bench)
        with worker(bench.settings):
            rows += catch_up(bench, stock)
            rows += freshness(bench)
    publish("streaming", rows, args)


@contextmanager
def servers(*, quick: bool) -> Iterator[Bench]:
    """PostgreSQL, Valkey and a broker: Apache Kafka where it runs, the small one if quick."""
    genuine = not quick and apache_kafka.available() is None
    users = 2_000 if quick else 100_000
    simulation = Simulation(
        users=users, items=5_000, days=60, events=100_000 if quick else 5_000_000
    )
    with tempfile.TemporaryDirectory() as folder:
        running = []
        try:
            database = postgres.start(Path(folder) / "postgres", durable=False)
            running.append(database)
            cache = valkey.start(Path(folder) / "valkey", durable=False)
            running.append(cache)
            kafka = (apache_kafka if genuine else tansu).start(Path(folder) / "kafka")
            running.append(kafka)
            os.environ |= {POSTGRES_VARIABLE: database.url, REDIS_VARIABLE: cache.url}
            prepare_database(database.url)
            apply_total(
                load_repo_config(REPO_ROOT, REPO_ROOT / "feature_store.yaml"),
                REPO_ROOT,
                skip_source_validation=False,
            )
            load_events(database.url, history(simulation))
            with connect(database.url, autocommit=True) as conn:
                conn.execute("VACUUM ANALYZE")
                # What the first sweep would compute for everybody is another benchmark's matter.
                conn.execute(
                    "INSERT INTO stream_sweeps "
                    "SELECT view, 1, clock_timestamp(), clock_timestamp() "
                    "FROM unnest(ARRAY['user_watch_stats', 'user_item_progress']) AS v (view)"
                )
            yield Bench(
                Settings(
                    database.url, kafka.url, topic="bench", group="bench", session_timeout=6.0
                ),
                users,
                50_000 if quick else 500_000,
                1_000 if quick else 10_000,
                10.0 if quick else 60.0,
                "Apache Kafka" if genuine else "Tansu",
            )
        finally:
            for server in reversed(running):
                server.stop()


def catch_up(bench: Bench, stock: float) -> list[Row]:
    """A backlog by our worker; ``stock`` is the published design's rate on a part of it."""
    with connect(bench.settings.postgres_url, autocommit=True) as conn:
        while (first := count(conn)) == 0:
            time.sleep(0.01)
        began = time.perf_counter()
        while (stored := count(conn)) < bench.backlog:
            time.sleep(0.05)
        ours = (stored - first) / (time.perf_counter() - began)
    return [
        Row(
            f"catch up with {bench.backlog:,} events ({bench.broker})",
            "events per second",
            "1/s",
            "higher",
            ours,
            stock,
            limit=8_000,
            why="limit: the figure to reach; stock: the published design, written in Python",
        )
    ]


def published_design(bench: Bench) -> float:
    """Seconds for COUNT, and SETEX twice, message by message."""
    consumer = KafkaConsumer(
        bootstrap_servers=bench.settings.kafka_bootstrap, auto_offset_reset="earliest"
    )
    partitions = [
        TopicPartition(bench.settings.topic, number) for number in range(bench.settings.partitions)
    ]
    consumer.assign(partitions)
    cache = redis.Redis.from_url(os.environ[REDIS_VARIABLE])
    done = 0
    with connect(bench.settings.postgres_url, autocommit=True) as conn:
        began = time.perf_counter()
        while done < bench.published:
            for records in consumer.poll(1_000).values():
                for record in records[: bench.published - done]:
                    fields = orjson.loads(record.value)
                    user, item = fields["userId"], fields["itemId"]
                    row = conn.execute(
                        "SELECT count(*) FROM watch_events WHERE user_id = %s "
                        "AND watched_at > now() - interval '7 days'",
                        [user],
                    ).fetchone()
                    cache.setex(f"published:{user}:count", 300, row[0] if row else 0)
                    cache.setex(f"published:{user}:{item}:progress", 300, fields["progress"])
                    done += 1
        seconds = time.perf_counter() - began
    consumer.close()
    return seconds


def freshness(bench: Bench) -> list[Row]:
    """Produced until readable, probed from outside, while 500 other events a second arrive."""
    settings = bench.settings
    probes: list[float] = []
    stopping = threading.Event()
    background = threading.Thread(target=steady, args=(settings, bench.users, stopping))
    background.start()
    store = FeatureStore(str(REPO_ROOT))
    view = store.registry.get_feature_view("user_watch_stats", store.project)
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    until = time.monotonic() + bench.seconds
    try:
        while time.monotonic() < until:
            user = PROBE_USER + len(probes)
            began = time.perf_counter()
            producer.send(settings.topic, key=str(user).encode(), value=message(user, 1))
            while read_count(store, view, user) == 0:
                time.sleep(0.002)
            probes.append(time.perf_counter() - began)
            time.sleep(0.05)
    finally:
        stopping.set()
        background.join()
        producer.close()
    probes.sort()
    return [
        Row(
            f"freshness at {RATE} events/s, {bench.broker}: {name}",
            "produced until readable in Redis",
            "ms",
            "lower",
            1_000 * probes[min(len(probes) - 1, int(q * len(probes)))],
            limit=limit,
            runs=len(probes),
            why="limit: the figure to reach; read through Feast's online store, without HTTP",
        )
        for name, q, limit in (("p50", 0.5, 150.0), ("p99", 0.99, 700.0))
    ]


def read_count(store: FeatureStore, view: Any, user: int) -> int:
    """The user's count as Redis has it; 0 where there is none."""
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=user)])
    provider = store._get_provider()  # noqa: SLF001
    [(_, values)] = provider.online_read(store.config, view, [key], None)
    return int(values["user_watch_count_7d"].int64_val) if values else 0


def message(user: int, item: int) -> bytes:
    """An event of now."""
    fields = {"userId": user, "itemId": item, "watchDurationMin": 12.5, "progress": 0.5}
    return orjson.dumps(fields | {"watchedAt": datetime.now(UTC).isoformat()})


def produce(settings: Settings, events: int, users: int) -> None:
    """A backlog, keyed by user."""
    rng = random.Random(1)
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, linger_ms=20, batch_size=256 * 1024
    )
    for _ in range(events):
        user = rng.randrange(users) + 1
        producer.send(
            settings.topic, key=str(user).encode(), value=message(user, rng.randrange(5_000) + 1)
        )
    producer.flush()
    producer.close()


def steady(settings: Settings, users: int, stopping: threading.Event) -> None:
    """`RATE` events a second until told to stop."""
    rng = random.Random(2)
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap, linger_ms=5)
    began, sent = time.monotonic(), 0
    while not stopping.is_set():
        for _ in range(RATE // 50):
            user = rng.randrange(users) + 1
            producer.send(settings.topic, key=str(user).encode(), value=message(user, 1))
        sent += RATE // 50
        time.sleep(max(0.0, began + sent / RATE - time.monotonic()))
    producer.close()


@contextmanager
def worker(settings: Settings) -> Iterator[None]:
    """One worker in a process of its own, until the block ends."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(settings,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join(30)


def _work(settings: Settings) -> None:
    run(settings)


def count(conn: Any) -> int:
    """Stored events, by the offsets that came with them."""
    row = conn.execute(
        "SELECT coalesce(sum(next_offset), 0)::bigint FROM stream_offsets"
    ).fetchone()
    return int(row[0])


if __name__ == "__main__":
    main()

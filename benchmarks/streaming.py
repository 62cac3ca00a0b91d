"""What the stream does: catching up, keeping up, freshness over HTTP, and what it saves.

The published design asks one COUNT per message and writes two keys with SETEX. It stands here in
Python, on the same servers: its figure is what that design costs, not what its language does.
"""

import os
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import redis
from feast import FeatureStore
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from benchmarks.report import Row, arguments, publish
from benchmarks.streaming_load import message
from benchmarks.streaming_setup import (
    Bench,
    Client,
    Server,
    cpu_seconds,
    http_server,
    lag,
    load,
    servers,
    stored,
    worker,
)
from extensions.addresses import REDIS_VARIABLE
from extensions.asof import Computation, Spine, compute, load_computations
from extensions.asof.tick import tick
from extensions.database import connect, connect_arrow
from extensions.repository import repo_root
from extensions.stores.log_publishing import publish as publish_log

CATCH_UP, SUSTAINED, RATE = 8_000, 5_000, 500
PROBE_USER = 10**12
# What an hour's visit is: the pages that a user sees, and what the user watches meanwhile.
VISIT_PAGES, VISIT_EVENTS = 30, 3
CONNECTIONS = 8
HOME_PAGE = ("user_watch_stats.v1", "user_preferences.v1", "user_habits.v1")


def main() -> None:
    """Run all parts on one stored history."""
    args = arguments(__doc__.splitlines()[0])
    rows: list[Row] = []
    with ExitStack() as stack:
        bench = stack.enter_context(servers(quick=args.quick))
        producing = stack.enter_context(load(bench, rate=0, events=bench.backlog))
        server = stack.enter_context(http_server())
        producing.wait()
        with worker(bench.settings) as pid:
            caught_up = catch_up(bench)
            kept_up = keep_up(bench)
            fresh = freshness(bench, server)
            costs = cost(bench, server, pid)
        stock = published_design(bench)
        why = "stock: the published design, in Python, on the same servers and messages"
        broker = bench.broker
        rows += [
            Row(
                f"catch up with {bench.backlog:,} events, {broker}", "events stored and served",
                "1/s", "higher", caught_up, stock.rate, CATCH_UP, equal=stock.equal,
                why=f"{why}; limit: the figure to reach",
            ),
            Row(
                f"keep up with {SUSTAINED:,} events/s, {broker}", "events stored and served",
                "1/s", "higher", kept_up.rate, stock.rate, SUSTAINED, equal=stock.equal,
                why="limit: what is produced; stock as above",
            ),
            Row(
                f"keep up with {SUSTAINED:,} events/s, {broker}", "lag",
                "events", "lower", kept_up.later,
                limit=kept_up.earlier, spread=(min(kept_up.lags), max(kept_up.lags)),
                why="ours: the median of the second half, limit: of the first; it must not grow",
            ),
            *fresh,
            *costs,
        ]  # fmt: skip
    publish("streaming", rows, args)


def catch_up(bench: Bench) -> float:
    """A backlog by one worker, from its first step; events per second."""
    with connect(bench.settings.postgres_url, autocommit=True) as conn:
        while (first := stored(conn)) == 0:
            time.sleep(0.01)
        began = time.perf_counter()
        while (now := stored(conn)) < bench.backlog:
            time.sleep(0.02)
        return (now - first) / (time.perf_counter() - began)


@dataclass(frozen=True)
class KeptUp:
    """Events stored per second while `SUSTAINED` were produced, and the lag all along."""

    rate: float
    lags: list[float]

    @property
    def earlier(self) -> float:
        """The median lag of the first half."""
        return max(1.0, statistics.median(self.lags[: len(self.lags) // 2]))

    @property
    def later(self) -> float:
        """The median lag of the second half."""
        return max(1.0, statistics.median(self.lags[len(self.lags) // 2 :]))


def keep_up(bench: Bench) -> KeptUp:
    """Produced and stored at once, for a while."""
    settings, lags = bench.settings, []
    with (
        connect(settings.postgres_url, autocommit=True) as conn,
        load(bench, SUSTAINED),
    ):
        start = stored(conn)
        while stored(conn) < start + SUSTAINED:  # it has imported everything and is at its rate
            time.sleep(0.05)
        first, began = stored(conn), time.perf_counter()
        while (seconds := time.perf_counter() - began) < bench.seconds:
            lags.append(float(lag(conn)))
            time.sleep(0.25)
        rate = (stored(conn) - first) / seconds
    _settle(bench)
    return KeptUp(rate, lags)


def freshness(bench: Bench, server: Server) -> list[Row]:
    """Produced until readable over HTTP, probed while 500 other events a second arrive."""
    settings = bench.settings
    probes: list[float] = []
    client = Client(server.port)
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    with (
        connect(settings.postgres_url, autocommit=True) as conn,
        load(bench, RATE),
    ):
        start = stored(conn)
        while stored(conn) < start + RATE:
            time.sleep(0.05)
        until = time.monotonic() + bench.seconds
        while time.monotonic() < until:
            user = PROBE_USER + len(probes)
            began = time.perf_counter()
            producer.send(settings.topic, key=str(user).encode(), value=message(user, 1))
            while client.features(user)["user_watch_count_7d"] == 0:
                time.sleep(0.001)
            probes.append(time.perf_counter() - began)
            time.sleep(0.05)
    producer.close()
    _settle(bench)
    probes.sort()
    return [
        Row(
            f"freshness at {RATE} events/s, {bench.broker}: {name}",
            "produced until readable over HTTP",
            "ms",
            "lower",
            1_000 * probes[min(len(probes) - 1, int(q * len(probes)))],
            limit=limit,
            runs=len(probes),
            why="limit: the figure to reach",
        )
        for name, q, limit in (("p50", 0.5, 150.0), ("p99", 0.99, 700.0))
    ]


def cost(bench: Bench, server: Server, worker_pid: int) -> list[Row]:
    """Processor seconds for 1,000 served requests of a user's four features, both ways.

    Precomputed: PostgreSQL, Redis and the worker while users visit, and then the hourly and the
    daily tick for these users. By SQL: PostgreSQL alone, the same computations asked for one user
    at each request.
    """
    settings = bench.settings
    computations = load_computations(repo_root())
    views = [computations[name] for name in HOME_PAGE]
    feast_store = FeatureStore(str(repo_root()))

    def spent() -> float:
        return (
            cpu_seconds(bench.postgres, children=True)
            + cpu_seconds(bench.redis)
            + cpu_seconds(worker_pid)
        )

    def ticks() -> float:
        began = time.process_time()
        for view in views[1:]:
            tick(conn, view)
            publish_log(feast_store, conn, view)
        return time.process_time() - began

    with connect(settings.postgres_url, autocommit=True) as conn:
        ticks()  # a state to go on from
        before = spent()
        visits = bench.pages // VISIT_PAGES
        target = stored(conn) + visits * VISIT_EVENTS
        _visit(bench, server, visits)
        while stored(conn) < target:
            time.sleep(0.05)
        _settle(bench)
        own = ticks()
        ours = spent() - before + own

        pages, asked = visits * VISIT_PAGES, 300
        client = Client(server.port)
        with connect_arrow(settings.postgres_url) as arrow:
            before = cpu_seconds(bench.postgres, children=True)
            answers = [_by_sql(conn, arrow, views, user + 1) for user in range(asked)]
            theirs = cpu_seconds(bench.postgres, children=True) - before
        equal = all(_same(answer, client.features(user + 1)) for user, answer in enumerate(answers))
    precomputed, by_sql = 1_000 * ours / pages, 1_000 * theirs / asked
    return [
        Row(
            "1,000 home pages, precomputed against SQL at each request",
            "CPU seconds of database, Redis, worker and ticks",
            "s",
            "lower",
            precomputed,
            by_sql,
            limit=0.06 * by_sql,
            runs=asked,
            equal=equal,
            why=f"{100 * (1 - precomputed / by_sql):.1f} % less; limit: the published 94 % less; "
            f"visits of {VISIT_PAGES} pages and {VISIT_EVENTS} events",
        )
    ]


def _visit(bench: Bench, server: Server, visits: int) -> None:
    """Users see their pages and watch meanwhile, `CONNECTIONS` at once."""
    producer = KafkaProducer(bootstrap_servers=bench.settings.kafka_bootstrap, linger_ms=5)
    local = threading.local()

    def visit(number: int) -> None:
        if not hasattr(local, "client"):
            local.client = Client(server.port)
        user = number % bench.users + 1
        for page in range(VISIT_PAGES):
            if page % (VISIT_PAGES // VISIT_EVENTS) == 0:
                value = message(user, page + 1)
                producer.send(bench.settings.topic, key=str(user).encode(), value=value)
            local.client.features(user)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(visit, range(visits)))
    producer.close()


def _by_sql(conn: Any, arrow: Any, views: list[Computation], user: int) -> dict[str, Any]:
    """The four features as the computations answer them now."""
    [now] = conn.execute("SELECT clock_timestamp()").fetchone()
    found: dict[str, Any] = {}
    for view in views:
        [row] = compute(arrow, view, Spine.of([(user, now)], view)).to_pylist()
        found |= {feature.name: row[feature.name] for feature in view.features}
    return found


def _same(answer: dict[str, Any], served: dict[str, Any]) -> bool:
    """Whether a page shows what SQL says; float32 survive JSON to the seventh digit."""
    for name, value in answer.items():
        left = value if isinstance(value, list) else [value]
        right = served[name] if isinstance(served[name], list) else [served[name]]
        if len(left) != len(right) or any(
            abs(a - b) > 1e-6 * max(1.0, abs(a)) for a, b in zip(left, right, strict=True)
        ):
            return False
    return True


@dataclass(frozen=True)
class Published:
    """The published design: messages per second, and whether its values are ours."""

    rate: float
    equal: bool


def published_design(bench: Bench) -> Published:
    """COUNT, and SETEX twice, message by message, after all events have been stored."""
    settings = bench.settings
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest"
    )
    consumer.assign([TopicPartition(settings.topic, n) for n in range(settings.partitions)])
    cache = redis.Redis.from_url(os.environ[REDIS_VARIABLE])
    done, users = 0, set()
    with connect(settings.postgres_url, autocommit=True) as conn:
        consumer.poll(10_000, max_records=1)  # it has found its brokers
        began = time.perf_counter()
        while done < bench.published:
            for records in consumer.poll(1_000).values():
                for record in records[: bench.published - done]:
                    fields = orjson.loads(record.value)
                    user, item = fields["userId"], fields["itemId"]
                    cache.setex(f"published:{user}:count", 300, _count(conn, user))
                    cache.setex(f"published:{user}:{item}:progress", 300, fields["progress"])
                    users.add(user)
                    done += 1
        seconds = time.perf_counter() - began
        equal = _equal(conn, cache, sorted(users)[:1_000])
    consumer.close()
    return Published(bench.published / seconds, equal)


def _count(conn: Any, user: int) -> int:
    row = conn.execute(
        "SELECT count(*) FROM watch_events WHERE user_id = %s "
        "AND watched_at > now() - interval '7 days' AND watched_at <= now()",
        [user],
    ).fetchone()
    return int(row[0])


def _equal(conn: Any, cache: Any, users: list[int]) -> bool:
    """Whether our log's latest counts are the published ones, but where the week moved on."""
    theirs = cache.mget([f"published:{user}:count" for user in users])
    ours = dict(
        conn.execute(
            "SELECT DISTINCT ON (user_id) user_id, user_watch_count_7d FROM user_watch_stats_v1 "
            "WHERE user_id = ANY(%s) ORDER BY user_id, event_timestamp DESC",
            [users],
        ).fetchall()
    )
    return all(
        value is None or ours[user] in (int(value), _count(conn, user))
        for user, value in zip(users, theirs, strict=True)
    )


def _settle(bench: Bench) -> None:
    """Wait until all that was produced is stored and swept."""
    time.sleep(bench.settings.idle_every)
    with connect(bench.settings.postgres_url, autocommit=True) as conn:
        while lag(conn) > 0:
            time.sleep(0.1)
    time.sleep(bench.settings.sweep_every + bench.settings.idle_every)


if __name__ == "__main__":
    main()

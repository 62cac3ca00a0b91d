"""The worker's threads: an outage is waited out by each, whatever class it is raised as; one that
dies of anything else takes the worker with it, and liveness says what is alive.
"""

import urllib.request
from collections.abc import Callable
from dataclasses import replace

import adbc_driver_manager
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy
from adbc_driver_postgresql import dbapi
from kafka.errors import KafkaConnectionError
from prometheus_client.exposition import ThreadingWSGIServer
from redis.exceptions import ClusterDownError, OutOfMemoryError, SlotNotCoveredError
from redis.exceptions import ConnectionError as RedisConnectionError

from extensions import thread_supervision
from extensions.errors import SkewlessError
from extensions.local.ports import free_port
from streaming.processing import time_sweep
from streaming.processing.time_sweep import Sweeper
from streaming.settings import Settings
from streaming.worker_metrics import MetricFamilies, WorkerMetrics
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.test_worker import event, send
from tests.streaming.truth import Stream


def _adbc() -> Exception:
    with pytest.raises(adbc_driver_manager.Error) as caught:
        dbapi.connect("postgresql://127.0.0.1:1/nobody")
    return caught.value


def _caused() -> Exception:
    error = SkewlessError("PostgreSQL's connection broke.")
    error.__cause__ = _adbc()
    return error


OUTAGES: dict[str, Callable[[], BaseException]] = {
    "adbc": _adbc,
    "arrow memory": lambda: pa.lib.ArrowMemoryError("malloc of size 64 failed"),
    "psycopg": lambda: psycopg.OperationalError("consuming input failed"),
    "disk full": lambda: psycopg.errors.DiskFull("could not extend file"),
    "registry": lambda: sqlalchemy.exc.OperationalError("", {}, psycopg.errors.AdminShutdown()),
    "redis": lambda: RedisConnectionError("Connection refused"),
    "redis full": lambda: OutOfMemoryError("command not allowed"),
    "cluster": lambda: SlotNotCoveredError("Slot 1 not covered"),
    "cluster down": lambda: ClusterDownError("CLUSTERDOWN The cluster is down"),
    "kafka": lambda: KafkaConnectionError("closed"),
    "behind a sentence": _caused,
}


@pytest.mark.parametrize("name", OUTAGES)
def test_the_sweeper_waits_out_every_kind_of_outage(
    name: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, calls, metrics = Stream(settings).views, [], WorkerMetrics()
    metrics.retries.labels("sweep")
    before = _retries(metrics)  # Feast may make all registries of a process count in one file

    def failing(*_: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            error = OUTAGES[name]()
            raise error

    monkeypatch.setattr(time_sweep, "sweep", failing)
    sweeper = Sweeper(replace(settings, sweep_every=0.05), views, object(), metrics)  # type: ignore[arg-type]
    sweeper.start()
    wait_until(lambda: len(calls) > 1 + len(views), 20, "it sweeps again")
    assert sweeper.is_alive()
    sweeper.check()
    sweeper.stop()
    assert _retries(metrics) == before + 1


def _retries(metrics: WorkerMetrics) -> float:
    labels = {"stream": "", "cause": "sweep"}
    return metrics.registry.get_sample_value("skewless_stream_retries_total", labels) or 0.0


def test_a_sweeper_that_fails_unforeseen_ends_the_worker(settings: Settings, fleet: Fleet) -> None:
    """Until it is started again: windows that move by time must not stand still unseen."""
    worker = fleet.start("sweep-logged:1:raise")
    worker.join(60)
    assert worker.exitcode not in (None, 0)


def test_a_step_that_fails_unforeseen_ends_the_worker_and_another_ends_the_step(
    settings: Settings, fleet: Fleet
) -> None:
    stream = Stream(settings)
    worker = fleet.start("values-logged:1:raise")
    wait_until(stream.at_rest, 60, "a worker has every partition")
    send(settings, [event(1, eventId="a"), event(2, eventId="b")])
    worker.join(60)
    assert worker.exitcode not in (None, 0)
    assert stream.pending(), "the step was not ended"
    fleet.start()
    # Rest alone would not do: it allows for seconds, and the step has just been cut short.
    wait_until(
        lambda: not stream.pending() and stream.at_rest(), 150, "another worker ends the step"
    )
    stream.assert_served()


def test_liveness_names_each_thread_and_when_it_last_worked(
    settings: Settings, fleet: Fleet
) -> None:
    port = free_port()
    fleet.start(metrics_port=port)
    stream = Stream(settings)
    wait_until(stream.at_rest, 60, "a worker has every partition")

    def told() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    first, of = told(), 'stream="watch_events_stream"'
    for thread in ("sweeper", "watchdog"):
        assert first[f'skewless_stream_thread_alive{{{of},thread="{thread}"}}'] == 1
    works = [f'skewless_stream_last_seconds{{{of},work="{work}"}}' for work in ("turn", "sweep")]
    wait_until(lambda: all(told()[one] > first[one] for one in works), 20, "both move on")


def test_the_metrics_are_answered_again_after_their_thread_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_supervision, "PAUSE_FIRST", 0.01)
    families, port = MetricFamilies(), free_port()
    failures: list[int] = []

    def failing(_: object) -> None:
        failures.append(1)
        if len(failures) <= 2:
            raise KeyError("unforeseen")

    monkeypatch.setattr(ThreadingWSGIServer, "service_actions", failing, raising=False)
    families.serve(replace(settings, metrics_port=port))
    wait_until(lambda: len(failures) > 3, 20, "it serves on")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        assert b'skewless_stream_thread_alive{stream="",thread="metrics"} 1.0' in reply.read()
    with pytest.raises(SkewlessError, match="choose another --metrics-port"):
        MetricFamilies().serve(replace(settings, metrics_port=port))


def test_streams_of_one_process_are_counted_apart(database: str) -> None:
    """Partition 0 is one of each topic: what one stream says of it, the other must not hide."""
    families = MetricFamilies()
    views, orders = (WorkerMetrics(stream, families) for stream in ("views", "orders"))
    views.events.inc(5)
    orders.events.inc(2)
    orders.dead_letters.labels("not-avro").inc()
    views.lag.labels("0").set(900)
    orders.lag.labels("0").set(0)
    views.stopped.labels("0").set(1)
    orders.stopped.labels("0").set(0)
    views.watch("sweeper", lambda: False)
    orders.watch("sweeper", lambda: True)

    def told(name: str, stream: str, **labels: str) -> float | None:
        labels["stream"] = stream
        return families.registry.get_sample_value(f"skewless_stream_{name}", labels)

    for name, label in (("lag_records", "partition"), ("stopped", "partition")):
        assert told(name, "views", **{label: "0"}) > 0
        assert told(name, "orders", **{label: "0"}) == 0
    assert told("thread_alive", "views", thread="sweeper") == 0
    assert told("thread_alive", "orders", thread="sweeper") == 1
    with psycopg.connect(database, autocommit=True) as conn:
        for metrics in (views, orders):
            settings = Settings(
                postgres_url=database, kafka_bootstrap="none", stream=metrics.stream,
                topic=metrics.stream, group="g", worker=metrics.stream,
            )  # fmt: skip
            metrics.report(conn, settings, [0])
        rows = conn.execute(
            "SELECT topic, events, dead_letters FROM stream_workers ORDER BY topic"
        ).fetchall()
    assert rows == [("orders", 2, 1), ("views", 5, 0)]

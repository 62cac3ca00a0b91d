"""What the worker says of itself: Prometheus metrics, and a row that `skewless status` reads."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psycopg
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from extensions.errors import ConfigurationError
from extensions.thread_supervision import Lasting
from streaming.settings import Settings

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.7, 1, 2.5, 5, 15, 60, 300, 3600)
_SIZES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
_REMEMBERED = 20_000
OBSERVED_PER_STEP = 100
Metric = TypeVar("Metric", Counter, Gauge, Histogram)


class _Quiet(WSGIRequestHandler):
    """Says nothing of each scrape."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


class MetricFamilies:
    """A process's Prometheus metrics; each has the label ``stream``, whose workers it counts."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def of(kind: type[Metric], name: str, text: str, *labels: str, **more: Any) -> Metric:
            return kind(
                f"skewless_stream_{name}", text, ["stream", *labels], registry=registry, **more
            )

        self.events = of(Counter, "events", "Events stored.")
        self.duplicates = of(Counter, "duplicates", "Events whose id was stored before.")
        self.dead_letters = of(Counter, "dead_letters", "Messages rejected.", "reason")
        self.steps = of(Counter, "steps", "Steps finished.")
        self.retries = of(Counter, "retries", "Steps and sweeps cut short.", "cause")
        self.view_failures = of(Counter, "view_failures", "Computations that failed.", "view")
        self.refused = of(
            Gauge, "refused_entities", "Entities that a view goes on without.", "view"
        )
        self.values = of(Counter, "values", "Values logged and published.", "view")
        self.batch = of(Histogram, "batch_records", "Records in a step.", buckets=_SIZES)
        self.step_seconds = of(Histogram, "step_seconds", "Duration of a step.", buckets=_SECONDS)
        self.freshness = of(
            Histogram, "freshness_seconds", "Produced until readable in Redis.", buckets=_SECONDS
        )
        self.event_age = of(
            Histogram, "event_age_seconds", "Happened until readable in Redis.", buckets=_SECONDS
        )
        self.lag = of(Gauge, "lag_records", "Records not read yet.", "partition")
        self.stopped = of(
            Gauge, "stopped", "Whether a partition stands still before a batch.", "partition"
        )
        self.alive = of(Gauge, "thread_alive", "Whether a thread of the worker lives.", "thread")
        self.last = of(
            Gauge,
            "last_seconds",
            "When the loop last turned, and the sweeper last went through all views, Unix time.",
            "work",
        )
        self.watermark = of(Gauge, "watermark_seconds", "Watermark, Unix time.", "partition")

    def serve(self, settings: Settings) -> None:
        """Answer Prometheus on ``metrics_port``, where one is set; a failure begins anew.

        Raises:
            ConfigurationError: the port is taken.
        """
        if settings.metrics_port is None:
            return
        listening = [self._listen(settings)]

        def answer() -> None:
            with listening.pop() if listening else self._listen(settings) as server:
                server.serve_forever()

        thread = Lasting("metrics", answer, threading.Event())
        thread.start()
        self.alive.labels("", thread.name).set_function(thread.is_alive)

    def _listen(self, settings: Settings) -> ThreadingWSGIServer:
        assert settings.metrics_port is not None
        try:
            return make_server(
                settings.metrics_host, settings.metrics_port, make_wsgi_app(self.registry),
                ThreadingWSGIServer, _Quiet,
            )  # fmt: skip
        except OSError as error:
            raise ConfigurationError(
                f"Cannot answer Prometheus on {settings.metrics_host}:{settings.metrics_port} "
                f"({error.strerror}): choose another --metrics-port."
            ) from None


class _OfStream:
    """A metric with further labels, of one stream."""

    def __init__(self, family: Any, stream: str) -> None:
        self.labels: Callable[..., Any] = partial(family.labels, stream)


class WorkerMetrics:
    """Metrics of one stream's worker.

    Freshness counts from the record's time in Kafka until Redis has answered; the event's age from
    when it happened, so it holds what producers took as well.

    Args:
        stream: The stream's name, the label of all that is counted here.
        families: The process's; workers of several streams in one process share them.
    """

    def __init__(self, stream: str = "", families: MetricFamilies | None = None) -> None:
        self.stream, self.families = stream, families or MetricFamilies()
        own = self.families
        self.events, self.duplicates = own.events.labels(stream), own.duplicates.labels(stream)
        self.steps, self.batch = own.steps.labels(stream), own.batch.labels(stream)
        self.step_seconds = own.step_seconds.labels(stream)
        self.freshness, self.event_age = own.freshness.labels(stream), own.event_age.labels(stream)
        self.dead_letters = _OfStream(own.dead_letters, stream)
        self.retries = _OfStream(own.retries, stream)
        self.refused = _OfStream(own.refused, stream)
        self.view_failures = _OfStream(own.view_failures, stream)
        self.values = _OfStream(own.values, stream)
        self.lag, self.watermark = _OfStream(own.lag, stream), _OfStream(own.watermark, stream)
        self.stopped = _OfStream(own.stopped, stream)
        self.alive, self.last = _OfStream(own.alive, stream), _OfStream(own.last, stream)
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def registry(self) -> CollectorRegistry:
        """Where all metrics of the process are found."""
        return self.families.registry

    def watch(self, thread: str, alive: Callable[[], bool]) -> None:
        """Show whether the thread lives, whenever somebody asks."""
        self.alive.labels(thread).set_function(alive)

    def worked(self, work: str) -> None:
        """The ``turn`` or the ``sweep`` has come to its end."""
        self.last.labels(work).set_to_current_time()

    def fresh(self, now: float, produced: Sequence[float], watched: Sequence[float]) -> None:
        """Note how old events were at ``now``, when their values could be read.

        Unix times in seconds, of an even sample of the events.
        """
        ages = [max(0.0, now - at) for at in produced]
        for age in ages:
            self.freshness.observe(age)
        self._recent.extend(ages)
        for at in watched:
            self.event_age.observe(max(0.0, now - at))

    def quantile_ms(self, q: float) -> float | None:
        """A quantile of the remembered freshness, in milliseconds."""
        if not self._recent:
            return None
        ordered = sorted(self._recent)
        return 1000 * ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]

    def report(
        self, conn: psycopg.Connection, settings: Settings, partitions: Iterable[int]
    ) -> None:
        """Write this worker's row for `skewless status`; forget workers gone for a day."""
        own = self.families
        conn.execute(
            "INSERT INTO stream_workers (worker, consumer_group, topic, partitions, events, "
            "duplicates, dead_letters, steps, retries, freshness_p50_ms, freshness_p99_ms) "
            "VALUES (%s, %s, %s, %s::int[], %s, %s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (worker) DO UPDATE SET seen_at = clock_timestamp(), "
            "consumer_group = excluded.consumer_group, topic = excluded.topic, "
            "partitions = excluded.partitions, events = excluded.events, "
            "duplicates = excluded.duplicates, dead_letters = excluded.dead_letters, "
            "steps = excluded.steps, retries = excluded.retries, "
            "freshness_p50_ms = excluded.freshness_p50_ms, "
            "freshness_p99_ms = excluded.freshness_p99_ms",
            [
                *(settings.worker, settings.group, settings.topic, sorted(partitions)),
                *(self._total(own.events), self._total(own.duplicates)),
                *(self._total(own.dead_letters), self._total(own.steps), self._total(own.retries)),
                *(self.quantile_ms(0.5), self.quantile_ms(0.99)),
            ],
        )
        conn.execute(
            "DELETE FROM stream_workers WHERE seen_at < clock_timestamp() - interval '24 hours'"
        )

    def forget(self, conn: psycopg.Connection, settings: Settings) -> None:
        """Take this worker's row away: it has stopped in an orderly way."""
        conn.execute("DELETE FROM stream_workers WHERE worker = %s", [settings.worker])

    def _total(self, family: Counter) -> int:
        """The stream's count over all further labels."""
        return int(
            sum(
                sample.value
                for metric in family.collect()
                for sample in metric.samples
                if sample.name.endswith("_total") and sample.labels["stream"] == self.stream
            )
        )

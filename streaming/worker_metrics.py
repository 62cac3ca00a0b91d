"""What the worker says of itself: Prometheus metrics, and a row that `skewless status` reads."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
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


class _Quiet(WSGIRequestHandler):
    """Says nothing of each scrape."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


@dataclass
class WorkerMetrics:
    """Counters of one worker. Freshness: the record's time in Kafka until Redis has answered.

    The event's age counts from when it was watched, so it holds what producers took as well.
    """

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"skewless_stream_{name}", text, labels, registry=self.registry)

        self.events = counter("events", "Watch events stored.")
        self.duplicates = counter("duplicates", "Events whose id was stored before.")
        self.dead_letters = counter("dead_letters", "Messages rejected.", ["reason"])
        self.steps = counter("steps", "Steps finished.")
        self.retries = counter("retries", "Steps and sweeps cut short.", ["cause"])
        self.view_failures = counter("view_failures", "Computations that failed.", ["view"])
        self.values = counter("values", "Values logged and published.", ["view"])
        self.batch = Histogram(
            "skewless_stream_batch_records", "Records in a step.", buckets=_SIZES,
            registry=self.registry,
        )  # fmt: skip
        self.step_seconds = Histogram(
            "skewless_stream_step_seconds", "Duration of a step.", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.freshness = Histogram(
            "skewless_stream_freshness_seconds", "Produced until readable in Redis.",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.event_age = Histogram(
            "skewless_stream_event_age_seconds", "Watched until readable in Redis.",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.lag = Gauge(
            "skewless_stream_lag_records", "Records not read yet.", ["partition"],
            registry=self.registry,
        )  # fmt: skip
        self.stopped = Gauge(
            "skewless_stream_stopped", "Whether a partition stands still before a batch.",
            ["partition"], registry=self.registry,
        )  # fmt: skip
        self.alive = Gauge(
            "skewless_stream_thread_alive", "Whether a thread of the worker lives.", ["thread"],
            registry=self.registry,
        )  # fmt: skip
        self.last = Gauge(
            "skewless_stream_last_seconds",
            "When the loop last turned, and the sweeper last went through all views, Unix time.",
            ["work"], registry=self.registry,
        )  # fmt: skip
        self.watermark = Gauge(
            "skewless_stream_watermark_seconds", "Watermark, Unix time.", ["partition"],
            registry=self.registry,
        )  # fmt: skip
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)

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
        self.watch(thread.name, thread.is_alive)

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
                *(_total(self.events), _total(self.duplicates), _total(self.dead_letters)),
                *(_total(self.steps), _total(self.retries)),
                *(self.quantile_ms(0.5), self.quantile_ms(0.99)),
            ],
        )
        conn.execute(
            "DELETE FROM stream_workers WHERE seen_at < clock_timestamp() - interval '24 hours'"
        )

    def forget(self, conn: psycopg.Connection, settings: Settings) -> None:
        """Take this worker's row away: it has stopped in an orderly way."""
        conn.execute("DELETE FROM stream_workers WHERE worker = %s", [settings.worker])


def _total(counter: Counter) -> int:
    return int(
        sum(
            sample.value
            for metric in counter.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )
    )

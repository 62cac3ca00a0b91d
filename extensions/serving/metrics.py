"""What Prometheus is told: latency by route, items, what was missing or stale, round trips."""

from collections.abc import Iterable

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from extensions.serving.freshness import Freshnesses
from extensions.serving.reading import Rows
from extensions.stores import layout

LATENCIES = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
ITEMS = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10000)


class Metrics:
    """One worker's figures; with several workers they are added up where they are read."""

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "skewless_request_seconds", "Time to answer, by route.", ["route"],
            buckets=LATENCIES, registry=self.registry,
        )  # fmt: skip
        self.answers = Counter(
            "skewless_answers", "Answers by route and status.", ["route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.items = Histogram(
            "skewless_request_items", "Entities per request.", ["route"], buckets=ITEMS,
            registry=self.registry,
        )  # fmt: skip
        self.values = Counter(
            "skewless_rows_served", "Rows served by view: default (no row) or stale.",
            ["view", "status"], registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "skewless_rows_refused", "Rows in Redis of another layout.", ["view"],
            registry=self.registry,
        )  # fmt: skip
        self.round_trips = Counter(
            "skewless_redis_round_trips", "Round trips to Redis.", registry=self.registry
        )
        self.plan = Gauge(
            "skewless_plan_version", "Number of the plan in use.", registry=self.registry,
            multiprocess_mode="min",
        )  # fmt: skip
        self._refused: dict[str, int] = {}
        self._trips = 0

    def count(self, rows: Iterable[Rows], freshnesses: Freshnesses, now: int) -> None:
        """Count the rows that are not simply fresh."""
        for one in rows:
            here = len(one.present)
            if here == 1 and one.present[0] and freshnesses.surely_fresh(one.view, one.events, now):
                continue
            missing = here - int(np.count_nonzero(one.present))
            if missing:
                self.values.labels(one.view.name, "default").inc(missing)
            if missing < here and one.view.budget is not None:
                late = freshnesses.stale(one.view, one.events, now) & one.present
                if stale := int(np.count_nonzero(late)):
                    self.values.labels(one.view.name, "stale").inc(stale)

    def follow(self, round_trips: int, plan: int) -> None:
        """Take over what others count."""
        self.round_trips.inc(round_trips - self._trips)
        self._trips = round_trips
        self.plan.set(plan)
        for view, times in layout.refused.items():
            self.refused.labels(view).inc(times - self._refused.get(view, 0))
            self._refused[view] = times

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        if not self._several:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

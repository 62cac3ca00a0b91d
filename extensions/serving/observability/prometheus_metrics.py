"""What Prometheus is told: latency by route, items, what was missing or stale, round trips."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from extensions.serving.features.feature_reader import ViewRows
from extensions.serving.near_cache.cached_views import NearCache
from extensions.serving.observability.watermark_watcher import Freshnesses
from extensions.stores.online_codec import row_format
from extensions.thread_supervision import Living

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
        self.near_lag = Gauge(
            "skewless_near_lag_seconds", "How far a near copy may be behind Redis.", ["entity"],
            registry=self.registry, multiprocess_mode="max",
        )  # fmt: skip
        self.near_rows = Gauge(
            "skewless_near_rows", "Rows that a near copy holds; 0: its views are read from Redis.",
            ["entity"], registry=self.registry, multiprocess_mode="min",
        )  # fmt: skip
        self.near_bytes = Gauge(
            "skewless_near_bytes", "Bytes that a near copy takes, in each worker.", ["entity"],
            registry=self.registry, multiprocess_mode="max",
        )  # fmt: skip
        self.near_loads = Counter(
            "skewless_near_loads", "Whole loads of near copies.", registry=self.registry
        )
        self.thread_alive = Gauge(
            "skewless_thread_alive", "Whether a thread of the worker lives.", ["thread"],
            registry=self.registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self.thread_deaths = Counter(
            "skewless_thread_deaths", "How often a thread failed and was begun anew.", ["thread"],
            registry=self.registry,
        )  # fmt: skip
        self._deaths: dict[str, int] = {}
        self._refused: dict[str, int] = {}
        self._trips = self._loads = 0
        self._answered: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._asked: dict[str, Any] = {}
        self._children: dict[tuple[str, str], Any] = {}

    def answer(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        children = self._answered.get((route, status))
        if children is None:
            children = self.seconds.labels(route), self.answers.labels(route, status)
            self._answered[route, status] = children
        children[0].observe(seconds)
        children[1].inc()

    def asked(self, route: str, entities: int) -> None:
        """Count the entities of one request."""
        child = self._asked.get(route)
        if child is None:
            child = self._asked[route] = self.items.labels(route)
        child.observe(entities)

    def count(self, rows: Iterable[ViewRows], freshnesses: Freshnesses, now: int) -> None:
        """Count the rows that are not simply fresh."""
        for view_rows in rows:
            view = view_rows.view
            here = (
                len(view_rows.unique_present)
                if view_rows.inverse is None
                else len(view_rows.inverse)
            )
            if here == 1:
                if not view_rows.unique_present[0]:
                    self._served(view.name, "default", 1)
                elif not freshnesses.fresh(view, int(view_rows.unique_events[0]), now):
                    self._served(view.name, "stale", 1)
                continue
            if missing := here - int(np.count_nonzero(view_rows.present)):
                self._served(view.name, "default", missing)
            if missing < here and not freshnesses.all_fresh(view, now):
                late = (
                    freshnesses.stale(view, view_rows.unique_events, now) & view_rows.unique_present
                )
                if late.any():
                    rows = late if view_rows.inverse is None else late[view_rows.inverse]
                    self._served(view.name, "stale", int(np.count_nonzero(rows)))

    def _served(self, view: str, status: str, times: int) -> None:
        child = self._children.get((view, status))
        if child is None:
            child = self._children[view, status] = self.values.labels(view, status)
        child.inc(times)

    def follow(self, round_trips: int, plan: int, near: NearCache) -> None:
        """Take over what others count."""
        for prefix in near.wanted:
            cache = near.caches.get(prefix)
            entity = prefix.decode(errors="replace").strip(":").rpartition(":")[2]
            self.near_lag.labels(entity).set(cache.lag if cache else 0)
            self.near_rows.labels(entity).set(cache.count - 1 if cache else 0)
            self.near_bytes.labels(entity).set(cache.size if cache else 0)
        self.near_loads.inc(near.loads - self._loads)
        self._loads = near.loads
        self.round_trips.inc(round_trips - self._trips)
        self._trips = round_trips
        self.plan.set(plan)
        for view, times in row_format.refused.items():
            self.refused.labels(view).inc(times - self._refused.get(view, 0))
            self._refused[view] = times

    def see(self, threads: Iterable[Living]) -> None:
        """Take over which threads live, and how often they had to begin anew."""
        for thread in threads:
            self.thread_alive.labels(thread.name).set(thread.is_alive())
            died = thread.deaths - self._deaths.get(thread.name, 0)
            self.thread_deaths.labels(thread.name).inc(died)
            self._deaths[thread.name] = thread.deaths

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        if not self._several:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

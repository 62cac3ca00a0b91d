"""Prometheus metrics of the server: latency, items, missing and stale rows, round trips, caches."""

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
from extensions.serving.observability.registry_and_watermark_watcher import Watermarks
from extensions.stores.online_codec import row_format
from extensions.thread_supervision import Living

LATENCIES = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
ITEMS = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10000)


class Metrics:
    """The metrics of one worker; those of several workers are aggregated when scraped."""

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
            "skewless_near_lag_seconds", "How far a near cache may be behind Redis.", ["entity"],
            registry=self.registry, multiprocess_mode="max",
        )  # fmt: skip
        self.near_rows = Gauge(
            "skewless_near_rows", "Rows in a near cache; 0: its views are read from Redis.",
            ["entity"], registry=self.registry, multiprocess_mode="min",
        )  # fmt: skip
        self.near_bytes = Gauge(
            "skewless_near_bytes", "Bytes of a near cache, in each worker.", ["entity"],
            registry=self.registry, multiprocess_mode="max",
        )  # fmt: skip
        self.near_loads = Counter(
            "skewless_near_loads", "Whole loads of near caches.", registry=self.registry
        )
        self.thread_alive = Gauge(
            "skewless_thread_alive", "Whether a thread of the worker lives.", ["thread"],
            registry=self.registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self.thread_deaths = Counter(
            "skewless_thread_deaths", "How often a thread failed and was begun anew.", ["thread"],
            registry=self.registry,
        )  # fmt: skip
        self._deaths_seen: dict[str, int] = {}
        self._refused_seen: dict[str, int] = {}
        self._round_trips_seen = self._loads_seen = 0
        self._response_counters: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._entity_counters: dict[str, Any] = {}
        self._row_counters: dict[tuple[str, str], Any] = {}

    def count_response(self, route: str, status: int, seconds: float) -> None:
        """Count a response."""
        children = self._response_counters.get((route, status))
        if children is None:
            children = self.seconds.labels(route), self.answers.labels(route, status)
            self._response_counters[route, status] = children
        children[0].observe(seconds)
        children[1].inc()

    def count_entities(self, route: str, entities: int) -> None:
        """Count the entities of a request."""
        child = self._entity_counters.get(route)
        if child is None:
            child = self._entity_counters[route] = self.items.labels(route)
        child.observe(entities)

    def count(self, rows: Iterable[ViewRows], watermarks: Watermarks, now: int) -> None:
        """Count rows that are missing or stale."""
        for view_rows in rows:
            view = view_rows.view
            here = (
                len(view_rows.unique_present)
                if view_rows.inverse is None
                else len(view_rows.inverse)
            )
            if here == 1:
                if not view_rows.unique_present[0]:
                    self._count_rows(view.name, "default", 1)
                elif not watermarks.fresh(view, int(view_rows.unique_events[0]), now):
                    self._count_rows(view.name, "stale", 1)
                continue
            if missing := here - int(np.count_nonzero(view_rows.present)):
                self._count_rows(view.name, "default", missing)
            if missing < here and not watermarks.all_fresh(view, now):
                late = (
                    watermarks.stale(view, view_rows.unique_events, now) & view_rows.unique_present
                )
                if late.any():
                    rows = late if view_rows.inverse is None else late[view_rows.inverse]
                    self._count_rows(view.name, "stale", int(np.count_nonzero(rows)))

    def _count_rows(self, view: str, status: str, times: int) -> None:
        child = self._row_counters.get((view, status))
        if child is None:
            child = self._row_counters[view, status] = self.values.labels(view, status)
        child.inc(times)

    def collect(self, round_trips: int, plan: int, near: NearCache) -> None:
        """Collect what other components count."""
        for prefix in near.wanted:
            cache = near.caches.get(prefix)
            entity = prefix.decode(errors="replace").strip(":").rpartition(":")[2]
            self.near_lag.labels(entity).set(cache.lag if cache else 0)
            self.near_rows.labels(entity).set(cache.count - 1 if cache else 0)
            self.near_bytes.labels(entity).set(cache.size if cache else 0)
        self.near_loads.inc(near.loads - self._loads_seen)
        self._loads_seen = near.loads
        self.round_trips.inc(round_trips - self._round_trips_seen)
        self._round_trips_seen = round_trips
        self.plan.set(plan)
        for view, times in row_format.refused.items():
            self.refused.labels(view).inc(times - self._refused_seen.get(view, 0))
            self._refused_seen[view] = times

    def collect_threads(self, threads: Iterable[Living]) -> None:
        """Collect which threads are alive, and how often they were restarted."""
        for thread in threads:
            self.thread_alive.labels(thread.name).set(thread.is_alive())
            died = thread.deaths - self._deaths_seen.get(thread.name, 0)
            self.thread_deaths.labels(thread.name).inc(died)
            self._deaths_seen[thread.name] = thread.deaths

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        if not self._several:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

"""The views that follow the stream: every live version whose freshness is realtime."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import overload

import psycopg
from feast import FeatureStore, FeatureView

from extensions.asof import Computation, Freshness, load_computations
from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.failure_classification import of_a_server
from extensions.stores.log_publishing import registered
from extensions.stores.registry.version_store import has_versions
from extensions.versions.maintained_versions import live_computations
from streaming.kafka.message_decoder import WatchEvent
from streaming.settings import Settings

EVENTS = "watch_events"
# How soon a running worker computes what was published, and leaves alone what was retired.
LOOK_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class LiveView:
    """A view version: how it is computed, and how Feast knows it online."""

    computation: Computation
    feature_view: FeatureView

    @property
    def follows_events(self) -> bool:
        """Whether a watch event names the view's entities; other views are left to the sweep."""
        return self.computation.reads[0].table == EVENTS and set(self.computation.join_keys) <= set(
            WatchEvent._fields
        )

    def entities(self, events: Sequence[WatchEvent]) -> set[tuple[int, ...]]:
        """The distinct join keys of ``events``."""
        at = [WatchEvent._fields.index(key) for key in self.computation.join_keys]
        if len(at) == 1:
            return {(event[at[0]],) for event in events}  # type: ignore[misc]
        return {tuple(event[i] for i in at) for event in events}  # type: ignore[misc]


class LiveViews(Sequence[LiveView]):
    """The live realtime views, as of a second ago at most; for the step and the sweep at once."""

    def __init__(self, settings: Settings, feast_store: FeatureStore) -> None:
        self._url, self._store = settings.postgres_url, feast_store
        self._declared = load_computations(settings.repo_root)
        self._guard = threading.Lock()
        self._conn: psycopg.Connection | None = None
        self._versions: list[tuple[str, int]] | None = None
        self._views: list[LiveView] = []
        self._look()
        self._looked = monotonic()

    def __iter__(self) -> Iterator[LiveView]:
        return iter(self._current())

    def __len__(self) -> int:
        return len(self._current())

    @overload
    def __getitem__(self, index: int) -> LiveView: ...
    @overload
    def __getitem__(self, index: slice) -> list[LiveView]: ...
    def __getitem__(self, index: int | slice) -> LiveView | list[LiveView]:
        return self._current()[index]

    def _current(self) -> list[LiveView]:
        with self._guard:
            if monotonic() - self._looked >= LOOK_EVERY_SECONDS:
                self._looked = monotonic()
                try:
                    self._look()
                except Exception as error:
                    if not (isinstance(error, SkewlessError) or of_a_server(error)):
                        raise
                    # Those known so far; an outage is for the step and the sweep to deal with.
                    if self._conn is not None:
                        self._conn.close()
                    self._conn = None
            return self._views

    def _look(self) -> None:
        if self._conn is None or self._conn.closed:
            self._conn = connect(self._url, autocommit=True, name="skewless ingest: versions")
        versions: list[tuple[str, int]] = []
        if has_versions(self._conn):
            versions = self._conn.execute(
                "SELECT view_name, version FROM view_versions "
                "WHERE kind = 'computation' AND state <> 'retired' ORDER BY view_name, version"
            ).fetchall()
        if versions == self._versions:
            return
        self._views = [
            LiveView(computation, registered(self._store, computation))
            for computation in live_computations(self._conn, self._declared).values()
            if computation.freshness is Freshness.REALTIME
        ]
        self._versions = versions


def live_views(settings: Settings, feast_store: FeatureStore) -> Sequence[LiveView]:
    """The realtime views that are live, with the registry's view of the same version.

    Raises:
        SkewlessError: a view is not in the registry.
    """
    return LiveViews(settings, feast_store)

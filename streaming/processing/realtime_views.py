"""The views that follow the stream: every live version whose freshness is realtime."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, overload

import psycopg
from feast import FeatureStore, FeatureView

from extensions.asof import Computation, Freshness, HistorySource, load_computations
from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.failure_classification import of_a_server
from extensions.sources import HistoryTable
from extensions.stores.log_publishing import registered
from extensions.stores.registry.version_store import has_versions
from extensions.versions.maintained_versions import live_computations
from streaming.declared_streams import streams_by_table
from streaming.settings import Settings

# A stream: its consumer group and its topic.
StreamId = tuple[str, str]

# How soon a running worker computes what was published, and leaves alone what was retired.
LOOK_EVERY_SECONDS = 1.0


@dataclass(frozen=True)
class LiveView:
    """A view version: how it is computed, how Feast knows it online, and what it waits for.

    ``streams``: those whose tables the view reads; its watermark is the least of theirs.
    """

    computation: Computation
    feature_view: FeatureView
    streams: tuple[StreamId, ...] = ()

    def source(self, table: HistoryTable) -> HistorySource | None:
        """What the view reads of ``table``, if its rows name the view's entities.

        Other views are left to the sweep.
        """
        if set(self.computation.join_keys) <= table.by_name.keys():
            return next((s for s in self.computation.reads if s.table == table.table), None)
        return None

    def entities(
        self, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
    ) -> set[tuple[Any, ...]]:
        """The distinct join keys of ``rows``; one without a key names nobody."""
        at = [columns.index(key) for key in self.computation.join_keys]
        if len(at) == 1:
            named = {(row[at[0]],) for row in rows}
        else:
            named = {tuple(row[i] for i in at) for row in rows}
        return {key for key in named if None not in key}


class LiveViews(Sequence[LiveView]):
    """The live realtime views, as of a second ago at most; for the step and the sweep at once."""

    def __init__(
        self,
        settings: Settings,
        feast_store: FeatureStore,
        streams: Mapping[str, Sequence[StreamId]],
    ) -> None:
        self._url, self._store = settings.postgres_url, feast_store
        self._streams = streams
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
            LiveView(computation, registered(self._store, computation), self._of(computation))
            for computation in live_computations(self._conn, self._declared).values()
            if computation.freshness is Freshness.REALTIME
        ]
        self._versions = versions

    def _of(self, computation: Computation) -> tuple[StreamId, ...]:
        """The streams of the tables that a view reads."""
        return tuple(
            dict.fromkeys(
                stream
                for source in computation.reads
                for stream in self._streams.get(source.table, ())
            )
        )


def live_views(settings: Settings, feast_store: FeatureStore) -> Sequence[LiveView]:
    """The realtime views that are live, with the registry's view of the same version.

    Raises:
        SkewlessError: a view is not in the registry.
    """
    return LiveViews(settings, feast_store, streams_by_table(settings))

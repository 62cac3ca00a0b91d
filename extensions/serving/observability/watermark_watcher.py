"""How far the pipelines have come: watermarks, and the registry's changes, watched from aside.

A thread looks, twice a second and when PostgreSQL says that the registry changed; the event loop
only ever reads what it found. Without PostgreSQL serving goes on with what is known: a watermark
that no longer moves makes its views stale in time, as it must.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from feast import FeatureStore
from numpy.typing import NDArray
from psycopg import sql

from extensions.database import connect
from extensions.errors import ConfigurationError
from extensions.serving.features.request_plan import Plans, View, compile_plans
from extensions.stores.offline.connection_settings import url_of
from extensions.thread_supervision import Lasting, Living

logger = logging.getLogger(__name__)

CHANNEL = "skewless_registry"
# Seconds that stopping may take.
STOP_WITHIN = 0.5

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Changes in any definition change this; Feast's own timestamps count whole seconds.
_REGISTRY_STATE = """
SELECT md5(concat(
    (SELECT string_agg(md5(feature_view_proto), '' ORDER BY feature_view_name, project_id)
     FROM feature_views),
    (SELECT string_agg(md5(feature_view_proto), '' ORDER BY feature_view_name, project_id)
     FROM stream_feature_views),
    (SELECT string_agg(md5(feature_view_proto), '' ORDER BY feature_view_name, project_id)
     FROM on_demand_feature_views),
    (SELECT string_agg(md5(feature_service_proto), '' ORDER BY feature_service_name, project_id)
     FROM feature_services)
))
"""


# How often the registry is read, within one look, for as long as it keeps changing.
_READS = 5


class Freshnesses:
    """The watermarks of all view versions, as of the last look, in microseconds."""

    def __init__(self) -> None:
        self.through: dict[tuple[str, int], int] = {}

    def statuses(
        self, view: View, present: NDArray[np.bool_], events: NDArray[np.int64], now: int
    ) -> list[str]:
        """``default`` (no row), ``stale`` (the pipeline lags more than its budget) or ``fresh``."""
        stale = self.stale(view, events, now)
        found: list[str] = np.where(present, np.where(stale, "stale", "fresh"), "default").tolist()
        return found

    def all_fresh(self, view: View, now: int) -> bool:
        """Whether the pipeline is in time, so that no row can be stale."""
        return now - self.through.get((view.name, view.version), 0) <= view.late_after

    def fresh(self, view: View, event: int, now: int) -> bool:
        """Whether a row of this time is fresh, without numpy's cost for arrays of one."""
        through = self.through.get((view.name, view.version), 0)
        return now - max(event, through) <= view.late_after

    def stale(self, view: View, events: NDArray[np.int64], now: int) -> NDArray[np.bool_]:
        """Rows of a pipeline that lags. A row itself shows that it had come so far."""
        if self.all_fresh(view, now):
            return np.zeros(len(events), np.bool_)
        result: NDArray[np.bool_] = events < now - view.late_after
        return result


class Watcher:
    """The thread that looks, and what it found last."""

    def __init__(
        self, store: FeatureStore, period: float, changed: Callable[[Plans], None] | None = None
    ) -> None:
        self.store = store
        self.freshnesses = Freshnesses()
        self.plans = compile_plans(store, 1)
        self.seen = datetime.now(UTC)
        self._period, self._changed = period, changed
        self._state: Any = None
        self._stop = threading.Event()
        self._conn: psycopg.Connection | None = None
        self._thread = Lasting("watcher", self._run, self._stop)

    def start(self) -> None:
        """Look once, then go on in the background."""
        self._look()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=5)

    @property
    def threads(self) -> list[Living]:
        """The one that looks."""
        return [self._thread]

    @property
    def lag(self) -> float:
        """Seconds since the registry was last seen."""
        return (datetime.now(UTC) - self.seen).total_seconds()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wait()
            if not self._stop.is_set():
                self._look()

    def _wait(self) -> None:
        """Until the registry changes, or the period is over."""
        until = time.monotonic() + self._period
        while self._conn is not None and not self._stop.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return
            try:
                for _ in self._conn.notifies(timeout=min(left, STOP_WITHIN), stop_after=1):
                    return
            except psycopg.Error:
                break
        self._stop.wait(max(0.0, until - time.monotonic()))

    def _look(self) -> None:
        try:
            self._watermarks()
            self._registry()
            self.seen = datetime.now(UTC)
        except Exception as error:  # noqa: BLE001 - whatever it is, serving goes on
            logger.warning("PostgreSQL cannot be read: %s", str(error).splitlines()[0:1])
            if self._conn is not None and not self._conn.closed:
                self._conn.close()
            self._conn = None

    def _watermarks(self) -> None:
        if self._conn is None:
            self._conn = connect(url_of(self.store.config), autocommit=True, name="skewless serve")
            self._conn.execute("SET statement_timeout = '5s'")
            self._listen(self._conn)
        rows = self._conn.execute(
            "SELECT view_name, version, processed_through FROM watermarks"
        ).fetchall()
        self.freshnesses.through = {
            (view, version): int((at - _EPOCH).total_seconds() * 1e6) for view, version, at in rows
        }

    def _listen(self, conn: psycopg.Connection) -> None:
        """Be told of changes, where this role may ask for it; else polling has to do."""
        try:
            conn.execute("SELECT follow_registry()")
        except psycopg.Error as error:
            logger.info("Registry changes are found by polling: %s", str(error).splitlines()[0])
        conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))

    def _registry(self) -> None:
        engine = getattr(self.store.registry, "read_engine", None)
        if engine is None or engine.dialect.name != "postgresql":
            raise ConfigurationError(
                "The registry must be in PostgreSQL for its changes to be followed."
            )
        state = _state_of(engine)
        if state == self._state:
            return
        for _ in range(_READS):
            self.store.refresh_registry()  # type: ignore[no-untyped-call]
            # Feast reads table by table: a plan must be made of one state, so it reads again if
            # something changed meanwhile.
            before, state = state, _state_of(engine)
            if state == before:
                break
        else:
            return
        first, self._state = self._state is None, state
        self.plans = compile_plans(self.store, self.plans.number + (not first))
        if self._changed:
            self._changed(self.plans)


def _state_of(engine: Any) -> Any:
    with engine.connect() as conn:
        return conn.exec_driver_sql(_REGISTRY_STATE).scalar()

"""Watches the pipelines' watermarks and changes of the registry, in a background thread.

The thread reads both twice a second, and when PostgreSQL notifies it of a change of the registry;
the event loop only reads the result. While PostgreSQL is unreachable, serving continues with the
last state: a watermark that no longer moves makes its views stale in time.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
from feast import FeatureStore
from numpy.typing import NDArray
from psycopg import sql

from extensions.database import connect
from extensions.database.scalars import clock as clock_of_database
from extensions.errors import ConfigurationError
from extensions.serving.features.request_plan import Plans, View, compile_plans
from extensions.stores.offline.feast_source_connections import url_of
from extensions.thread_supervision import Lasting, Living

logger = logging.getLogger(__name__)

CHANNEL = "skewless_registry"
# Seconds that stopping may take.
STOP_SECONDS = 0.5

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


# Differences from the database's clock below this are those of two synchronised clocks.
_CLOCK_TOLERANCE_US = 1_000_000
# How often the registry is read in one refresh while it keeps changing.
_MAX_READS = 5


class Watermarks:
    """The watermarks of all view versions (microseconds since 1970), as last read."""

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
        """Whether the pipeline is within its budget, so that no row can be stale."""
        return now - self.through.get((view.name, view.version), 0) <= view.late_after

    def fresh(self, view: View, event: int, now: int) -> bool:
        """Whether one row is fresh; as `stale`, without numpy's overhead."""
        through = self.through.get((view.name, view.version), 0)
        return now - max(event, through) <= view.late_after

    def stale(self, view: View, events: NDArray[np.int64], now: int) -> NDArray[np.bool_]:
        """Which rows are stale: neither the watermark nor the row's own time is recent enough."""
        if self.all_fresh(view, now):
            return np.zeros(len(events), np.bool_)
        result: NDArray[np.bool_] = events < now - view.late_after
        return result


class RegistryWatcher:
    """The watching thread, and what it read last: plans, watermarks."""

    def __init__(
        self, store: FeatureStore, period: float, changed: Callable[[Plans], None] | None = None
    ) -> None:
        self.store = store
        self.watermarks = Watermarks()
        self.plans = compile_plans(store, 1)
        self.seen = datetime.now(UTC)
        # Microseconds by which the database's clock is ahead of this machine's.
        self.clock_offset = 0
        self._period, self._changed = period, changed
        self._state: Any = None
        self._stop = threading.Event()
        self._conn: psycopg.Connection | None = None
        self._thread = Lasting("watcher", self._run, self._stop)

    def start(self) -> None:
        """Read once, then go on in the background."""
        self._refresh()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=5)

    @property
    def threads(self) -> list[Living]:
        """The watching thread."""
        return [self._thread]

    def now(self) -> int:
        """Microseconds since 1970 by the database's clock, which all event times are told by.

        This machine's clock corrected by the last known difference, so that a clock that is an
        hour slow does not take every fresh row for one of the future.
        """
        return time.time_ns() // 1000 + self.clock_offset

    @property
    def lag(self) -> float:
        """Seconds since the registry was last read."""
        return (datetime.now(UTC) - self.seen).total_seconds()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wait()
            if not self._stop.is_set():
                self._refresh()

    def _wait(self) -> None:
        """Wait until the registry changes or the period is over."""
        until = time.monotonic() + self._period
        while self._conn is not None and not self._stop.is_set():
            left = until - time.monotonic()
            if left <= 0:
                return
            try:
                for _ in self._conn.notifies(timeout=min(left, STOP_SECONDS), stop_after=1):
                    return
            except psycopg.Error:
                break
        self._stop.wait(max(0.0, until - time.monotonic()))

    def _refresh(self) -> None:
        try:
            self._read_watermarks()
            self._read_registry()
            self.seen = datetime.now(UTC)
        except Exception as error:  # noqa: BLE001 - serving continues
            logger.warning("PostgreSQL cannot be read: %s", str(error).splitlines()[0:1])
            if self._conn is not None and not self._conn.closed:
                self._conn.close()
            self._conn = None

    def _read_watermarks(self) -> None:
        if self._conn is None:
            self._conn = connect(url_of(self.store.config), autocommit=True, name="skewless serve")
            self._conn.execute("SET statement_timeout = '5s'")
            self._listen(self._conn)
        rows = self._conn.execute(
            "SELECT view_name, version, processed_through FROM watermarks"
        ).fetchall()
        self.watermarks.through = {
            (view, version): int((at - _EPOCH).total_seconds() * 1e6) for view, version, at in rows
        }
        before = time.time_ns()
        clock = (clock_of_database(self._conn) - _EPOCH) // timedelta(microseconds=1)
        offset = clock - (before + time.time_ns()) // 2000
        self._set_clock_offset(0 if abs(offset) < _CLOCK_TOLERANCE_US else offset)

    def _set_clock_offset(self, offset: int) -> None:
        if offset and not self.clock_offset:
            logger.warning(
                "This machine's clock differs from PostgreSQL's by %.1f s; the latter counts.",
                -offset / 1e6,
            )
        self.clock_offset = offset

    def _listen(self, conn: psycopg.Connection) -> None:
        """Listen for notifications; a role that may not make the triggers relies on polling."""
        try:
            conn.execute("SELECT follow_registry()")
        except psycopg.Error as error:
            logger.info("Registry changes are found by polling: %s", str(error).splitlines()[0])
        conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))

    def _read_registry(self) -> None:
        engine = getattr(self.store.registry, "read_engine", None)
        if engine is None or engine.dialect.name != "postgresql":
            raise ConfigurationError(
                "The registry must be in PostgreSQL for its changes to be followed."
            )
        state = _registry_state(engine)
        if state == self._state:
            return
        for _ in range(_MAX_READS):
            self.store.refresh_registry()  # type: ignore[no-untyped-call]
            # Feast reads table by table: a plan must be made of one state, so it reads again if
            # something changed meanwhile.
            before, state = state, _registry_state(engine)
            if state == before:
                break
        else:
            return
        first, self._state = self._state is None, state
        self.plans = compile_plans(self.store, self.plans.number + (not first))
        if self._changed:
            self._changed(self.plans)


def _registry_state(engine: Any) -> Any:
    with engine.connect() as conn:
        return conn.exec_driver_sql(_REGISTRY_STATE).scalar()

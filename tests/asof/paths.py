"""The paths by which a history becomes a log. To prove another one (a stream), add it to PATHS.

A path gets a fresh database with empty history and logs, a history, and per view the moments at
which it is to be computed. It leaves the rows in the log tables. Paths differ in when data come in:
`ticks` feeds each event when it arrived, as in life; `backfill` has everything from the start.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

import psycopg

from extensions.asof import Computation, Freshness
from extensions.asof.backfill import backfill
from extensions.asof.tick import tick
from extensions.database import connect
from tests.asof.histories import DAY, HOUR
from tests.asof.loading import deliver, load, load_classifications, load_places
from tests.oracle.answers import VIEWS
from tests.oracle.records import History

SPANS: dict[Freshness, timedelta] = {
    Freshness.REALTIME: 12 * HOUR,
    Freshness.HOURLY: 2 * DAY,
    Freshness.DAILY: 10 * DAY,
}


@dataclass(frozen=True)
class Schedule:
    """The moments at which one view is computed: first the state at `start`, then changes."""

    start: datetime
    ticks: tuple[datetime, ...]

    @property
    def end(self) -> datetime:
        return self.ticks[-1]


Schedules: TypeAlias = Mapping[str, Schedule]
Path: TypeAlias = Callable[[str, Mapping[str, Computation], History, Schedules], None]


def schedule(computation: Computation, history: History, end: datetime) -> Schedule:
    """A view's whole periods, or for one that follows its events every moment of change."""
    period = computation.freshness.period
    end = end.replace(minute=0, second=0, microsecond=0)
    if period == DAY:
        end = end.replace(hour=0)
    start = end - SPANS[computation.freshness]
    if period is not None:
        return Schedule(
            start, tuple(start + n * period for n in range(1, (end - start) // period + 1))
        )
    horizon = VIEWS[computation.view].horizon
    moments = {end}
    for watch in history.watches:
        moments |= {watch.watched_at, watch.ingested_at}
        moments |= {watch.watched_at + horizon} if horizon else set()
    return Schedule(start, tuple(sorted(m for m in moments if start < m <= end)))


def ticks(
    url: str, computations: Mapping[str, Computation], history: History, schedules: Schedules
) -> None:
    """Live: everything comes in when it arrived, and each view ticks on schedule."""
    due = sorted(
        (moment, name) for name, plan in schedules.items() for moment in (plan.start, *plan.ticks)
    )
    with connect(url, autocommit=True) as conn:
        arrivals = _Arrivals(conn, history)
        for moment, name in due:
            arrivals.until(moment)
            tick(conn, computations[name], moment)


def by_backfill(
    url: str, computations: Mapping[str, Computation], history: History, schedules: Schedules
) -> None:
    """In hindsight: everything is there, also what came later."""
    load(url, history)
    with connect(url, autocommit=True) as conn:
        for name, plan in schedules.items():
            backfill(conn, computations[name], plan.start, plan.end)


def backfill_then_ticks(
    url: str, computations: Mapping[str, Computation], history: History, schedules: Schedules
) -> None:
    """A new view of an old store: backfilled to some moment between ticks, live from there."""
    load(url, history)
    with connect(url, autocommit=True) as conn:
        for name, plan in schedules.items():
            middle = plan.start + (plan.end - plan.start) / 2 + timedelta(minutes=17)
            backfill(conn, computations[name], plan.start, middle)
            for moment in plan.ticks:
                tick(conn, computations[name], moment)


PATHS: dict[str, Path] = {
    "ticks": ticks,
    "backfill": by_backfill,
    "backfill, then ticks": backfill_then_ticks,
}


class _Arrivals:
    """Feeds a database what has arrived, and never the same twice."""

    def __init__(self, conn: psycopg.Connection, history: History) -> None:
        self.conn = conn
        self.fed = datetime.min.replace(tzinfo=history.deliveries[0].ingested_at.tzinfo)
        self.history = history

    def until(self, moment: datetime) -> None:
        def news(arrived: datetime) -> bool:
            return self.fed < arrived <= moment

        with self.conn.transaction():
            deliver(self.conn, [w for w in self.history.deliveries if news(w.ingested_at)])
            load_classifications(
                self.conn, [c for c in self.history.classifications if news(c.ingested_at)]
            )
            load_places(self.conn, [p for p in self.history.places if news(p.ingested_at)])
        self.fed = moment


def logged(conn: psycopg.Connection, computation: Computation) -> Iterator[tuple[object, ...]]:
    """The view's log, oldest row first: (*keys, event_timestamp, *features)."""
    columns = [*computation.join_keys, "event_timestamp", *(f.name for f in computation.features)]
    yield from conn.execute(
        f"SELECT {', '.join(columns)} FROM {computation.log_table} "
        "ORDER BY event_timestamp, created_timestamp"
    )

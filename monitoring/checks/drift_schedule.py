"""The schedule of checks: each window once, with its reactions; and retention of the log."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg

from extensions.database import connect
from monitoring.alerts import automatic_rollback, incidents
from monitoring.alerts.automatic_rollback import Policy, RollBack, RolledBack
from monitoring.alerts.incidents import Delivery
from monitoring.alerts.notifiers import Channel
from monitoring.checks import drift_store
from monitoring.checks.drift_check import check
from monitoring.checks.drift_store import Run
from monitoring.checks.serving_log_window import Window, whole_windows
from monitoring.verdicts import LEAST_ROWS

# Rows are written a moment after they were served; a window is checked this long after its end.
SETTLE = timedelta(seconds=15)
# After a pause only so many windows are caught up on.
MOST_BEHIND = 48


@dataclass(frozen=True)
class Reaction:
    """A run and what followed from it."""

    run: Run
    incident: int | None
    deliveries: tuple[Delivery, ...]
    rolled_back: tuple[RolledBack, ...]


@dataclass(frozen=True)
class Unfinished:
    """Reactions to earlier verdicts on a service that were resumed."""

    service: str
    deliveries: tuple[Delivery, ...]
    rolled_back: tuple[RolledBack, ...]


@dataclass(frozen=True)
class Response:
    """The configured reactions to a verdict."""

    channels: Sequence[Channel] = ()
    policy: Policy = field(default_factory=lambda: Policy(frozenset()))
    roll_back: RollBack | None = None
    least_rows: int = LEAST_ROWS


def check_and_react(url: str, window: Window, response: Response) -> Reaction:
    """Check one window; with the verdict decide on incident, messages and rollbacks; do them.

    What is decided is written in the verdict's transaction: what goes wrong afterwards changes no
    verdict, and what was not done is done with the next check, or by `resume`.

    Raises:
        SkewlessError: as `check`.
    """

    def decide(conn: psycopg.Connection, run: Run) -> None:
        incident = incidents.follow(conn, run, response.channels)
        if response.roll_back is not None:
            automatic_rollback.decide(conn, run, incident, response.policy)

    run = check(url, window, least_rows=response.least_rows, decide=decide)
    with (
        connect(url, autocommit=True, name="skewless drift") as conn,
        drift_store.alone(conn, window.service),
    ):
        if run.again:  # recorded by a check that was told to do less, or by an earlier release
            with conn.transaction():
                decide(conn, run)
        rolled_back, deliveries = _carried_out(conn, window.service, response)
        incident = incidents.open_of(conn, window.service)
    return Reaction(run, incident, deliveries, rolled_back)


def resume(url: str, services: Sequence[str] | None, response: Response) -> list[Unfinished]:
    """Do what earlier checks decided and did not do: their process died, or a channel was away.

    A service that is being checked is left to that check.
    """
    done = []
    with connect(url, autocommit=True, name="skewless drift") as conn:
        waiting = incidents.waiting_services(conn) if response.channels else set()
        if response.roll_back is not None:
            waiting |= automatic_rollback.waiting_services(conn, response.policy)
        for service in sorted(waiting):
            if services and service not in services:
                continue
            try:
                with drift_store.alone(conn, service):
                    rolled_back, deliveries = _carried_out(conn, service, response)
            except drift_store.CheckedElsewhereError:
                continue
            done.append(Unfinished(service, deliveries, rolled_back))
    return done


def _carried_out(
    conn: psycopg.Connection, service: str, response: Response
) -> tuple[tuple[RolledBack, ...], tuple[Delivery, ...]]:
    rolled_back: list[RolledBack] = []
    if response.roll_back is not None and response.policy.views:
        rolled_back = automatic_rollback.carry_out(
            conn, service, response.policy, response.roll_back
        )
    return tuple(rolled_back), tuple(incidents.deliver(conn, service, response.channels))


def due(url: str, services: Sequence[str] | None, length: timedelta) -> list[Window]:
    """The whole windows that were not checked yet, oldest first."""
    now = datetime.now(UTC) - SETTLE
    with connect(url, autocommit=True, name="skewless drift") as conn:
        windows = []
        for service in services or drift_store.bound_services(conn):
            after = drift_store.last_window_end(conn, service, length)
            result = whole_windows(service, length, after, now)
            windows += result[-MOST_BEHIND:]
    return sorted(windows, key=lambda entry: (entry.end, entry.service))

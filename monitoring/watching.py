"""The schedule: each window once, what follows from it, and the log kept short."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from extensions.database import connect
from monitoring import incidents, records, rollback
from monitoring.channels import Channel
from monitoring.drift import check
from monitoring.incidents import Delivery
from monitoring.records import Run
from monitoring.rollback import Policy, RollBack, RolledBack
from monitoring.verdicts import LEAST_ROWS
from monitoring.window import Window, whole_windows

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
class Response:
    """What is done about a verdict."""

    channels: Sequence[Channel] = ()
    policy: Policy = field(default_factory=lambda: Policy(frozenset()))
    roll_back: RollBack | None = None
    least_rows: int = LEAST_ROWS


def check_and_react(url: str, window: Window, response: Response) -> Reaction:
    """Check one window, then incident, messages and rollback, in this order.

    The verdict is recorded first: nothing that goes wrong afterwards changes it.

    Raises:
        SkewlessError: as `check`.
    """
    run = check(url, window, least_rows=response.least_rows)
    with (
        connect(url, autocommit=True, name="skewless drift") as conn,
        records.alone(conn, window.service),
    ):
        incident = incidents.follow(conn, run, response.channels)
        rolled_back: list[RolledBack] = []
        if response.roll_back is not None and response.policy.views:
            rolled_back = rollback.follow(conn, run, incident, response.policy, response.roll_back)
        deliveries = incidents.deliver(conn, window.service, response.channels)
    return Reaction(run, incident, tuple(deliveries), tuple(rolled_back))


def due(url: str, services: Sequence[str] | None, length: timedelta) -> list[Window]:
    """The whole windows that were not checked yet, oldest first."""
    now = datetime.now(UTC) - SETTLE
    with connect(url, autocommit=True, name="skewless drift") as conn:
        windows = []
        for service in services or records.bound_services(conn):
            after = records.last_window_end(conn, service, length)
            found = whole_windows(service, length, after, now)
            windows += found[-MOST_BEHIND:]
    return sorted(windows, key=lambda one: (one.end, one.service))

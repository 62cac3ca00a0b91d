"""The matrix's drift check: verdict, alert and rollback come once in effect, whoever dies."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import psycopg

from benchmarks import drift_platform
from benchmarks.drift_platform import DRIFTS, HOUR, SERVICE, START, STATIONARY, World
from extensions.database import connect
from extensions.exit_codes import OK, WRONG
from monitoring.alerts.notifiers import WEBHOOK
from monitoring.checks import drift_store
from monitoring.failpoints import Fault
from tests.faults.http_load import ITEM_VIEW, default_version, served
from tests.faults.judge import Oracle
from tests.faults.operation import Attempt, Operation
from tests.faults.platform import Command, Platform
from tests.faults.version_operations import VersionOperations, moves_of
from tests.monitoring.test_alerts import Receiver

REQUESTS = 1_000
CRITICAL_EXIT, OK_EXIT = WRONG, OK
DRIFTED = tuple(fault.value for fault in Fault)
# Where nothing has drifted any more nothing is rolled back.
ENDED = tuple(fault.value for fault in Fault if not fault.name.startswith("ROLLBACK"))


@contextmanager
def receiving() -> Iterator[Receiver]:
    """The other end of a webhook."""
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        receiver.server_close()


class DriftOperations:
    """Prepares attempts at `drift check`: of an hour that drifted, and of one that is well again.

    The service is made (`benchmarks.drift_platform`); one of its views is called like a view of
    the repository, which is therefore the one that goes back.
    """

    def __init__(self, platform: Platform, versions: VersionOperations, receiver: Receiver) -> None:
        self._platform, self._versions, self._receiver = platform, versions, receiver
        self._hours = itertools.count()
        self._bound = False

    def all(self) -> dict[str, Operation]:
        return {
            "drift check": Operation(self._drifted, DRIFTED, ("postgres",)),
            "drift check, well again": Operation(self._ended, ENDED, ("postgres",)),
        }

    def _drifted(self) -> Attempt:
        """A critical hour: an incident begins, is announced, and the view goes back."""
        self._end_open_incident()
        number = self._versions.second_as_default(ITEM_VIEW)
        hour = self._serve(DRIFTS["drama -> unknown"])
        with self._conn() as conn:
            moves = moves_of(conn, ITEM_VIEW)
        known = len(self._receiver.bodies)

        def check(where: str) -> None:
            with self._conn() as conn:
                assert _verdicts(conn, hour) == ["critical"], where
                incident = _only_open_incident(conn, where)
                assert _rollbacks(conn, incident) == [(ITEM_VIEW, f"v{number} -> v1", None)], where
                assert moves_of(conn, ITEM_VIEW) == [*moves, ("rollback", number, 1)], where
                assert default_version(conn, ITEM_VIEW) == 1, where
                assert _undelivered(conn) == 0, where
                assert _leftovers(conn) == [], where
            self._assert_announced(known, "opened", where)

        return Attempt(
            partial(self._start, hour),
            completed=lambda command: command.process.exitcode == CRITICAL_EXIT,
            beside=lambda away: served(self._platform, away, {ITEM_VIEW: 1}),
            check=check,
            after=self._assert_quiet(hour, known),
        )

    def _ended(self) -> Attempt:
        """An hour like the training set after an incident: it ends, and that is announced."""
        if not self._is_open():
            attempt = self._drifted()
            running = attempt.start("")
            running.end()
            assert attempt.completed(running), running.text()
        hour = self._serve(STATIONARY)
        known = len(self._receiver.bodies)

        def check(where: str) -> None:
            with self._conn() as conn:
                assert _verdicts(conn, hour) == ["ok"], where
                row = conn.execute(
                    "SELECT count(*) FROM drift_incidents WHERE closed_at IS NULL"
                ).fetchone()
                assert row == (0,), where
                assert _undelivered(conn) == 0, where
                assert _leftovers(conn) == [], where
            self._assert_announced(known, "closed", where)

        return Attempt(
            partial(self._start, hour),
            completed=lambda command: command.process.exitcode == OK_EXIT,
            beside=lambda away: served(self._platform, away, {}),
            check=check,
            after=self._assert_quiet(hour, known),
        )

    def _assert_announced(self, known: int, kind: str, where: str) -> None:
        """One message; sent a second time, with the same key, only by who could not note it."""
        bodies = self._receiver.bodies[known:]
        assert 1 <= len(bodies) <= 3, f"{where}: {bodies}"
        assert {body["kind"] for body in bodies} == {kind}, f"{where}: {bodies}"
        assert len({body["key"] for body in bodies}) == 1, f"{where}: {bodies}"

    def _assert_quiet(self, hour: int, known: int) -> Callable[[str, Oracle], None]:
        """Asked once more the verdict is what it was, and nothing follows from it again."""

        def after(where: str, _: Oracle) -> None:
            with self._conn() as conn:
                before = _everything(conn)
            sent = len(self._receiver.bodies)
            running = self._start(hour, "")
            assert running.end() in (CRITICAL_EXIT, OK_EXIT), running.text()
            with self._conn() as conn:
                assert _everything(conn) == before, where
            assert len(self._receiver.bodies) == sent, where
            assert sent > known

        return after

    def _start(self, hour: int, fault: str) -> Command:
        return self._platform.start(
            *("drift", "check", SERVICE, "--from", _at(hour).isoformat()),
            *("--to", _at(hour + 1).isoformat(), "--rollback", ITEM_VIEW, "--after", "1"),
            fault=fault,
            environment={WEBHOOK: self._receiver.url},
        )

    def _serve(self, world: World) -> int:
        """Log the requests of the next hour; returns its number."""
        hour = next(self._hours)
        with self._conn() as conn:
            if not self._bound:
                drift_store.bind(conn, drift_platform.baseline())
                self._bound = True
            drift_platform.serve(conn, self._platform.url, world, REQUESTS, hour, seed=hour)
        return hour

    def _end_open_incident(self) -> None:
        if self._is_open():
            running = self._start(self._serve(STATIONARY), "")
            assert running.end() == OK_EXIT, running.text()

    def _is_open(self) -> bool:
        with self._conn() as conn:
            row = conn.execute(
                "SELECT count(*) FROM drift_incidents WHERE closed_at IS NULL"
            ).fetchone()
        return row != (0,)

    def _conn(self) -> psycopg.Connection:
        return connect(self._platform.url, autocommit=True)


def _at(hour: int) -> datetime:
    return START + hour * HOUR


def _verdicts(conn: psycopg.Connection, hour: int) -> list[str]:
    rows = conn.execute(
        "SELECT verdict FROM drift_runs WHERE service = %s AND window_start = %s",
        [SERVICE, _at(hour)],
    ).fetchall()
    return [verdict for (verdict,) in rows]


def _only_open_incident(conn: psycopg.Connection, where: str) -> int:
    rows = conn.execute(
        "SELECT incident_id, severity FROM drift_incidents WHERE closed_at IS NULL"
    ).fetchall()
    assert [severity for _, severity in rows] == ["critical"], where
    return int(rows[0][0])


def _rollbacks(conn: psycopg.Connection, incident: int) -> list[tuple[Any, ...]]:
    return conn.execute(
        "SELECT view_name, outcome, error FROM drift_rollbacks WHERE incident_id = %s", [incident]
    ).fetchall()


def _undelivered(conn: psycopg.Connection) -> int:
    row = conn.execute(
        "SELECT count(*) FROM drift_notifications WHERE delivered_at IS NULL"
    ).fetchone()
    assert row is not None
    return int(row[0])


def _leftovers(conn: psycopg.Connection) -> list[str]:
    """Relations that an interrupted check made for itself."""
    rows = conn.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'v' AND starts_with(relname, 'drift_')"
    ).fetchall()
    return [name for (name,) in rows]


def _everything(conn: psycopg.Connection) -> list[list[tuple[Any, ...]]]:
    """All that a check decides."""
    return [
        conn.execute(query).fetchall()
        for query in (
            "SELECT window_start, verdict, finished_at FROM drift_runs ORDER BY 1",
            "SELECT incident_id, severity, opened_at, closed_at FROM drift_incidents ORDER BY 1",
            "SELECT incident_id, message, delivered_at FROM drift_notifications ORDER BY 1, 2",
            "SELECT incident_id, view_name, outcome, error FROM drift_rollbacks ORDER BY 1, 2",
            "SELECT kind, from_version, to_version, moved_at FROM promotions ORDER BY moved_at",
        )
    ]

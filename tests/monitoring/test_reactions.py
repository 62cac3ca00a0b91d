"""What follows from a verdict is never lost and happens once: killed at each place, resumed."""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from benchmarks import drift_platform as platform
from benchmarks.drift_platform import DRIFTS, HOUR, SERVICE, START
from extensions import addresses
from extensions.database import connect
from extensions.failpoints import VARIABLE
from monitoring.alerts.automatic_rollback import Policy, in_repository
from monitoring.alerts.notifiers import WEBHOOK, channels
from monitoring.checks import drift_store
from monitoring.checks.drift_schedule import Response, check_and_react, resume
from monitoring.checks.serving_log_window import Window
from monitoring.failpoints import Fault
from monitoring.verdicts import CRITICAL
from tests.monitoring.test_alerts import Receiver, receiver
from tests.versions.conftest import World, published_database, world

__all__ = ["published_database", "receiver", "world"]

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.monitoring.test_reactions"])
VIEW = "item_stats"
WINDOW = Window(SERVICE, START, START + HOUR)
# Between the verdict and its last consequence: nothing may be lost at any of them.
AT_ALERTS = [
    Fault.VERDICT_RECORDED, Fault.REACTION_DECIDED, Fault.REACTION_COMMITTED, Fault.ALERT_BEGUN,
    Fault.ALERT_SENT, Fault.ALERT_NOTED,
]  # fmt: skip


def recorded(path: Path):  # type: ignore[no-untyped-def]
    """A rollback that can be seen from outside: a line of a file for each call."""

    def roll_back(view: str, reason: str, _evidence: Mapping[str, Any]) -> str:
        with path.open("a") as file:
            file.write(f"{view} {reason}\n")
        return "v2 -> v1"

    return roll_back


def response(hook: str, calls: Path) -> Response:
    return Response(channels({WEBHOOK: hook}), Policy(frozenset({VIEW}), 1), recorded(calls))


def _check(url: str, hook: str, calls: Path, fault: str) -> None:
    os.environ[VARIABLE] = fault
    check_and_react(url, WINDOW, response(hook, calls))


def crash(target: Any, *arguments: Any) -> bool:
    """Whether the process was killed; any other end than success fails."""
    process = _FORKSERVER.Process(target=target, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


@pytest.fixture
def conn(fresh_database: str) -> Iterator[psycopg.Connection]:
    """A window that is critical, and no verdict on it yet."""
    with connect(fresh_database, autocommit=True) as conn:
        drift_store.bind(conn, platform.baseline())
        platform.serve(conn, fresh_database, DRIFTS["drama -> unknown"], 1000, 0, seed=1)
        yield conn


def again(conn: psycopg.Connection, url: str, hook: str, calls: Path) -> None:
    """What a restarted `drift watch` does: what is unfinished, then the windows that are due."""
    wait_until_gone(conn)
    reply = response(hook, calls)
    resume(url, None, reply)
    if drift_store.last_window_end(conn, SERVICE, HOUR) is None:
        check_and_react(url, WINDOW, reply)


def wait_until_gone(conn: psycopg.Connection) -> None:
    """PostgreSQL ends a killed client's session, and its lock, when it notices."""
    from tests.served import wait_for  # noqa: PLC0415

    def free() -> bool:
        row = conn.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        ).fetchone()
        return row == (0,)

    wait_for(free)


@pytest.mark.parametrize("fault", AT_ALERTS, ids=lambda fault: fault.value)
def test_an_alert_survives_a_kill(
    conn: psycopg.Connection, fresh_database: str, receiver: Receiver, tmp_path: Path, fault: Fault
) -> None:
    calls = tmp_path / "calls"
    assert crash(_check, fresh_database, receiver.url, calls, fault.value)
    again(conn, fresh_database, receiver.url, calls)
    again(conn, fresh_database, receiver.url, calls)
    # Sent twice only where it was killed after sending; a receiver that looks at the key sees one.
    assert len(receiver.bodies) == (2 if fault is Fault.ALERT_SENT else 1)
    assert len({body["key"] for body in receiver.bodies}) == 1
    assert {body["severity"] for body in receiver.bodies} == {CRITICAL}
    [state] = conn.execute("SELECT delivered_at IS NOT NULL FROM drift_notifications").fetchall()
    assert state == (True,)
    assert len(calls.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("fault", "times"),
    [
        (Fault.VERDICT_RECORDED, 1), (Fault.REACTION_DECIDED, 1), (Fault.REACTION_COMMITTED, 1),
        (Fault.ROLLBACK_BEGUN, 1), (Fault.ROLLBACK_DONE, 2), (Fault.ROLLBACK_NOTED, 1),
    ],
    ids=lambda one: getattr(one, "value", str(one)),
)  # fmt: skip
def test_a_decided_rollback_survives_a_kill(
    conn: psycopg.Connection, fresh_database: str, receiver: Receiver, tmp_path: Path,
    fault: Fault, times: int,
) -> None:  # fmt: skip
    """A program is called again where nobody knows whether it was done, with the same reason."""
    calls = tmp_path / "calls"
    assert crash(_check, fresh_database, receiver.url, calls, fault.value)
    again(conn, fresh_database, receiver.url, calls)
    again(conn, fresh_database, receiver.url, calls)
    lines = calls.read_text().splitlines()
    assert len(lines) == times
    assert len(set(lines)) == 1
    assert conn.execute("SELECT outcome, error FROM drift_rollbacks").fetchall() == [
        ("v2 -> v1", None)
    ]
    assert len(receiver.bodies) == 1


def test_a_verdict_is_not_recorded_without_its_reaction(
    conn: psycopg.Connection, fresh_database: str, receiver: Receiver, tmp_path: Path
) -> None:
    assert crash(
        _check, fresh_database, receiver.url, tmp_path / "calls", Fault.VERDICT_RECORDED.value
    )
    wait_until_gone(conn)
    assert drift_store.recent_runs(conn, SERVICE, 1) == []
    assert conn.execute("SELECT count(*) FROM drift_incidents").fetchone() == (0,)


def test_nothing_is_resumed_of_an_incident_that_is_over(
    conn: psycopg.Connection, fresh_database: str, receiver: Receiver, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    assert crash(_check, fresh_database, receiver.url, calls, Fault.ROLLBACK_BEGUN.value)
    conn.execute("UPDATE drift_incidents SET closed_at = clock_timestamp()")
    again(conn, fresh_database, receiver.url, calls)
    assert not calls.exists()
    assert len(receiver.bodies) == 1  # it had begun, and that is still said


def _move(url: str, redis_url: str, root: str, evidence: dict[str, Any], fault: str) -> None:
    os.environ[VARIABLE] = fault
    os.environ[addresses.POSTGRES_VARIABLE] = url
    os.environ[addresses.REDIS_VARIABLE] = redis_url
    in_repository(Path(root))("item_profile", "incident 7", evidence)


@pytest.mark.parametrize("fault", ["move-checked", "move-noted", "none"])
def test_a_view_goes_back_once(world: World, fault: str) -> None:
    """Killed while it moves or after it: the same reason moves it to the version before, once."""
    from extensions.versions.promotion import promote  # noqa: PLC0415

    for number in (2, 3):
        world.repository.name_version("item_profile", number)
        first = world.repository.path("computations/item_profile.v1.sql").read_text()
        path = world.repository.path(f"computations/item_profile.v{number}.sql")
        path.write_text(first.replace("'unknown'", f"'unknown {number}'"))
        world.apply()
        world.refresh()
        promote(world.conn, world.store().project, "item_profile", number)
    evidence = {"version": 3, "windows": []}
    redis_url = os.environ[addresses.REDIS_VARIABLE]
    killed = crash(_move, world.database, redis_url, str(world.root), evidence, fault)
    assert killed == (fault != "none")
    wait_until_gone(world.conn)
    roll_back = in_repository(world.root)
    for _ in range(2):
        assert roll_back("item_profile", "incident 7", evidence) == "v3 -> v2"
    moves = world.conn.execute("SELECT from_version, to_version FROM promotions "
                               "WHERE kind = 'rollback'").fetchall()  # fmt: skip
    assert moves == [(3, 2)]
    # Another incident's decision against v3 is out of date.
    said = roll_back("item_profile", "incident 8", evidence)
    assert said == "left alone: v2 is the default, and no more v3"

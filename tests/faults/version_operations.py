"""The matrix's commands on versions: apply, promote, rollback, retire."""

import itertools
import random
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
from feast.protos.feast.core.FeatureView_pb2 import FeatureView
from psycopg import sql

from extensions.asof import Computation
from extensions.database import connect
from extensions.stores.log_publishing import registered
from extensions.versions import retirement
from extensions.versions.failpoints import Fault
from extensions.versions.maintained_versions import live_computations
from extensions.versions.promotion import promote, rollback
from tests.faults.http_load import ITEM_VIEW, USER_VIEW, default_version, served
from tests.faults.judge import Oracle, assert_backfilled, everyone, online_rows
from tests.faults.operation import Attempt, Away, Operation
from tests.faults.platform import Command, Platform
from tests.versions.repositories import EXAMPLES

PROJECT = "skewless"
APPLY = tuple(fault.value for fault in Fault if fault.name.startswith("APPLY"))
MOVE = tuple(fault.value for fault in Fault if fault.name.startswith("MOVE"))
RETIRE = tuple(fault.value for fault in Fault if fault.name.startswith("RETIRE"))
# How far back a new version is filled.
FILLED = timedelta(days=3)

States = dict[tuple[str, int], str]


class VersionOperations:
    """Prepares attempts at the commands, on one platform.

    The second versions of the documentation's examples come under ever new numbers; beside the
    first there is at most one of each view.
    """

    def __init__(self, platform: Platform, draw: random.Random) -> None:
        self._platform, self._draw = platform, draw
        self._numbers = {view: itertools.count(2) for view in (USER_VIEW, ITEM_VIEW)}
        self._turns = itertools.cycle((USER_VIEW, ITEM_VIEW))
        self._view = ITEM_VIEW

    def published(self) -> dict[str, Operation]:
        """From a new version to its last day as the default."""
        return {
            "apply": Operation(self._apply, APPLY),
            "promote": Operation(self._promote, MOVE, ("postgres",)),
            "rollback": Operation(self._rollback, MOVE, ("postgres",)),
        }

    def retired(self) -> dict[str, Operation]:
        """The end of a version."""
        return {"retire": Operation(self._retire, RETIRE)}

    def second_as_default(self, view: str) -> int:
        """Make a version of the example the default, where nobody is killed."""
        with self._conn() as conn:
            number = self._live_second(conn, view)
            if default_version(conn, view) != number:
                promote(conn, PROJECT, view, number)
        return number

    def _apply(self) -> Attempt:
        self._view = view = next(self._turns)
        with self._conn() as conn:
            self._only_the_first(conn, view)
            before = states(conn)
        number = self._write(view)
        since = datetime.now(UTC) - FILLED
        return Attempt(
            self._start("apply", "--from", since.isoformat()),
            beside=self._served({}),
            check=partial(self._assert_states, {**before, (view, number): "live"}),
            after=lambda where, oracle: self._assert_filled(where, oracle, view, number, since),
        )

    def _promote(self) -> Attempt:
        view = self._view
        with self._conn() as conn:
            number = self._live_second(conn, view)
            if default_version(conn, view) != 1:
                rollback(conn, PROJECT, view, 1)
            before = states(conn)
            moves = moves_of(conn, view)
        expected = {**before, (view, 1): "live", (view, number): "active"}

        def check(where: str) -> None:
            self._assert_states(expected, where)
            self._assert_moved_once(view, moves, ("promote", 1, number), where)

        return Attempt(
            self._start("promote", view, f"v{number}", "--why", "the matrix"),
            completed=lambda command: _done(command, "is the default of"),
            beside=self._served({view: number}),
            check=check,
        )

    def _rollback(self) -> Attempt:
        view = self._view
        number = self.second_as_default(view)
        with self._conn() as conn:
            before = states(conn)
            moves = moves_of(conn, view)
        expected = {**before, (view, 1): "active", (view, number): "live"}

        def check(where: str) -> None:
            self._assert_states(expected, where)
            self._assert_moved_once(view, moves, ("rollback", number, 1), where)

        return Attempt(
            self._start("rollback", view, "--why", "the matrix"),
            completed=lambda command: _done(command, "no version of"),
            beside=self._served({view: 1}),
            check=check,
        )

    def _retire(self) -> Attempt:
        view = self._view
        with self._conn() as conn:
            number = self._live_second(conn, view)
            if default_version(conn, view) != 1:
                rollback(conn, PROJECT, view, 1)
            before = states(conn)
            computation = live_computations(conn, {})[f"{view}.v{number}"]
            store = self._platform.store()
            # Taken now: the registry is to forget it.
            feast_view = registered(store, computation)
            online = partial(online_rows, store, computation, everyone(computation), feast_view)
            assert any(online().values())
        self._platform.repository.name_version(view, 1)

        def check(where: str) -> None:
            self._assert_states({**before, (view, number): "retired"}, where)
            assert not any(online().values()), f"{where}: rows are left in Redis"
            with self._conn() as conn:
                assert _traces(conn, computation) == {}, where

        return Attempt(
            self._start("retire", view, f"v{number}", "--keep-log-days", "0"),
            beside=self._served({}),
            check=check,
        )

    def _conn(self) -> psycopg.Connection:
        return connect(self._platform.url, autocommit=True)

    def _start(self, *arguments: str) -> Callable[[str], Command]:
        return lambda fault: self._platform.start(*arguments, fault=fault)

    def _served(
        self, after: Mapping[str, int]
    ) -> Callable[[list[Away]], AbstractContextManager[None]]:
        return lambda away: served(self._platform, away, after)

    def _write(self, view: str) -> int:
        """The files name the next version of a view, with the example's SQL."""
        number = next(self._numbers[view])
        repository = self._platform.repository
        target = repository.path(f"computations/{view}.v{number}.sql")
        shutil.copy(EXAMPLES / f"{view}.v2.sql", target)
        repository.name_version(view, number)
        return number

    def _live_second(self, conn: psycopg.Connection, view: str) -> int:
        """A version of the example that is complete; applied now unless there is one."""
        kept = _kept(conn, view)
        if not kept:
            kept = [self._write(view)]
            self._platform.apply(datetime.now(UTC) - FILLED)
        return kept[0]

    def _only_the_first(self, conn: psycopg.Connection, view: str) -> None:
        if default_version(conn, view) != 1:
            rollback(conn, PROJECT, view, 1)
        for number in _kept(conn, view):
            self._platform.repository.name_version(view, 1)
            retirement.retire(self._platform.store(), conn, view, number)

    def _assert_states(self, expected: States, where: str) -> None:
        """All versions are in the state expected of them, and Feast's default is ours."""
        with self._conn() as conn:
            assert states(conn) == expected, where
            for view, version in [key for key, state in expected.items() if state == "active"]:
                row = conn.execute(
                    "SELECT feature_view_proto FROM feature_views "
                    "WHERE feature_view_name = %s AND project_id = %s",
                    [view, PROJECT],
                ).fetchone()
                if row is None:  # a transform, which is no row of this table
                    continue
                assert FeatureView.FromString(bytes(row[0])).spec.version == f"v{version}", where

    def _assert_moved_once(
        self, view: str, before: list[tuple[str, int, int]], move: tuple[str, int, int], where: str
    ) -> None:
        with self._conn() as conn:
            assert moves_of(conn, view) == [*before, move], where

    def _assert_filled(
        self, where: str, oracle: Oracle, view: str, number: int, since: datetime
    ) -> None:
        """The new version's log says of every moment since ``since`` what the oracle says."""
        with self._conn() as conn:
            computation = live_computations(conn, {})[f"{view}.v{number}"]
            between = (since, self._platform.begun)
            assert_backfilled(conn, oracle, computation, between, self._draw, where)


def states(conn: psycopg.Connection) -> States:
    """The state of every version that was ever published."""
    rows = conn.execute("SELECT view_name, version, state FROM view_versions").fetchall()
    return {(view, version): state for view, version, state in rows}


def _kept(conn: psycopg.Connection, view: str) -> list[int]:
    rows = conn.execute(
        "SELECT version FROM view_versions "
        "WHERE view_name = %s AND version > 1 AND state IN ('live', 'active')",
        [view],
    ).fetchall()
    return [version for (version,) in rows]


def moves_of(conn: psycopg.Connection, view: str) -> list[tuple[str, int, int]]:
    return conn.execute(
        "SELECT kind, from_version, to_version FROM promotions WHERE view_name = %s "
        "ORDER BY moved_at",
        [view],
    ).fetchall()


def _done(command: Command, sentence: str) -> bool:
    """Whether the move is made: now, or by the attempt before, as the sentence says."""
    return command.process.exitcode == 0 or sentence in " ".join(command.text().split())


def _traces(conn: psycopg.Connection, computation: Computation) -> dict[str, int]:
    """What PostgreSQL still holds of a retired version, by table."""
    found = {}
    for table in ("watermarks", "backfills", "online_epochs"):
        row = conn.execute(
            sql.SQL("SELECT count(*) FROM {} WHERE view_name = %s AND version = %s").format(
                sql.Identifier(table)
            ),
            [computation.view, computation.version],
        ).fetchone()
        assert row is not None
        found[table] = int(row[0])
    log = conn.execute("SELECT to_regclass(%s) IS NOT NULL", [computation.log_table]).fetchone()
    assert log is not None
    return {**{table: n for table, n in found.items() if n}, **({"log": 1} if log[0] else {})}

"""The kill matrix: each command with itself or a server killed in its midst, then done again.

Whatever was killed, and when: the command says one sentence or succeeds, the same command again
completes it, and log and Redis then hold what the oracle says, with no event lost or doubled. A
kill comes at a random instant, or at a failpoint: there the program kills itself, or it stands
still while a server is killed and started again, and goes on then.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from extensions.database import connect
from extensions.operations.refresh import Refresher
from extensions.versions.maintained_versions import live_computations
from tests.faults.compute_operations import ComputeOperations
from tests.faults.drift_operations import DriftOperations, receiving
from tests.faults.judge import Oracle, assert_view, history
from tests.faults.operation import Attempt, Away, Cell, Operation, Result
from tests.faults.platform import Command, Platform
from tests.faults.version_operations import VersionOperations
from tests.monitoring.test_alerts import Receiver

VICTIMS = ("program", "postgres", "redis")
# How often the same command may fail after everything is back.
_ATTEMPTS = 2


@dataclass
class KillMatrix:
    """Runs cells one after the other on one platform, and judges after each."""

    platform: Platform
    seed: int
    operations: dict[str, Operation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self._took: dict[str, float] = {}
        # The first process of all waits for everything to be imported: its time says nothing.
        first = self.platform.start("refresh")
        assert first.end() == 0, first.text()

    def undisturbed(self, operation: str) -> float:
        """Seconds that the operation takes when nobody dies; measured once."""
        if operation not in self._took:
            attempt = self.operations[operation].begin()
            began = time.monotonic()
            running = attempt.start("")
            running.end()
            self._took[operation] = time.monotonic() - began
            assert attempt.completed(running), running.text()
        return self._took[operation]

    def run(self, cell: Cell) -> Result:
        """Kill the victim in the midst of the operation; then everything must come right.

        Raises:
            AssertionError: it did not, and how.
        """
        began = time.monotonic()
        where = f"{cell} (seed {self.seed})"
        took = 0.0 if cell.at else self.undisturbed(cell.operation)
        attempt = self.operations[cell.operation].begin()
        away: list[Away] = []
        with attempt.beside(away):
            hit, code = self._kill(cell, attempt, took, away)
            attempt.between()
            _until_completed(attempt, where)
            attempt.check(where)
        self._judge(where, attempt)
        return Result(cell, hit, code, round(time.monotonic() - began, 1))

    def cells(self, rounds: int) -> list[Cell]:
        """The whole matrix: ``rounds`` random instants, then each failpoint with each victim.

        The order of the operations is a version's life, so that few must be made for a cell alone.
        """
        found = [Cell(name, victim) for victim in VICTIMS for name in self.operations] * rounds
        for victim in VICTIMS:
            most = max(len(operation.failpoints) for operation in self.operations.values())
            for place in range(most):
                found += [
                    Cell(name, victim, operation.failpoints[place])
                    for name, operation in self.operations.items()
                    if place < len(operation.failpoints)
                    and (victim == "program" or victim in operation.servers)
                ]
        return found

    def _kill(
        self, cell: Cell, attempt: Attempt, took: float, away: list[Away]
    ) -> tuple[bool, int]:
        """Returns whether the victim died while the command ran, and the command's exit code."""
        if cell.at and cell.victim == "program":
            code = _end(attempt.start(cell.at))
            assert code < 0, f"{cell}: the failpoint was not passed (exit code {code})"
            return True, code
        if cell.at:
            running = attempt.start(f"{cell.at}:1:freeze")
            assert running.wait_until_frozen(), f"{cell}: not passed: {running.text()}"
            away.append(Away(cell.victim, *self.platform.kill_server(cell.victim)))
            running.go_on()
            return True, running.end()
        running = attempt.start("")
        time.sleep(self.draw.uniform(0, took))
        if cell.victim == "program":
            code = running.kill()
            return code < 0, code
        hit = running.process.is_alive()
        away.append(Away(cell.victim, *self.platform.kill_server(cell.victim)))
        return hit, running.end()

    def _judge(self, where: str, attempt: Attempt) -> None:
        """Log = Redis = oracle for every entity; nothing of the history lost or doubled."""
        store = self.platform.store()
        with connect(self.platform.url, autocommit=True) as conn:
            refresher = Refresher(conn, {}, store)
            refresher.refresh(refresher.choose(None), None)
            oracle = Oracle.of(history(self.platform.url))
            stored = [watch.event_id for watch in oracle.whole.deliveries]
            assert len(stored) == len(set(stored)), where
            for computation in live_computations(conn, {}).values():
                assert_view(conn, store, oracle, computation, where)
        attempt.after(where, oracle)


def _end(running: Command) -> int:
    running.process.join(120)
    assert not running.process.is_alive(), f"{running.name} hangs: {running.text()}"
    return running.process.exitcode or 0


def _until_completed(attempt: Attempt, where: str) -> None:
    told = []
    for _ in range(_ATTEMPTS):
        running = attempt.start("")
        running.end()
        if attempt.completed(running):
            return
        told.append(running.text())
    raise AssertionError(f"{where}: does not complete: {told}")


@contextmanager
def kill_matrix(folder: Path, seed: int) -> Iterator[KillMatrix]:
    """A matrix of all operations, on a platform of its own."""
    with Platform.run(folder) as platform, receiving() as receiver:
        matrix = KillMatrix(platform, seed)
        matrix.operations |= all_operations(platform, matrix.draw, receiver)
        yield matrix


def all_operations(
    platform: Platform, draw: random.Random, receiver: Receiver
) -> dict[str, Operation]:
    """The commands of the matrix, in the order of a version's life."""
    versions = VersionOperations(platform, draw)
    return {
        **ComputeOperations(platform, draw).all(),
        **versions.published(),
        **DriftOperations(platform, versions, receiver).all(),
        **versions.retired(),
    }

"""What the kill matrix is made of: cells, and operations that prepare attempts at a command."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from tests.faults.judge import Oracle
from tests.faults.platform import Command


@dataclass(frozen=True)
class Cell:
    """One command and who is killed during it; ``at``: a failpoint, else a random instant."""

    operation: str
    victim: str
    at: str = ""

    @property
    def name(self) -> str:
        """To choose cells by."""
        return f"{self.operation}/{self.victim}/{self.at or 'random'}"


@dataclass(frozen=True)
class Result:
    """What a cell did; ``hit``: the command was still running when the victim was killed."""

    cell: Cell
    hit: bool
    first_exit: int
    seconds: float


@dataclass(frozen=True)
class Away:
    """A server that was killed, and until when it was away, by `time.monotonic`."""

    kind: str
    killed: float
    back: float


@dataclass
class Attempt:
    """One run of an operation, from its preparation to what must hold after it.

    Attributes:
        start: starts the command, with a failpoint armed ("" for none); may be called again.
        completed: whether an ended command leaves nothing to do.
        beside: what goes on meanwhile, as requests over HTTP; gets the list of servers that were
            away, which grows.
        between: asserts what must hold between the kill and the next attempt.
        check: asserts what must hold once the command was completed.
        after: asserts what must hold once everything was computed up to now.
    """

    start: Callable[[str], Command]
    completed: Callable[[Command], bool] = lambda command: command.process.exitcode == 0
    beside: Callable[[list[Away]], AbstractContextManager[None]] = lambda _: nullcontext()
    between: Callable[[], None] = lambda: None
    check: Callable[[str], None] = lambda _: None
    after: Callable[[str, Oracle], None] = lambda *_: None


@dataclass(frozen=True)
class Operation:
    """A command of the matrix: how an attempt at it is prepared, and its failpoints.

    ``servers``: those that it uses, and that are killed at its failpoints. At random instants any
    server is killed.
    """

    begin: Callable[[], Attempt]
    failpoints: tuple[str, ...] = ()
    servers: tuple[str, ...] = ("postgres", "redis")

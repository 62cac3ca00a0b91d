"""A server: a child process that answers on a port of the loopback interface."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from extensions.errors import SkewlessError, UnavailableError
from extensions.local.child_process import Child
from extensions.local.ports import free_port, is_free, require_free

_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Server:
    """A server that was spawned; :meth:`ready` returns once it answers.

    ``url`` is what clients connect to: a URL for PostgreSQL and Valkey, ``host:port`` for Kafka.
    ``probe`` tells whether *this* process answers (and not another one that took the port); it
    returns False, or raises OSError, until then. ``ports`` are all the ports that it binds.
    """

    child: Child
    url: str
    ports: tuple[int, ...]
    probe: Callable[[], bool]
    ready_within: float

    @property
    def name(self) -> str:
        """The server's name, as people are told it."""
        return self.child.name

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return self.ports[0]

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self.child.pid

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The process itself."""
        return self.child.process

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.child.alive

    def stop(self, timeout: float = 20.0) -> None:
        """End it in an orderly way, or by SIGKILL ``timeout`` seconds later; idempotent."""
        self.child.stop(timeout)

    def ready(self) -> "Server":
        """Wait until it answers, and return it.

        Raises SkewlessError with its last words when it dies first or takes longer than
        ``ready_within`` seconds; it is stopped then.
        """
        deadline = time.monotonic() + self.ready_within
        pause = _FIRST_PAUSE_SECONDS
        try:
            while self.alive:
                if self._answers():
                    return self
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"{self.name} did not answer on port {self.port} within "
                        f"{self.ready_within:.0f} s; see {self.child.log_path}."
                    )
                time.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
        except BaseException:
            self.stop(timeout=5.0)
            raise
        words = self.child.last_words() or f"exit code {self.child.exit_code}"
        raise SkewlessError(f"{self.name} did not start on port {self.port}: {words}.")

    def _answers(self) -> bool:
        try:
            return self.probe()
        except (OSError, ValueError):
            return False


Launch = Callable[[int], Server]


def start(launch: Launch, port: int | None, name: str) -> Server:
    """Launch a server on ``port`` (any free one when None) and wait until it answers.

    Raises ConflictError when ``port`` is taken, or when the server dies for another reason
    than a port that somebody else took in the meantime.
    """
    if port is None:
        return ready_or_again(launch(free_port()), launch)
    require_free(port, name)
    return launch(port).ready()


def ready_or_again(server: Server, launch: Launch) -> Server:
    """Wait for ``server``; when it lost its port to another program, launch it on another one."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return server.ready()
        except SkewlessError:
            if all(is_free(port) for port in server.ports):
                raise
        server = launch(free_port())
    return server.ready()

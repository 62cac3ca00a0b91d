"""Supervisor of the local stack's programs: spawn them, restart them, rotate their logs."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from extensions.cli.console import err
from extensions.errors import SkewlessError

if TYPE_CHECKING:
    from extensions.local.stack import Stack

# Back off before restarting a program that died, and give up after so many restarts.
RESTART_PAUSE_SECONDS = 2.0
RESTARTS_PER_PROGRAM = 5
HEALTHY_SECONDS = 300.0
# Seconds between two looks at whether log files are full.
_ROTATE_EVERY_SECONDS = 10.0
_READY_EVERY_SECONDS = 0.25


def apply_definitions(stack: "Stack") -> None:
    """Migrate the stack's database and run `feast apply`, in a process of its own."""
    _run(stack, "bootstrap", [sys.executable, "-P", "-m", "extensions.cli.stack_bootstrap"])


def run_feast(stack: "Stack", *arguments: str) -> None:
    """Run one of Feast's commands in the repository, with the stack's addresses."""
    _run(stack, f"feast {arguments[0]}", [_program("feast"), *arguments])


def _run(stack: "Stack", name: str, argv: Sequence[str | Path]) -> None:
    from extensions.local.child_process import run
    from extensions.repository import repo_root

    log = stack.home / f"{name.replace(' ', '-')}.log"
    run(argv, name, log, timeout=300, env=stack.environ(), cwd=repo_root())


class Programs:
    """The stack's programs: spawned in order, restarted when one dies."""

    def __init__(
        self,
        stack: "Stack",
        port: int = 0,
        only: Sequence[str] = (),
        metrics_port: int | None = None,
    ) -> None:
        from extensions.local.ports import free_port

        self.port = port = port or free_port()
        self.stack = stack
        self.http = f"http://127.0.0.1:{port}"
        skewless = _program("skewless")
        # The broker in memory forgets its topics when it stops; PostgreSQL keeps their offsets.
        on_lost = "earliest" if stack.kafka == "tansu" and "kafka" in stack.servers else "stop"
        metrics = [] if metrics_port is None else ["--metrics-port", str(metrics_port)]
        self._argv: dict[str, list[str | Path]] = {
            "ingest": [skewless, "ingest", "--on-lost", on_lost, *metrics],
            "refresh": [skewless, "refresh", "--due", "--every", "10"],
            "serve": [skewless, "serve", "--port", str(port)],
        }
        self._restarts = dict.fromkeys(self._argv, 0)
        self._started: dict[str, float] = {}
        for name in only or self._argv:
            self._spawn(name)
        stack.publish(http=self.http)

    def _spawn(self, name: str) -> None:
        self._started[name] = time.monotonic()
        self.stack.spawn(self._argv[name], name)

    def wait_until_serving(self) -> None:
        """Return once the HTTP server answers; it takes some seconds to start.

        Raises:
            SkewlessError: as `watch`.
        """
        while not _answers(f"{self.http}/health"):
            self._restart_dead(_READY_EVERY_SECONDS)

    def watch(self) -> None:
        """Return never; a dead server ends the stack, a dead program comes back.

        Raises:
            SkewlessError: a server died, or a program kept dying.
        """
        while True:
            self._restart_dead(_ROTATE_EVERY_SECONDS)
            self.stack.rotate_logs()

    def _restart_dead(self, timeout: float) -> None:
        """Wait ``timeout`` seconds for something to die; start it again if it is a program."""
        dead = self.stack.wait_any(timeout)
        if dead is None:
            return
        words = dead.last_words() or f"exit code {dead.exit_code}"
        if dead.name not in self._argv:
            raise SkewlessError(f"{dead.name} died ({words}); the stack is stopped.")
        if dead.name == "serve":
            # Another program was quicker than ours: trying again would not help.
            from extensions.local.ports import require_free

            require_free(self.port, "The HTTP server")
        if time.monotonic() - self._started[dead.name] > HEALTHY_SECONDS:
            self._restarts[dead.name] = 0
        self._restarts[dead.name] += 1
        if self._restarts[dead.name] > RESTARTS_PER_PROGRAM:
            raise SkewlessError(
                f"`skewless {dead.name}` keeps dying ({words}): run it by itself to see why."
            )
        err.print(f"{dead.name} died ({words}); starting it again.", markup=False)
        time.sleep(RESTART_PAUSE_SECONDS)
        self._spawn(dead.name)


def _answers(url: str) -> bool:
    """Whether an HTTP server answers ``url`` with success."""
    # Only here: they would cost every command's start.
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own address
            return True
    except (OSError, http.client.HTTPException):
        return False


def _program(name: str) -> Path:
    """A command of the environment that this Python runs in."""
    return Path(sys.executable).parent / name

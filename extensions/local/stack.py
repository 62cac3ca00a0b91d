"""The stack: PostgreSQL, Redis and Kafka for one folder, started and stopped together."""

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal, NamedTuple, Self

from extensions import addresses
from extensions.errors import ConflictError, InputError, SkewlessError
from extensions.local import apache_kafka, postgres, tansu, valkey
from extensions.local.child_process import Child, spawn, stop_all, wait_any
from extensions.local.lockfile import HomeLock, read_json, write_json
from extensions.local.ports import free_port, holder_of, is_free
from extensions.local.server_process import Server, ready_or_again
from extensions.repository import REPO_VARIABLE, find_repository

KafkaChoice = Literal["tansu", "apache"]

_CHILDREN_STOP_SECONDS = 10.0
_SERVERS_STOP_SECONDS = 20.0


class Part(NamedTuple):
    """One server of the stack: its key in stack.json, and the variable that replaces it."""

    key: str
    variable: str
    folder: str
    launch: Callable[[Path, int], Server]


@dataclass(frozen=True)
class Addresses:
    """Where the three servers are, whether the stack runs them or somebody else does."""

    postgres: str
    redis: str
    kafka: str


class Stack:
    """Context manager: the servers run inside the ``with`` block, and nothing runs after it.

    Every server whose address the environment names is used as it is; the others are started
    with their data in ``home`` (``addresses.home()`` when None), on the ports that they had the
    last time if those are free. Enter it in the main thread. Inside, SIGTERM and SIGHUP raise
    SystemExit, so that they stop the servers as Ctrl-C does.

    Entering raises SkewlessError when another stack runs in ``home`` or a server does not start.
    """

    addresses: Addresses

    def __init__(
        self, home: Path | None = None, *, kafka: KafkaChoice = "tansu", durable: bool = True
    ) -> None:
        self.home = addresses.home() if home is None else home.resolve()
        self.servers: dict[str, Server] = {}
        # Sentences about servers that are not on the port that they had the last time.
        self.moved: list[str] = []
        self._durable = durable
        self.kafka = kafka
        self._children: list[Child] = []
        self._published: dict[str, str] = {}
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.enter_context(HomeLock(self.home))
            exits.enter_context(_TerminationAsExit())
            exits.callback(self._stop)
            self._start()
            self.publish()
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.close()

    def environ(self) -> dict[str, str]:
        """Our environment, with the addresses of this stack: for the programs it spawns.

        With the repository, whose folder need not be a program's working directory; without the
        folder of metrics that Feast makes for each process when it is imported.
        """
        repository = find_repository()
        own = {
            name: value
            for name, value in os.environ.items()
            if not Path(value).name.startswith("feast_metrics_")
        }
        return own | {
            addresses.POSTGRES_VARIABLE: self.addresses.postgres,
            addresses.REDIS_VARIABLE: self.addresses.redis,
            addresses.KAFKA_VARIABLE: self.addresses.kafka,
            addresses.HOME_VARIABLE: str(self.home),
            **({} if repository is None else {REPO_VARIABLE: str(repository)}),
        }

    def spawn(
        self, argv: Sequence[str | Path], name: str, env: Mapping[str, str] | None = None
    ) -> Child:
        """Start a program of the stack, stopped with it and before its servers.

        Its output goes to ``<home>/<name>.log``; ``env`` is :meth:`environ` when None.
        """
        log_path = self.home / f"{name}.log"
        child = spawn(argv, name, log_path, self.environ() if env is None else env)
        self._children.append(child)
        return child

    def wait_any(self, timeout: float | None = None) -> Child | None:
        """The next server or program found dead, once each; None after ``timeout`` seconds.

        Its ``name``, ``exit_code`` and ``last_words()`` say what happened. A program may be
        spawned again.
        """
        watched = [*self._children, *(server.child for server in self.servers.values())]
        dead = wait_any(watched, timeout)
        if dead is not None:
            self._children = [child for child in self._children if child is not dead]
            self.servers = {
                key: server for key, server in self.servers.items() if server.child is not dead
            }
        return dead

    def http_port(self, preferred: int) -> int:
        """A port for the HTTP server: ``preferred``, that of the last time, or any free one.

        Another repository's stack may have the first; `moved` then says so.
        """
        ports_file = self.home / "ports.json"
        remembered = read_json(ports_file)
        if is_free(preferred):
            return preferred
        before = remembered.get("http")
        port = free_port(before if isinstance(before, int) else None)
        self.moved.append(
            f"The HTTP server listens on port {port}: {preferred} is in use by "
            f"{holder_of(preferred)}."
        )
        write_json(ports_file, remembered | {"http": port})
        return port

    def rotate_logs(self) -> None:
        """Begin new log files where programs and servers have filled theirs."""
        for child in (*self._children, *(server.child for server in self.servers.values())):
            child.rotate_log()

    def publish(self, **more: str) -> None:
        """Write stack.json, with further addresses (``http="http://127.0.0.1:8566"``)."""
        self._published |= more
        state = {
            "pid": os.getpid(),
            "postgres": self.addresses.postgres,
            "redis": self.addresses.redis,
            "kafka": self.addresses.kafka,
            **self._published,
        }
        write_json(_state_file(self.home), state)

    def _start(self) -> None:
        ports_file = self.home / "ports.json"
        remembered = read_json(ports_file)
        to_start = [part for part in self._parts() if not addresses.set_elsewhere(part.key)]
        launches: dict[str, Callable[[int], Server]] = {}
        # All are spawned before the first is waited for. Only the main thread may spawn, and
        # waiting in turn takes no longer than the slowest of them.
        for part in to_start:
            launches[part.key] = self._launch_of(part)
            port = remembered.get(part.key)
            taken = frozenset(port for server in self.servers.values() for port in server.ports)
            chosen = free_port(port if isinstance(port, int) else None, taken)
            self.servers[part.key] = launches[part.key](chosen)
        for key, server in list(self.servers.items()):
            self.servers[key] = ready_or_again(server, launches[key])
            if (before := remembered.get(key)) not in (None, self.servers[key].port):
                self.moved.append(
                    f"{server.name} listens on port {self.servers[key].port}: {before}, its port "
                    f"of the last time, is in use by {holder_of(before)}."
                )
        ports = {key: server.port for key, server in self.servers.items()}
        write_json(ports_file, remembered | ports)
        found = {
            part.key: addresses.set_elsewhere(part.key) or self.servers[part.key].url
            for part in self._parts()
        }
        self.addresses = Addresses(**found)

    def _parts(self) -> tuple[Part, Part, Part]:
        # The slow ones first: PostgreSQL's first start initialises its folder meanwhile.
        durable = self._durable
        broker = {
            "tansu": Part("kafka", addresses.KAFKA_VARIABLE, "tansu", tansu.launch),
            "apache": Part("kafka", addresses.KAFKA_VARIABLE, "kafka", apache_kafka.launch),
        }.get(self.kafka)
        if broker is None:
            raise InputError(f"There is no broker {self.kafka!r}: say `tansu` or `apache`.")
        return (
            broker,
            Part(
                "redis",
                addresses.REDIS_VARIABLE,
                "valkey",
                lambda folder, port: valkey.launch(folder, port, durable=durable),
            ),
            Part(
                "postgres",
                addresses.POSTGRES_VARIABLE,
                "postgres",
                lambda folder, port: postgres.launch(folder, port, durable=durable),
            ),
        )

    def _launch_of(self, part: Part) -> Callable[[int], Server]:
        return lambda port: part.launch(self.home / part.folder, port)

    def _stop(self) -> None:
        # A second Ctrl-C must not leave half of it running; the time that this takes is bounded.
        with _Ignored(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            _state_file(self.home).unlink(missing_ok=True)
            stop_all(self._children, _CHILDREN_STOP_SECONDS)
            servers = [server.child for server in self.servers.values()]
            stop_all(servers, _SERVERS_STOP_SECONDS)
        self._children = []
        self.servers = {}


def stop_running(home: Path | None = None, timeout: float = 45.0) -> int | None:
    """Stop the stack that runs in ``home``, and return the pid it had; None when none runs.

    It is asked by SIGTERM and, when it has not ended ``timeout`` seconds later, killed: its
    servers then end by themselves.
    """
    folder = addresses.home() if home is None else home.resolve()
    lock = HomeLock(folder)
    if (pid := lock.holder()) is None:
        _state_file(folder).unlink(missing_ok=True)
        return None
    for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5.0)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise ConflictError(
                f"The stack in {folder} is process {pid} of another user: stop it as that user."
            ) from None
        if lock.wait_free(patience):
            _state_file(folder).unlink(missing_ok=True)
            return pid
    raise SkewlessError(f"The stack in {folder} (process {pid}) does not end, not even by SIGKILL.")


def _state_file(home: Path) -> Path:
    return home / "stack.json"


class _Ignored:
    """These signals do nothing inside the block; a no-op outside the main thread."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, signal.SIG_IGN) for n in self._numbers}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


class _TerminationAsExit(_Ignored):
    """SIGTERM and SIGHUP raise SystemExit inside the block, so that ``finally`` clauses run."""

    def __init__(self) -> None:
        super().__init__(signal.SIGTERM, signal.SIGHUP)

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, _leave) for number in self._numbers}


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)

"""A small platform on durable servers: commands that can be killed, and an HTTP server beside."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
from feast import FeatureStore

from extensions import addresses
from extensions.cli import main
from extensions.cli.app import app
from extensions.database import connect
from extensions.failpoints import VARIABLE
from extensions.local import postgres, valkey
from extensions.local.ports import free_port
from extensions.local.server_process import Server
from extensions.operations.database_setup import prepare_database
from extensions.versions.apply import apply
from tests.online.repository import watch
from tests.versions.repositories import Repository

USERS, ITEMS, EVENTS = 40, 24, 2_000
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.faults.preload"])
_SERVERS = {"postgres": postgres, "redis": valkey}
_HTTP_SERVER = """
import sys
from pathlib import Path
from extensions.serving.server import run
from extensions.serving.settings import Settings
run(Settings(repo=Path.cwd(), port=int(sys.argv[1]), workers=2, redis_deadline_ms=2000))
"""


@dataclass
class Platform:
    """Servers with data of their own, a copy of the repository that is applied, and history.

    ``begun``: from then on values were computed live; what the logs hold of earlier moments was
    backfilled. ``answered`` and ``refused``: requests over HTTP beside the commands.
    """

    folder: Path
    repository: Repository
    servers: dict[str, Server] = field(default_factory=dict)
    commands: int = 0
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    answered: int = 0
    refused: int = 0
    _http: "subprocess.Popen[bytes] | None" = None
    _http_port: int = 0

    @classmethod
    @contextlib.contextmanager
    def run(cls, folder: Path) -> Iterator["Platform"]:
        """Servers that are stopped at the end, whoever killed them in between."""
        platform = cls(folder, Repository.copy(folder / "repository"))
        before = {name: os.environ.get(name) for name in _VARIABLES}
        try:
            for kind, module in _SERVERS.items():
                platform.servers[kind] = module.start(folder / kind)
            platform.prepare()
            yield platform
        finally:
            if platform._http is not None:
                platform._http.terminate()
                platform._http.wait(30)
            for server in platform.servers.values():
                server.stop()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    @property
    def root(self) -> Path:
        return self.repository.root

    @property
    def url(self) -> str:
        return self.servers["postgres"].url

    @property
    def environment(self) -> dict[str, str]:
        return {
            addresses.POSTGRES_VARIABLE: self.url,
            addresses.REDIS_VARIABLE: self.servers["redis"].url,
        }

    def store(self) -> FeatureStore:
        return FeatureStore(str(self.root))

    def prepare(self) -> None:
        os.environ.update(self.environment)
        prepare_database(self.url)
        watch(self.url, USERS, ITEMS, EVENTS, datetime.now(UTC) - timedelta(minutes=5))
        self.begun = datetime.now(UTC)
        self.apply()

    def apply(self, since: datetime | None = None) -> None:
        """`skewless apply` in this process, where nobody is killed."""
        with self.repository.current(), connect(self.url, autocommit=True) as conn:
            apply(conn, self.root, since=since)

    def start(
        self, *arguments: str, fault: str = "", environment: Mapping[str, str] | None = None
    ) -> "Command":
        """A `skewless` command in a process of its own, everything imported already.

        ``fault``: the failpoint that is armed in it, as `extensions.failpoints` reads it.
        """
        return self._start(_skewless, arguments, {**(environment or {}), VARIABLE: fault})

    def start_materialize(self) -> "Command":
        """`feast materialize` over all history, the same way."""
        return self._start(_materialize, (), {})

    def _start(
        self,
        target: Callable[..., None],
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
    ) -> "Command":
        self.commands += 1
        output = self.folder / f"command-{self.commands}.log"
        process = _FORKSERVER.Process(
            target=target,
            args=(arguments, {**self.environment, **environment}, str(output), str(self.root)),
            daemon=True,
        )
        process.start()
        return Command(process, output, " ".join(arguments) or target.__name__)

    def kill_server(self, kind: str) -> tuple[float, float]:
        """Kill −9 a server, and start it again on its data and port.

        Returns when it was killed and when it answered again, by `time.monotonic`.
        """
        old = self.servers[kind]
        killed = time.monotonic()
        old.process.kill()
        old.process.wait(20)
        self.servers[kind] = _SERVERS[kind].start(self.folder / kind, old.port)
        return killed, time.monotonic()

    def http_port(self) -> int:
        """The port of an HTTP server of two workers, which is started when first asked for."""
        if self._http is None:
            self._http_port = free_port()
            self._http = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _HTTP_SERVER, str(self._http_port)],
                cwd=self.root,
                stderr=(self.folder / "http.log").open("ab"),
            )
        deadline = time.monotonic() + 300
        while not self._ready():
            assert self._http.poll() is None, "the HTTP server has ended"
            assert time.monotonic() < deadline, "the HTTP server is not ready"
            time.sleep(0.1)
        return self._http_port

    def _ready(self) -> bool:
        url = f"http://127.0.0.1:{self._http_port}/ready"
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


_VARIABLES = (addresses.POSTGRES_VARIABLE, addresses.REDIS_VARIABLE)


@dataclass(frozen=True)
class Command:
    """A command under way; its output goes to a file."""

    process: BaseProcess
    output: Path
    name: str

    def end(self, seconds: float = 120) -> int:
        """Its exit code.

        Raises:
            AssertionError: it hangs, or a person would see a traceback.
        """
        self.process.join(seconds)
        assert not self.process.is_alive(), f"{self.name} hangs: {self.text()}"
        assert "Traceback" not in self.text(), f"{self.name}: {self.text()}"
        assert self.process.exitcode is not None
        return self.process.exitcode

    def kill(self) -> int:
        """Kill −9 it, wherever it is; returns its exit code, which may be of an earlier end."""
        self.process.kill()
        self.process.join(20)
        return self.process.exitcode or 0

    def wait_until_frozen(self, seconds: float = 300) -> bool:
        """Whether it stopped at its failpoint (``…:freeze``); False where it ended before."""
        deadline = time.monotonic() + seconds
        while self.process.is_alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                if psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED:
                    return True
            if time.monotonic() > deadline:
                self.kill()  # what comes next must not meet it
                raise AssertionError(f"{self.name} does not come to its failpoint")
            time.sleep(0.01)
        return False

    def go_on(self) -> None:
        """Let a frozen command continue."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


def _skewless(
    arguments: tuple[str, ...], environment: Mapping[str, str], output: str, root: str
) -> None:
    with _as_a_command(environment, output, Path(root)):
        sys.argv = ["skewless", *arguments]
        main(lambda: app(standalone_mode=True))


def _materialize(
    _: tuple[str, ...], environment: Mapping[str, str], output: str, root: str
) -> None:
    def run() -> None:
        store = FeatureStore(root)
        store.materialize(datetime.now(UTC) - timedelta(days=60), datetime.now(UTC))

    with _as_a_command(environment, output, Path(root)):
        main(run)


@contextlib.contextmanager
def _as_a_command(environment: Mapping[str, str], output: str, root: Path) -> Iterator[None]:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    with Repository(root).current():
        yield

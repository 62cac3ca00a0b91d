"""What the tests of local servers share: each kind of server, and what is left of it."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from extensions.local import apache_kafka, postgres, tansu, valkey
from extensions.local.ports import is_free
from extensions.local.server_process import Server

REPO = Path(__file__).resolve().parents[2]


class Starter(Protocol):
    """A module with ``start``."""

    def start(self, data_dir: Path, port: int | None = None) -> Server: ...


@dataclass(frozen=True)
class Kind:
    """One kind of server, and how the tests name it."""

    name: str
    module: Starter


_NEEDS_JAVA = (
    pytest.mark.apache_kafka,
    pytest.mark.skipif(
        apache_kafka.available() is not None, reason=apache_kafka.available() or "available"
    ),
)
KINDS = [
    pytest.param(Kind("postgres", postgres), id="postgres"),
    pytest.param(Kind("valkey", valkey), id="valkey"),
    pytest.param(Kind("tansu", tansu), id="tansu"),
    pytest.param(Kind("apache_kafka", apache_kafka), id="apache_kafka", marks=_NEEDS_JAVA),
]
BROKERS = KINDS[2:]


@pytest.fixture
def kept() -> Iterator[list[Server]]:
    """Servers appended to it are stopped after the test, whatever happened."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.stop()


def run_python(code: str, *arguments: object, cwd: Path = REPO) -> "subprocess.Popen[str]":
    """A Python of its own that runs ``code`` with ``arguments`` in sys.argv[1:]."""
    # Its own session: the signals that a test sends to it must not reach the test.
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def said(process: "subprocess.Popen[str]") -> list[str]:
    """The words of the next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().split()


def end(process: "subprocess.Popen[str]", number: signal.Signals = signal.SIGKILL) -> int:
    """Send it ``number``, and return its exit code."""
    process.send_signal(number)
    code = process.wait(timeout=60)
    if process.stdout is not None:
        process.stdout.close()
    return code


def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether ``holds()`` within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def nothing_left(data_dir: Path, pid: int, port: int) -> bool:
    """No server process, nothing that it forked, and nobody on its port."""
    # Everything that a server forks inherits the lock of its folder.
    with (data_dir / "server.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return not _exists(pid) and is_free(port) and not _processes_in(data_dir)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processes_in(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder.resolve()):
                found.append(int(process.name))
        except OSError:
            continue
    return found

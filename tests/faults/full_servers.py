"""Ways in which a server is used up: disk, memory, a killed backend; each ends with its block."""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from tests.streaming.fleet import wait_until
from tests.streaming.outages import Killed

MIB = 1 << 20


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own of that size; skips where it cannot be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("A small disk needs `mount`, which is not here.")
    if made.returncode:
        pytest.skip(f"A small disk cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(disk: Path, server: Killed) -> Iterator[None]:
    """No byte is left on the disk; a server that died of it is started again afterwards."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 << 10))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    assert os.statvfs(disk).f_bavail == 0
    try:
        yield
    finally:
        ballast.unlink()
        server.revive()


@contextmanager
def backends_killed(url: str) -> Iterator[None]:
    """One client's backend after the other dies, as when the kernel is out of memory."""
    for _ in range(3):
        with psycopg.connect(url, autocommit=True) as conn:
            row = conn.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'skewless%' "
                "AND backend_type = 'client backend' LIMIT 1"
            ).fetchone()
        if row:
            os.kill(row[0], signal.SIGKILL)
        wait_until(lambda: _answers(url), 60, "PostgreSQL has recovered")
    yield


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


@contextmanager
def no_memory(url: str) -> Iterator[None]:
    """Redis refuses every write for want of memory."""
    client: Any = redis.Redis.from_url(url)
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.set("x", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


@contextmanager
def cannot_save(disk: Path, server: Killed) -> Iterator[None]:
    """Redis cannot write its snapshot, and refuses writes (MISCONF)."""
    client: Any = redis.Redis.from_url(server.server.url)
    client.config_set("appendonly", "no")
    client.config_set("save", "3600 1")
    try:
        with full(disk, server):
            client.bgsave()
            wait_until(lambda: _refuses(client, "MISCONF"), 30, "it refuses writes")
            yield
    finally:
        client.config_set("save", "")
        client.config_set("appendonly", "yes")


def _refuses(client: Any, code: str) -> bool:
    try:
        client.set("x", 1)
    except redis.exceptions.ResponseError as error:
        return str(error).startswith(code)
    return False


@contextmanager
def squeezed(pid: Callable[[], int | None], megabytes: int) -> Iterator[None]:
    """The process may have so much more address space than it has now, and no more."""
    number = pid()
    assert number is not None
    pages = int(Path(f"/proc/{number}/statm").read_text().split()[0])
    size = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * MIB
    _, hard = resource.prlimit(number, resource.RLIMIT_AS)
    resource.prlimit(number, resource.RLIMIT_AS, (size, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(number, resource.RLIMIT_AS, (hard, hard))

"""What a stack leaves for others to read in its folder: a lock with its pid, and small files."""

import fcntl
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from extensions.errors import ConflictError

_POLL_SECONDS = 0.05
_TRIES = 6


class HomeLock:
    """One stack for each folder. Entering takes the lock or raises SkewlessError at once.

    The kernel drops the lock with the process that holds it, so a pid in the file is believed
    only while the lock is held.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._path = home / "stack.lock"
        self._descriptor: int | None = None

    def __enter__(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(_TRIES):
            if _lock(descriptor):
                break
            time.sleep(_POLL_SECONDS)  # somebody may only be looking
        else:
            os.close(descriptor)
            raise ConflictError(
                f"A stack is running in {self._home} already (process {self.holder() or '?'}): "
                "stop it with `skewless down`, or set SKEWLESS_HOME to another folder."
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def holder(self) -> int | None:
        """The pid of the process that holds the lock; None when nobody does."""
        if self.is_free():
            return None
        # A holder writes its pid at once, but maybe a moment ago: before that the file still
        # has the pid of one that was killed, which may be anybody's by now.
        time.sleep(_POLL_SECONDS)
        text = self._path.read_text().strip()
        return None if self.is_free() or not text else int(text)

    def is_free(self) -> bool:
        """Whether a stack could start in this folder now."""
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            return _lock(descriptor)
        finally:
            os.close(descriptor)

    def wait_free(self, timeout: float) -> bool:
        """Whether the lock is free within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not self.is_free():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_json(path: Path, state: dict[str, Any]) -> None:
    """Replace ``path`` in one step, readable by its owner only."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(state, file, indent=2)
    fresh.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; empty when there is none to be read."""
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}

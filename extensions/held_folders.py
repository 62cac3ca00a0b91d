"""Temporary folders that belong to a process; those of killed processes are removed by the next.

Whoever uses a folder holds a lock on a file in it, which ends with the process. So one that can be
locked belongs to nobody any more.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = "lock"


@contextmanager
def held_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """A new folder below ``parent``, removed at the end by the process that made it.

    Folders of this prefix that nobody holds any more are removed first. A process that was forked
    meanwhile holds the folder as well, and leaves it alone when it ends.
    """
    for old in parent.glob(f"{prefix}*"):
        _remove_unless_held(old)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    owner = os.getpid()
    # The file gets its name when it is locked, so that nobody finds it without its lock.
    lock = os.open(folder / f"{_LOCK}.new", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)
        yield folder
    finally:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _remove_unless_held(folder: Path) -> None:
    """Remove a folder that no process holds the lock of, if it is ours to remove."""
    # One without a lock is being made.
    with suppress(OSError):
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        lock = os.open(folder / _LOCK, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)

"""Output files: written completely or not at all, and never over a non-regular file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extensions.errors import InputError


def output_path(path: Path) -> Path:
    """Where an output file may be put: ``path`` with its symbolic links followed.

    Raises:
        InputError: exit code 2, where a folder, a pipe, a device or a socket is there.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "a pipe or a device"
        raise InputError(f"{path} is {what}, which no file can take the place of: name a file.")
    return target


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to ``path`` only if the block succeeds (atomic write).

    Raises:
        InputError: as `output_path`, or the folder cannot be made or written to.
    """
    target = output_path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"There can be no folder {path.parent} ({error.strerror}): name another file.",
        ) from error
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)

"""libfaketime: a process whose wall clock can be set while it runs; monotonic clocks go on.

Found where ``FAKETIME_LIBRARY`` says, where Debian's package `libfaketime` puts it, or unpacked
from that package into the user's cache.
"""

import os
from pathlib import Path

from tests.debian_packages import unpacked

VARIABLE = "FAKETIME_LIBRARY"


def library() -> Path | str:
    """The library for programs with threads, or in one sentence why there is none."""
    if told := os.environ.get(VARIABLE):
        return Path(told)
    for place in (Path("/usr/lib"), Path("/usr/local/lib")):
        if found := _below(place):
            return found
    folder = unpacked("libfaketime")
    if isinstance(folder, str):
        return folder
    return _below(folder) or f"Debian's package in {folder} has no library for threads."


def _below(folder: Path) -> Path | None:
    return min(folder.glob("**/faketime/libfaketimeMT.so.1"), default=None)


class Clock:
    """A clock that programs started with its ``environment`` go by; ``folder`` must be readable."""

    def __init__(self, preload: Path, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        self.environment = {
            "LD_PRELOAD": str(preload),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """So far is the clock ahead of the true time from now on, or behind it."""
        made = self._file.with_suffix(".new")
        made.write_text(f"{seconds:+d}\n")
        made.chmod(0o644)
        made.replace(self._file)

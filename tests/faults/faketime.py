"""libfaketime: a process whose wall clock can be set while it runs; monotonic clocks go on.

Found where Debian's package `libfaketime` puts it, or where ``FAKETIME_LIBRARY`` says.
"""

import os
from pathlib import Path

VARIABLE = "FAKETIME_LIBRARY"
_PLACES = (
    "/usr/lib",
    "/usr/local/lib",
    str(Path(__file__).resolve().parents[2] / "build/faketime"),
)


def library() -> Path | None:
    """The library for programs with threads; None where it is not installed."""
    if told := os.environ.get(VARIABLE):
        return Path(told)
    for place in _PLACES:
        for found in sorted(Path(place).glob("**/faketime/libfaketimeMT.so.1")):
            return found
    return None


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

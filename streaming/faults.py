"""The places between the numbered steps where the tests end a worker, or let it freeze.

Off unless ``SKEWLESS_FAULT`` names a place: ``name`` or ``name:n``, the n-th time it is passed;
``name:n:freeze`` stops the process there until somebody lets it go on.
"""

import os
import signal
import threading
from enum import Enum

VARIABLE = "SKEWLESS_FAULT"


class Fault(Enum):
    """Each boundary of the worker's step, of a sweep, and of taking over a partition."""

    POLLED = "polled"
    DECODED = "decoded"
    DEAD_LETTERED = "dead-lettered"
    EVENTS_COPIED = "events-copied"
    OFFSETS_WRITTEN = "offsets-written"
    EVENTS_COMMITTED = "events-committed"
    MOMENT_TAKEN = "moment-taken"
    VALUES_LOGGED = "values-logged"
    VALUES_PUBLISHED = "values-published"
    WATERMARK_MOVED = "watermark-moved"
    KAFKA_COMMITTED = "kafka-committed"
    PLACED = "placed"
    RECOVERED = "recovered"
    SWEEP_LOGGED = "sweep-logged"
    SWEEP_PUBLISHED = "sweep-published"


def _armed() -> tuple[str, int, signal.Signals]:
    name, count, action, *_ = [*os.environ.get(VARIABLE, "").split(":"), "", ""]
    return name, int(count or 1), signal.SIGSTOP if action == "freeze" else signal.SIGKILL


class _Countdown:
    """How often the armed place may still be passed."""

    def __init__(self) -> None:
        self.name, self.left, self.signal = _armed()
        self._lock = threading.Lock()

    def passed(self, fault: Fault) -> None:
        if fault.value != self.name:
            return
        with self._lock:
            self.left -= 1
            now = self.left == 0
        if now:
            os.kill(os.getpid(), self.signal)


_countdown = _Countdown()


def arm_from_environment() -> None:
    """Read ``SKEWLESS_FAULT`` again: for a process that was forked after this was imported."""
    global _countdown  # noqa: PLW0603
    _countdown = _Countdown()


def point(fault: Fault) -> None:
    """Pass this place; when it is the armed one, the process ends here, without any farewell."""
    if _countdown.name:
        _countdown.passed(fault)

"""Failpoints: named places at which tests kill, freeze or fail a process (fault injection).

Off unless ``SKEWLESS_FAULT`` arms one: ``name``, or ``name:n`` for the n-th time it is passed.
There the process is killed (SIGKILL); ``name:n:freeze`` stops it (SIGSTOP) and ``name:n:raise``
raises an error that no caller handles. Each room names its failpoints in an enumeration.
"""

import os
import signal
import threading
from enum import Enum

VARIABLE = "SKEWLESS_FAULT"


class UnforeseenError(Exception):
    """Stands for any bug in our own code."""


class _Armed:
    """The armed failpoint, and how often it may still be passed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.name, count, self.action, *_ = [*text.split(":"), "", ""]
        self.left = int(count or 1)
        self.guard = threading.Lock()

    def passed(self) -> None:
        with self.guard:
            self.left -= 1
            now = self.left == 0
        if not now:
            return
        if self.action == "raise":
            raise UnforeseenError(self.name)
        os.kill(os.getpid(), signal.SIGSTOP if self.action == "freeze" else signal.SIGKILL)


_armed = _Armed("")


def point(fault: Enum) -> None:
    """Kill the process (SIGKILL) if this failpoint is armed."""
    global _armed  # noqa: PLW0603
    text = os.environ.get(VARIABLE, "")
    if text != _armed.text:  # set anew, or this process was forked from one without
        _armed = _Armed(text)
    if text and _armed.name == fault.value:
        _armed.passed()

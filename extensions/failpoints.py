"""Failpoints: the places between steps where the tests end a process, or let it freeze or fail.

Off unless ``SKEWLESS_FAULT`` names a place: ``name``, or ``name:n``, the n-th time it is passed.
There the process is killed without any farewell; ``name:n:freeze`` stops it until somebody lets it
go on, and ``name:n:raise`` raises what no caller expects. Who has such places names them in an
enumeration of its own.
"""

import os
import signal
import threading
from enum import Enum

VARIABLE = "SKEWLESS_FAULT"


class UnforeseenError(Exception):
    """Stands for any mistake in our own code."""


class _Armed:
    """The place that is armed, and how often it may still be passed."""

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
    """Pass this place; when it is the armed one, the process ends here, without any farewell."""
    global _armed  # noqa: PLW0603
    text = os.environ.get(VARIABLE, "")
    if text != _armed.text:  # set anew, or this process was forked from one without
        _armed = _Armed(text)
    if text and _armed.name == fault.value:
        _armed.passed()

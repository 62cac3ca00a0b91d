"""The supervisor of several worker processes: starts, replaces and stops them."""

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from extensions.errors import SkewlessError
from extensions.serving.observability.multiprocess_metric_files import MetricFiles

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
# Back off before replacing a worker that lived no longer than this, to avoid a crash loop.
_TOO_SOON = 1.0
# Seconds between two checks of workers and signals.
_LOOK_EVERY = 0.1
# Seconds that workers have to finish requests once they were told to stop; then they are killed.
_STOP_WITHIN = 20.0


def supervise(number: int, serve: Callable[[], None], files: MetricFiles) -> None:
    """Keep so many workers running until SIGTERM or SIGINT, then stop all of them.

    A signal only sets a flag; the loop alone starts and stops workers. So one that comes at any
    moment (between a death and its replacement, within a fork) is neither lost nor followed by
    another worker.

    Args:
        number: How many.
        serve: What a worker does; it returns when the worker is told to stop.
        files: The workers' figures: those of a dead worker that would mislead are removed.
    """
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    workers: dict[int, tuple[int, float]] = {}  # by pid: its place, and when it began
    due = dict.fromkeys(range(number), 0.0)  # by place: when to start a worker there
    while not stopping:
        for place, at in list(due.items()):
            if time.monotonic() >= at and not stopping:
                del due[place]
                files.start(place)
                workers[_start(place, serve, files)] = place, time.monotonic()
        for pid, status in _ended():
            if pid not in workers:
                continue
            place, began = workers.pop(pid)
            files.end(place)
            logger.warning("Worker %s ended (%s): starting another.", pid, status)
            soon = time.monotonic() - began < _TOO_SOON
            due[place] = time.monotonic() + (_TOO_SOON if soon else 0.0)
        if not any(at <= time.monotonic() for at in due.values()):
            time.sleep(_LOOK_EVERY)
    _stop(set(workers))


def _stop(workers: set[int]) -> None:
    """Stop all workers, and kill those that do not end in time."""
    _signal(workers, signal.SIGTERM)
    until = time.monotonic() + _STOP_WITHIN
    while workers:
        workers -= {pid for pid, _ in _ended()}
        if workers and time.monotonic() > until:
            logger.warning("Workers do not stop, and are killed: %s.", sorted(workers))
            _signal(workers, signal.SIGKILL)
            until = float("inf")
        time.sleep(_LOOK_EVERY / 5)


def _signal(workers: set[int], number: signal.Signals) -> None:
    for pid in workers:
        os.kill(pid, number)  # not waited for yet: the number is still its own


def _ended() -> list[tuple[int, int]]:
    """The child processes that have ended, each once, with their wait status."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, status))


def _start(place: int, serve: Callable[[], None], files: MetricFiles) -> int:
    parent = os.getpid()
    # Between the fork and its own handlers a worker would take the signal for the supervisor's.
    both = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, both)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
        return pid
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        files.take(place)
        if os.getppid() == parent:
            serve()
        code = 0
    except SkewlessError as error:
        sys.stderr.write(f"{error.message}\n")
    finally:
        os._exit(code)

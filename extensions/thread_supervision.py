"""Supervision of threads and tasks that must live as long as their process.

An unhandled exception ends a thread silently, and the process goes on without it. So a `Lasting`
thread (or task) restarts its body after a pause; a `Vital` one, whose state cannot be trusted
after a failure, keeps the exception for the main thread, which ends the process.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Protocol

from extensions.errors import SkewlessError

logger = logging.getLogger(__name__)

PAUSE_FIRST, PAUSE_LONGEST = 0.5, 30.0


class ThreadEndedError(SkewlessError):
    """An essential thread ended: the process must exit and be restarted."""


class Living(Protocol):
    """Source of a liveness check. ``deaths``: how often it ended unexpectedly."""

    name: str
    deaths: int

    def is_alive(self) -> bool:
        """Whether it is running, or will run again after a pause."""


class Lasting(threading.Thread):
    """A thread that restarts its body whenever that ends before ``stopping`` is set."""

    def __init__(self, name: str, body: Callable[[], None], stopping: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._body, self._stopping = body, stopping
        self.deaths = 0

    def run(self) -> None:
        """Run until ``stopping`` is set, with exponential back-off while the body fails quickly."""
        pause = PAUSE_FIRST
        while not self._stopping.is_set():
            began = monotonic()
            try:
                self._body()
            except Exception:
                logger.exception("The thread %r failed, and begins anew.", self.name)
            if self._stopping.is_set():
                return
            self.deaths += 1
            pause = PAUSE_FIRST if monotonic() - began > PAUSE_LONGEST else pause
            self._stopping.wait(pause)
            pause = min(pause * 2, PAUSE_LONGEST)


class LastingTask:
    """`Lasting` as a task of the running event loop; it ends when its body returns."""

    def __init__(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        self.name, self._body = name, body
        self.deaths = 0
        self._task = asyncio.create_task(self._run(), name=name)

    def is_alive(self) -> bool:
        """Whether it has not come to its end."""
        return not self._task.done()

    def cancel(self) -> None:
        """End it."""
        self._task.cancel()

    async def _run(self) -> None:
        pause = PAUSE_FIRST
        while True:
            began = monotonic()
            try:
                await self._body()
                return
            except Exception:
                logger.exception("The task %r failed, and begins anew.", self.name)
            self.deaths += 1
            pause = PAUSE_FIRST if monotonic() - began > PAUSE_LONGEST else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_LONGEST)


class Vital(threading.Thread):
    """A thread without which its process must not go on; subclasses implement `body`.

    `check`, called by the main thread now and then, raises once it has ended.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.deaths = 0
        self._failure: BaseException | None = None
        self._finished = False

    def body(self) -> None:
        """The thread's work; returning is its normal end."""
        raise NotImplementedError

    def run(self) -> None:
        """Run the body and keep its exception for `check`."""
        try:
            self.body()
            self._finished = True
        except BaseException as error:
            self._failure = error
            self.deaths += 1
            logger.critical("The thread %r ended.", self.name, exc_info=error)

    def check(self) -> None:
        """Raise if the thread has ended.

        Raises:
            ThreadEndedError: it has ended, and the process must end.
        """
        if self.ident is None or self.is_alive() or self._finished:
            return
        why = type(self._failure).__name__
        raise ThreadEndedError(
            f"The thread {self.name!r} ended ({why}): the process ends, to be started again.",
        ) from self._failure

"""Watchdog: ends the process when a call into the Kafka client does not come back.

A client that spins inside a poll hears no signal and reports nothing, while its process looks
alive. Ended, it is started again by its supervisor, and its partitions go to other workers.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from extensions.exit_codes import BROKEN
from extensions.thread_supervision import Vital

logger = logging.getLogger(__name__)


class Watchdog(Vital):
    """Watches calls of one other thread; `stop` ends it."""

    def __init__(self, patience: float, name: str) -> None:
        super().__init__("watchdog")
        self._patience, self._worker = patience, name
        self._began: float | None = None
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The block must end within the patience, or the process does."""
        self._began = monotonic()
        try:
            yield
        finally:
            self._began = None

    def body(self) -> None:
        """Look every tenth of the patience."""
        while not self._ended.wait(self._patience / 10):
            began = self._began
            if began is not None and monotonic() - began > self._patience:
                logger.critical(
                    "%s: a poll of Kafka has not come back for %.0f s; the process ends, to be "
                    "started again.", self._worker, self._patience,
                )  # fmt: skip
                os._exit(BROKEN)

    def stop(self) -> None:
        """Watch no longer."""
        self._ended.set()

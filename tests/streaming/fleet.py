"""Workers as processes that can be killed: forked from one that has everything imported."""

import faulthandler
import logging
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from typing import Any, Self

from streaming import worker
from streaming.processing import realtime_views
from streaming.settings import Settings

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.streaming.preload"])
_PASSED = ("SKEWLESS_POSTGRES_URL", "SKEWLESS_REDIS_URL")


class Fleet:
    """The workers of one test; those that still run are killed at its end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._processes: list[BaseProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.is_alive():
                process.kill()
            process.join(10)

    def start(self, fault: str = "", **changes: Any) -> BaseProcess:
        """One more worker; ``fault`` is where it will end itself."""
        number = len(self._processes)
        settings = replace(self.settings, worker=f"worker-{number}", **changes)
        environment = {name: os.environ[name] for name in _PASSED} | {"SKEWLESS_FAULT": fault}
        process = _FORKSERVER.Process(target=_run, args=(settings, environment), daemon=True)
        process.start()
        self._processes.append(process)
        return process

    def stop(self, process: BaseProcess) -> int | None:
        """Ask it to end, as an operator does; returns its exit code."""
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join(30)
        if process.exitcode is None:  # where each of its threads stands, to its stderr
            os.kill(process.pid, signal.SIGUSR1)
            process.join(1)
        return process.exitcode


def _run(settings: Settings, environment: dict[str, str]) -> None:
    from tests.streaming.preload import COMPUTATIONS  # noqa: PLC0415

    realtime_views.load_computations = lambda _: COMPUTATIONS
    warnings.simplefilter("ignore")
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("streaming").setLevel(logging.WARNING)
    os.environ.update(environment)
    worker.run(settings)


def wait_until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until ``true()`` says something true, and return that.

    Raises:
        AssertionError: it did not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)

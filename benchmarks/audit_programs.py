"""The store's programs as processes that can be killed: forked from one that has the imports."""

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

from feast import FeatureStore

import extensions.serving.application
from benchmarks.repositories import forget_definitions
from extensions.addresses import KAFKA_VARIABLE, POSTGRES_VARIABLE
from extensions.asof import load_computations
from extensions.cli.console import goes_on_after
from extensions.database import connect
from extensions.operations.refresh import Refresher
from extensions.serving import Settings as Serving
from extensions.serving import run as serve_http
from streaming.settings import Settings as Streaming
from streaming.worker import run as run_worker

__all__ = ["Programs", "extensions", "ingest", "refresh", "serve"]

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["benchmarks.audit_programs"])


class Programs:
    """The processes of one store in one repository; those that still run are ended at the end."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self._root, self._environment = root, dict(environment)
        self.running: list[BaseProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*self.running)

    def start(self, program: Callable[..., None], *arguments: Any) -> BaseProcess:
        """One more."""
        process = _FORKSERVER.Process(
            target=_run, args=(self._root, self._environment, program, arguments), daemon=True
        )
        process.start()
        self.running.append(process)
        return process

    def kill(self, process: BaseProcess) -> None:
        """SIGKILL: it has no time to finish anything."""
        process.kill()
        process.join(10)
        self.running.remove(process)

    def stop(self, *processes: BaseProcess) -> None:
        """As an operator does, and by force where that is not enough."""
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(30)
            if process.is_alive():
                process.kill()
                process.join(10)
            self.running.remove(process)


def ingest(root: Path) -> None:
    """A stream worker, until SIGTERM."""
    settings = Streaming(
        os.environ[POSTGRES_VARIABLE], os.environ[KAFKA_VARIABLE], root, session_timeout=6.0
    )
    run_worker(settings)


def serve(root: Path, port: int) -> None:
    """The HTTP server, every request in the log."""
    serve_http(Serving(repo=root, port=port, log_rate=1.0, redis_deadline_ms=5_000))


def refresh(root: Path, every: float) -> None:
    """A tick of every view that the stream does not keep, again and again."""
    with connect(os.environ[POSTGRES_VARIABLE], autocommit=True) as conn:
        refresher = Refresher(conn, load_computations(root), FeatureStore(str(root)))
        while True:
            try:
                refresher.refresh(refresher.choose(None), None)
            except Exception as error:
                if not goes_on_after(error):
                    raise
                print(f"refresh: {error}", flush=True)
            time.sleep(every)


def _run(
    root: Path,
    environment: Mapping[str, str],
    program: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    warnings.simplefilter("ignore")
    os.environ.update(environment)
    os.chdir(root)
    forget_definitions()  # those of the benchmark itself: the program is of another repository
    program(root, *arguments)

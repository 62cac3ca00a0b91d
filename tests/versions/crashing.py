"""One command in a process of its own that ends, without farewell, at a named place."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feast import FeatureStore

from extensions import addresses
from extensions.database import connect
from extensions.failpoints import VARIABLE
from extensions.versions import retirement
from extensions.versions.apply import apply
from extensions.versions.failpoints import Fault
from extensions.versions.promotion import promote, rollback
from tests.versions.repositories import Repository

_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.versions.crashing"])


def crash(root: Path, fault: Fault, command: str, *arguments: Any) -> bool:
    """Run ``command`` (apply, promote, rollback, retire) until ``fault``; False if it got past."""
    environment = {
        name: os.environ[name] for name in (addresses.POSTGRES_VARIABLE, addresses.REDIS_VARIABLE)
    }
    process = _FORKSERVER.Process(
        target=_run, args=(root, {**environment, VARIABLE: fault.value}, command, arguments)
    )
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def _run(
    root: Path, environment: Mapping[str, str], command: str, arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)
    retirement.NOTICED_AFTER_SECONDS = 0.0
    with (
        contextlib.ExitStack() as stack,
        connect(environment[addresses.POSTGRES_VARIABLE], autocommit=True) as conn,
    ):
        stack.enter_context(Repository(root).current())
        if command == "apply":
            apply(conn, root)
        elif command == "retire":
            retirement.retire(FeatureStore(str(root)), conn, *arguments)
        else:
            {"promote": promote, "rollback": rollback}[command](conn, "skewless", *arguments)

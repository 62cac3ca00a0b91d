"""Sessions with a memory limit, which spill what does not fit to a folder of their own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb

from extensions.engines.duckdb import Limits, session
from extensions.errors import UnavailableError
from extensions.held_folders import held_folder

DEFAULT_MEMORY = "2GB"


@contextmanager
def spilling_session(limits: Limits | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A session (`extensions.engines.duckdb.session`) that spills.

    Args:
        limits: Memory `DEFAULT_MEMORY` and a temporary folder to spill to, unless given.
    """
    limits = limits or Limits()
    with spill_folder(limits.spill) as spill:
        memory = limits.memory or DEFAULT_MEMORY
        with session(replace(limits, memory=memory, spill=spill)) as made:
            yield made


@contextmanager
def spill_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for one session, removed at the end; those of killed sessions are removed first.

    Args:
        parent: Where it is made; the system's folder for temporary files if left.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    parent.mkdir(parents=True, exist_ok=True)
    with held_folder("skewless-spill-", parent) as folder:
        yield folder


def out_of_memory(error: UnavailableError) -> bool:
    """Whether a session failed because memory and spill folder did not suffice."""
    return isinstance(error.__cause__, duckdb.OutOfMemoryException)

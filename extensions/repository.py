"""The feature repository that a process works for: a folder with a ``feature_store.yaml``.

Named by ``--repo`` or ``SKEWLESS_REPO``, else found from the working directory upwards, as git
finds its own. Nothing is looked for beside the engine's files, which may lie in site-packages.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from extensions.errors import ConfigurationError
from extensions.version_names import DEFINITIONS

REPO_VARIABLE = "SKEWLESS_REPO"
STORE_FILE = "feature_store.yaml"

# The repository of the Feast configuration that is being completed, see `working_for`.
_working_for: ContextVar[Path | None] = ContextVar("repository", default=None)


def find_repository() -> Path | None:
    """The repository's folder; None where none is named and none is found.

    Raises:
        ConfigurationError: ``SKEWLESS_REPO`` names a folder that is no repository.
    """
    if (current := _working_for.get()) is not None:
        return current
    if named := os.environ.get(REPO_VARIABLE):
        return checked_repository(Path(named), f"{REPO_VARIABLE} or --repo")
    here = Path.cwd()
    return next((f for f in (here, *here.parents) if (f / STORE_FILE).is_file()), None)


def repo_root() -> Path:
    """The repository's folder.

    Raises:
        ConfigurationError: there is none, in one sentence that says what to do.
    """
    if (found := find_repository()) is None:
        raise ConfigurationError(
            f"There is no {STORE_FILE} in {Path.cwd()} or a folder above it: go into a "
            f"repository, name one with --repo or {REPO_VARIABLE}, or make one with "
            "`skewless init DIR`."
        )
    return found


def checked_repository(folder: Path, named_by: str) -> Path:
    """``folder`` as an absolute path.

    Raises:
        ConfigurationError: it has no feature_store.yaml; ``named_by`` says who named it.
    """
    if not (folder / STORE_FILE).is_file():
        raise ConfigurationError(
            f"{named_by} names {folder}, which has no {STORE_FILE}: name a repository's folder, "
            "or make one with `skewless init DIR`."
        )
    return folder.resolve()


@contextlib.contextmanager
def working_for(repository: Path | None) -> Iterator[None]:
    """Inside the block `repo_root` is ``repository``, whatever the working directory is.

    For a Feast configuration that says where its feature_store.yaml lies; None changes nothing.
    """
    if repository is None or not (repository / STORE_FILE).is_file():
        yield
        return
    token = _working_for.set(repository.resolve())
    try:
        yield
    finally:
        _working_for.reset(token)


def let_import(repository: Path) -> None:
    """Let transforms import the repository's modules when they run.

    The folder comes last on ``sys.path``: nothing in it can hide an installed package.
    """
    if str(repository.resolve()) not in sys.path:
        sys.path.append(str(repository.resolve()))


def import_definitions(repository: Path) -> None:
    """Import the package ``feature_repo`` of this repository, and of no other.

    Its submodules, which transforms import when they run, follow.

    Raises:
        ConfigurationError: the package was imported from elsewhere before.
    """
    repository = repository.resolve()
    name = str(DEFINITIONS)
    folder = repository / DEFINITIONS
    if not folder.is_dir():
        return
    if name not in sys.modules:
        sys.path.insert(0, str(repository))
        try:
            importlib.import_module(name)
        finally:
            sys.path.remove(str(repository))
    let_import(repository)
    found = [Path(path).resolve() for path in sys.modules[name].__path__]
    if found[:1] != [folder]:
        raise ConfigurationError(
            f"Python imported {name} from {found[0] if found else 'nowhere'}, but the repository "
            f"is {repository}: take the other folder out of PYTHONPATH, or run one repository in "
            "one process."
        )

"""The numbered SQL files, applied by yoyo: the engine's, and those that make a repository's tables.

Both are recorded in one table of the database by their names, so no file of a repository may be
named as one of the engine's.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from extensions.account_name import account_name
from extensions.addresses import libpq_settings
from extensions.database.connection import connect
from extensions.errors import DefinitionError
from extensions.failure_classification import first_line

if TYPE_CHECKING:
    import yoyo

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(url: str, history: Path | None = None) -> list[str]:
    """Apply pending migrations to the database at ``url``; returns their names, in order.

    ``history``: the folder of the repository's own files, which are applied after the engine's.
    Each file is one transaction; concurrent callers wait for each other.

    Raises:
        DefinitionError: PostgreSQL refuses one of the repository's files.
    """
    connect(url).close()  # says what to do when nobody answers
    applied = _apply(url, MIGRATIONS)
    if history is not None and history.is_dir():
        _check_names(history)
        try:
            applied += _apply(url, history)
        except psycopg.Error as error:
            # What failed was rolled back; files before it are applied.
            raise DefinitionError(
                f"A file in {history} was refused by PostgreSQL: {first_line(error)}"
            ) from error
    return applied


def pending_migrations(url: str, history: Path | None = None) -> list[str]:
    """The names that `migrate` would apply now."""
    pending = _pending(url, MIGRATIONS)
    if history is not None and history.is_dir():
        pending += _pending(url, history)
    return pending


def _check_names(history: Path) -> None:
    ours = {path.stem for path in MIGRATIONS.glob("*.sql")}
    for path in sorted(history.glob("*.sql")):
        if path.stem in ours:
            raise DefinitionError(
                f"{path.name} in {history} has the name of one of Skewless's own migrations: give "
                "it another name."
            )


def _apply(url: str, folder: Path) -> list[str]:
    with _backend(url) as backend, backend.lock():
        pending = backend.to_apply(_migrations(folder))
        # yoyo records who applied them, and would fail where the user id has no name.
        os.environ.setdefault("LOGNAME", account_name())
        backend.apply_migrations(pending)
        return [migration.id for migration in pending]


def _pending(url: str, folder: Path) -> list[str]:
    with _backend(url) as backend:
        return [migration.id for migration in backend.to_apply(_migrations(folder))]


def _migrations(folder: Path) -> "yoyo.migrations.MigrationList":
    import yoyo  # noqa: PLC0415 - only migrations need it

    return yoyo.read_migrations(str(folder))


def _backend(url: str) -> "yoyo.backends.DatabaseBackend":
    from yoyo.backends import get_backend_class  # noqa: PLC0415
    from yoyo.connections import DatabaseURI  # noqa: PLC0415
    from yoyo.migrations import default_migration_table  # noqa: PLC0415

    # The driver gets libpq's settings by their names: yoyo's own reading of a URL loses some.
    settings = libpq_settings(url)
    scheme = "postgresql+psycopg"
    database = settings.pop("dbname", "")
    address = DatabaseURI(scheme, None, None, None, None, database, settings)
    backend = get_backend_class(scheme)(address, default_migration_table)
    backend.init_database()
    return backend

"""The numbered files under migrations/, applied by yoyo."""

from pathlib import Path
from typing import TYPE_CHECKING

from extensions.addresses import libpq_settings
from extensions.database.connection import connect

if TYPE_CHECKING:
    import yoyo

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(url: str) -> list[str]:
    """Apply pending migrations to the database at ``url``; returns their names, in order.

    Each file is one transaction; concurrent callers wait for each other.
    """
    connect(url).close()  # says what to do when nobody answers
    with _backend(url) as backend, backend.lock():
        pending = backend.to_apply(_migrations())
        backend.apply_migrations(pending)
        return [migration.id for migration in pending]


def pending_migrations(url: str) -> list[str]:
    """The names that `migrate` would apply now."""
    with _backend(url) as backend:
        return [migration.id for migration in backend.to_apply(_migrations())]


def _migrations() -> "yoyo.migrations.MigrationList":
    import yoyo  # noqa: PLC0415 - only migrations need it

    return yoyo.read_migrations(str(MIGRATIONS))


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

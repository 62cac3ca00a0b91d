"""The numbered files under migrations/, applied by yoyo."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from sqlalchemy import make_url

from extensions.database.connection import connect

if TYPE_CHECKING:
    import yoyo

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(url: str) -> list[str]:
    """Apply what is pending to the database at ``url``; returns the names applied, in order.

    Each file is one transaction; two callers at once wait for each other.
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
    import yoyo  # noqa: PLC0415

    parsed = make_url(url)
    credentials = quote(parsed.username or "", safe="")
    if parsed.password:
        credentials += ":" + quote(str(parsed.password), safe="")
    return yoyo.get_backend(
        f"postgresql+psycopg://{credentials}@{parsed.host}:{parsed.port or 5432}/{parsed.database}"
        + (f"?{urlencode(dict(parsed.query))}" if parsed.query else "")
    )

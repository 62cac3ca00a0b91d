"""PostgreSQL: connecting to it and bringing its schema up to date."""

from extensions.database.connection import connect, connect_arrow
from extensions.database.migrate import migrate, pending_migrations

__all__ = ["connect", "connect_arrow", "migrate", "pending_migrations"]

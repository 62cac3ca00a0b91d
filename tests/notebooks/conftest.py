"""The notebook runs against an applied store with a little history."""

from tests.versions.conftest import published_database, world

__all__ = ["published_database", "world"]

"""Streams as in `tests.streaming`."""

from tests.streaming.conftest import applied_database, fleet, genuine, settings

__all__ = ["applied_database", "fleet", "genuine", "settings"]

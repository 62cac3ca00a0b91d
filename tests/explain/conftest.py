"""The healthy store of `tests.consistency`, for explanations."""

from tests.consistency.conftest import healthy, world

__all__ = ["healthy", "world"]

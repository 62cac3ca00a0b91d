"""What a forked command finds already imported: Feast and Great Expectations take seconds."""

from monitoring import suite
from tests.faults import platform

__all__ = ["platform", "suite"]

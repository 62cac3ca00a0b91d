"""The explanation of one entity's values at a time, and why they are what they are."""

from extensions.explain.explanation import Limits, explain
from extensions.explain.report import Explanation

__all__ = ["Explanation", "Limits", "explain"]

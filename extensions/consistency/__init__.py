"""Consistency of history, log and online store: served = trained = recomputed, entity by entity.

The audit and the doctor both ask it. It compares values alone, so that it finds a difference
whatever made it; what the watermarks and backfills say of themselves only names the cause.
"""

from extensions.consistency.consistency_report import CAUSES, Difference, ViewComparison
from extensions.consistency.view_comparison import compare_views

__all__ = ["CAUSES", "Difference", "ViewComparison", "compare_views"]

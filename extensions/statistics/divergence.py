"""Distances between two distributions: population stability index and Jensen-Shannon divergence."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def population_stability_index(baseline: NDArray[Any], live: NDArray[Any]) -> float:
    """The population stability index (PSI) of two histograms over the same bins.

    Σ (q - p) · ln(q / p) over shares: the sum of both relative entropies. An empty bin counts as
    half a row, which keeps the index finite.

    Args:
        baseline: rows by bin, (bins,).
        live: rows by bin, (bins,).

    Returns:
        0 for equal shares; the usual reading is 0.1 for a small and 0.2 for a large change.
    """
    p, q = (np.maximum(counts, 0.5) / max(counts.sum(), 1) for counts in (baseline, live))
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon_divergence(p: Floats, q: Floats) -> float:
    """The Jensen-Shannon divergence of two histograms over the same categories (Lin 1991).

    Args:
        p: rows by category, (categories,).
        q: rows by category, (categories,).

    Returns:
        Bits: 0 for equal shares, 1 for no category in common. Its root is a metric.
    """
    left, right = p / p.sum(), q / q.sum()
    middle = (left + right) / 2

    def relative_entropy(share: Floats) -> float:
        present = share > 0
        return float((share[present] * np.log2(share[present] / middle[present])).sum())

    return (relative_entropy(left) + relative_entropy(right)) / 2

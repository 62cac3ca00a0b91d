"""How a ranking changes when the feature it is sorted by is replaced."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

TOP_SHARE = 0.1
# A ranking of fewer entities says nothing.
MIN_ENTITIES = 10

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RankChange:
    """Two rankings of the same entities, averaged over ``rankings`` instants.

    ``spearman``: rank correlation, -1 to 1. ``top_overlap``: the share of the first tenth that
    stays in the first tenth (``top``: how many entities that is, on average).
    """

    spearman: float
    top_overlap: float
    top: float
    rankings: int


def rank_change(first: Floats, second: Floats, groups: Sequence[Any]) -> RankChange | None:
    """Compare the rankings by ``first`` and by ``second`` within each group.

    Args:
        first: a value per row, (n,); rows where either is nan are left out.
        second: the other value per row, (n,).
        groups: what each row is ranked with, for example its instant, (n,).

    Returns:
        Means over groups, weighted by their rows; None where no group has `MIN_ENTITIES` rows of
        at least two distinct values on both sides.
    """
    present = ~(np.isnan(first) | np.isnan(second))
    _, places = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    found = []
    for group in np.unique(places):
        rows = (places == group) & present
        left, right = first[rows], second[rows]
        if len(left) < MIN_ENTITIES or np.ptp(left) == 0 or np.ptp(right) == 0:
            continue
        top = max(1, round(TOP_SHARE * len(left)))
        correlation = float(stats.spearmanr(left, right).statistic)
        found.append((len(left), correlation, top_overlap(left, right, top), top))
    if not found:
        return None
    rows_of, correlations, overlaps, tops = (
        np.array(column, float) for column in zip(*found, strict=True)
    )
    return RankChange(
        spearman=float(np.average(correlations, weights=rows_of)),
        top_overlap=float(np.average(overlaps, weights=rows_of)),
        top=float(np.average(tops, weights=rows_of)),
        rankings=len(found),
    )


def top_overlap(first: Floats, second: Floats, top: int) -> float:
    """The share of the ``top`` highest of ``first`` that are among those of ``second``.

    Entities that tie at the border share the places that are left, so equal columns overlap
    wholly however many values they have in common.
    """
    return float(np.minimum(_places(first, top), _places(second, top)).sum() / top)


def _places(values: Floats, top: int) -> Floats:
    """Each row's share of a place among the ``top`` highest: 1, 0, or a fraction at a tie."""
    border = np.partition(values, len(values) - top)[len(values) - top]
    above, tied = values > border, values == border
    places: Floats = above.astype(np.float64)
    places[tied] = (top - above.sum()) / tied.sum()
    return places

"""Histogram bins near quantiles, so that a long tail gets bins of its own.

Edges lie at midpoints between distinct values: a value on an edge would fall on either side by
rounding.
"""

import numpy as np
from numpy.typing import NDArray

BINS = 10
# A bin with a smaller share is joined to its neighbour: chi-squared wants some rows in every bin.
MIN_SHARE = 0.02
# Quantiles beyond the outer bins, each with at least so many rows beyond it.
TAIL_QUANTILES = (0.01, 0.05, 0.95, 0.99)
MIN_TAIL_ROWS = 10
# Edges are taken from a regular sample of at most so many rows.
MAX_SAMPLE = 200_000
# A value that has at least this share of the rows gets a bin of its own.
MODE_SHARE = 0.5

Floats = NDArray[np.float64]


def bin_edges(values: Floats) -> list[float]:
    """At most `BINS` - 1 inner edges near quantiles of ``values`` (n,), ascending."""
    if len(values) > MAX_SAMPLE:
        values = values[:: -(-len(values) // MAX_SAMPLE)]
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) < 2:
        return []
    below = np.cumsum(counts)[:-1] / len(values)  # share of rows below each midpoint
    middles = _midpoints(distinct)
    edges, last = [], 0.0
    for target in np.arange(1, BINS) / BINS:
        place = int(np.argmin(np.abs(below - target)))
        share = below[place]
        if share - last >= MIN_SHARE and 1 - share >= MIN_SHARE:
            edges.append(float(middles[place]))
            last = share
    return edges


def edges_with_range(values: Floats) -> list[float]:
    """`bin_edges`, with edges in the tails and around the range of ``values`` (n > 0).

    A value that at least half of the rows have gets a bin of its own.

    Returns:
        Ascending edges; the first lies below the least value, the last above the greatest.
    """
    distinct, counts = np.unique(values, return_counts=True)
    edges = set(bin_edges(values)) | set(_tail_edges(distinct, counts))
    place = int(np.argmax(counts))
    if counts[place] >= MODE_SHARE * len(values):
        near = distinct[max(0, place - 1) : place + 2]
        edges |= set(_midpoints(near).tolist())
    # A little outside: a value that is the last bit away is the same one.
    greatest = float(np.abs(distinct[[0, -1]]).max())
    margin = max(1e-6 * float(distinct[-1] - distinct[0]), 2 * float(np.spacing(greatest)))
    if len(distinct) == 1:
        margin = 1e-9 * greatest or 1e-12
    return [float(distinct[0]) - margin, *sorted(edges), float(distinct[-1]) + margin]


def counts_between(values: Floats, edges: list[float]) -> NDArray[np.int64]:
    """Rows of ``values`` (n,) below, between and above ``edges``: (len(edges) + 1,)."""
    counts: NDArray[np.int64] = np.histogram(values, [-np.inf, *edges, np.inf])[0]
    return counts


def _tail_edges(distinct: Floats, counts: NDArray[np.int64]) -> list[float]:
    """Edges far out, where a change of the level that few rows carry shows first."""
    if len(distinct) < 2:
        return []
    below, rows = np.cumsum(counts)[:-1], counts.sum()
    edges, middles = [], _midpoints(distinct)
    for target in TAIL_QUANTILES:
        place = int(np.argmin(np.abs(below / rows - target)))
        beyond = below[place] if target < 0.5 else rows - below[place]
        if beyond >= MIN_TAIL_ROWS and beyond / rows <= 2 * min(target, 1 - target):
            edges.append(float(middles[place]))
    return edges


def _midpoints(distinct: Floats) -> Floats:
    """Between neighbours; of two adjacent doubles the upper one, which begins its own bin."""
    middles: Floats = distinct[:-1] + np.diff(distinct) / 2
    return np.where(middles <= distinct[:-1], distinct[1:], middles)

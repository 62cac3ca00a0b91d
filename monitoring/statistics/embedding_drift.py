"""Embeddings, dimension by dimension: means and spreads, and how many rows carry a change.

Moments alone cannot tell a dimension that moved from one row with a huge number. So a change must
be certain twice: by the normal law of the moments, and by the least number of rows that can carry
it, since a few rows may all have been dealt to one side.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from monitoring.statistics import contingency_tests
from monitoring.statistics.drift_statistics import HEAVY_TAILED
from monitoring.verdicts import Statistic

Floats = NDArray[np.float64]

_TINY = 1e-12
_DEAD = 1e-6
NORMAL_KURTOSIS = 3.0


@dataclass(frozen=True)
class Moments:
    """By dimension, of ``rows`` vectors; ``kurtoses`` may be nan where nobody measured them."""

    means: Floats
    sds: Floats
    kurtoses: Floats
    rows: int


def dimension_shifts(
    live: Moments, base: Moments, alpha: float, worth: float = 1.0
) -> tuple[Statistic, Statistic]:
    """The dimension whose mean moved most (in standard deviations), and the one whose spread did.

    ``alpha`` is that of one dimension: the number of dimensions counts in the family. ``worth``:
    how much each row is worth.
    """
    live, base = (replace(one, rows=max(2, round(worth * one.rows))) for one in (live, base))
    return _mean(live, base, alpha), _sd(live, base, alpha)


def _mean(live: Moments, base: Moments, alpha: float) -> Statistic:
    n, m = live.rows, base.rows
    moved = np.abs(live.means - base.means)
    both = (n * live.sds**2 + m * base.sds**2 + n * m / (n + m) * moved**2) / (n + m)
    joint = np.sqrt(np.maximum(both, 0.0))
    # By rounding the mean of a constant may be a little beside it.
    still = moved <= 1e-6 * np.maximum(np.abs(base.means), _TINY)
    moved = np.where(still & (base.sds <= _TINY), 0.0, moved)
    scale = np.where(base.sds > _TINY, base.sds, np.maximum(joint, _TINY))
    effect = moved / scale
    z = moved / np.maximum(joint, _TINY) / np.sqrt(1 / n + 1 / m)
    # The skewness of the difference of the means; a distribution's own is at most the root of its
    # kurtosis less one (Pearson 1916).
    kurtosis = np.fmax(base.kurtoses, live.kurtoses)
    skew = abs(m - n) / np.sqrt(n * m * (n + m)) * np.sqrt(np.maximum(kurtosis - 1, 0.0))
    by_law = 2 * np.maximum(stats.norm.sf(z), stats.pearson3.sf(z, skew))
    # Rows that carry the shift if all variance that one side has more is theirs: with k rows at
    # a distance x, the shift is k x / n and the variance k x^2 / n, and k is their ratio.
    more = live.sds**2 - base.sds**2
    share = _ratio(moved**2, moved**2 + np.abs(more))
    p = np.maximum(by_law, _all_on_one_side(share, more > 0, n, m))
    return _most_certain("dimension_mean", effect, p, alpha)


def _sd(live: Moments, base: Moments, alpha: float) -> Statistic:
    n, m = live.rows, base.rows
    moving, now = base.sds > _TINY, live.sds > _TINY
    unit = np.where(moving, base.sds, 1.0)
    ratio = np.where(moving, np.abs(np.log(np.maximum(live.sds, _DEAD * unit) / unit)), 0.0)
    kurtosis = np.fmax(base.kurtoses, live.kurtoses)
    errors = np.sqrt(np.maximum(kurtosis - 1, 0.5) / 4 * (1 / n + 1 / m))
    by_law = np.where(moving, 2 * stats.norm.sf(ratio / errors), np.where(now, 0.0, 1.0))
    # As above for the variance: k x^2 / n and the fourth moment k x^4 / n.
    more = live.sds**2 - base.sds**2
    measured = np.isfinite(live.kurtoses)
    fourth = np.where(measured, live.kurtoses, np.maximum(base.kurtoses, NORMAL_KURTOSIS))
    excess = np.where(
        more > 0,
        fourth * live.sds**4 - base.kurtoses * base.sds**4,
        base.kurtoses * base.sds**4,
    )
    share = np.minimum(1.0, _ratio(more**2, np.maximum(excess, more**2)))
    # Of a constant that varies only the mean tells how few rows may do so.
    moved2 = (live.means - base.means) ** 2
    share = np.where(moving | measured, share, _ratio(moved2, moved2 + live.sds**2))
    p = np.maximum(by_law, _all_on_one_side(share, more > 0, n, m))
    for place in np.flatnonzero(moving & measured & (kurtosis > HEAVY_TAILED)):
        # Few rows carry the spread of both sides: they must be more of one side, too.
        carrying = round(n / live.kurtoses[place]), n, round(m / base.kurtoses[place]), m
        p[place] = max(p[place], contingency_tests.fisher(*carrying))
    # A constant of the training set: the share of rows that vary, so that a normal one is 1.
    effect = np.where(moving, ratio, np.where(now, np.minimum(1.0, NORMAL_KURTOSIS * share), 0.0))
    return _most_certain("dimension_sd", effect, p, alpha)


def _all_on_one_side(share: Floats, is_live: NDArray[np.bool_], n: int, m: int) -> Floats:
    """The chance that the rows which carry a change were all dealt to the side that has them."""
    side = np.where(is_live, n, m)
    result: Floats = np.minimum(1.0, 2 * (side / (n + m)) ** (share * side))
    return result


def _most_certain(name: str, effect: Floats, p: Floats, alpha: float) -> Statistic:
    """The largest effect among those that are certain; else the one that is nearest to it."""
    certain = p < alpha
    place = int(np.argmax(np.where(certain, effect, -1.0)) if certain.any() else np.argmin(p))
    return Statistic(name, float(effect[place]), float(p[place]))


def _ratio(above: Floats, below: Floats) -> Floats:
    result: Floats = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return result

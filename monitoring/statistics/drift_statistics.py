"""How far a live distribution is from its baseline, and whether chance explains it.

Every function takes counts or moments, never rows, so that the measuring can be done wherever
the rows are. ``n`` rows are live, ``m`` the baseline's; ``worth``: how much each of them is worth
(`repeated_entities`), which changes no effect, only how likely it is by chance. An effect says
how large a change is; its chance comes from counts over cells (`contingency_tests`), since
moments of rare values and of long tails follow no law that a sample of them would tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from extensions.statistics.divergence import (
    jensen_shannon_divergence,
    population_stability_index,
)
from monitoring.statistics import contingency_tests
from monitoring.verdicts import Statistic

Floats = NDArray[np.float64]

_TINY = 1e-12
# A spread that vanished is a change by this factor, not by an infinite one.
_DEAD = 1e-6
# Anchors whose direction is lost: under the baseline at most this share lies below the floor.
_LOST_BY_CHANCE = 0.25
# From this kurtosis on a mean and a standard deviation are those of a few rows (the normal
# distribution has 3, the exponential 9): level and spread are taken from the bins.
HEAVY_TAILED = 20.0


@dataclass(frozen=True)
class Numbers:
    """One side of a numeric comparison: rows by bin, and the moments of all of them."""

    counts: Floats
    mean: float
    sd: float

    @property
    def rows(self) -> float:
        """How many values."""
        return float(self.counts.sum())


def psi(live: Floats, base: Floats) -> Statistic:
    """Population stability index over bins, sum (q - p) ln(q / p), and its table's homogeneity.

    Bins in which chance would leave too few rows are joined to their neighbours.
    """
    places = contingency_tests.pool_neighbours(live, base)
    q, p = contingency_tests.pooled(live, places), contingency_tests.pooled(base, places)
    if len(q) < 2 or not q.sum() or not p.sum():
        return Statistic("psi", 0.0, 1.0)
    return Statistic("psi", population_stability_index(p, q), contingency_tests.homogeneity(q, p))


def mean_shift(
    live: Numbers, base: Numbers, centers: Sequence[float], kurtosis: float
) -> Statistic:
    """Shift of the level, by the baseline's level or half its spread, whichever is larger.

    ``centers``: the baseline's median in each bin. With a heavy tail each row counts as its bin's
    center and its chance is Wilcoxon's; else the effect is of the means, and the scores are the
    centers. Where the baseline has no spread, the scale is that of both samples.
    """
    if kurtosis > HEAVY_TAILED:
        places = np.asarray(centers, float)
        was, spread = _grouped(base.counts, places)
        now, _ = _grouped(live.counts, places)
        scores = contingency_tests.mid_ranks(live.counts, base.counts)
    else:
        was, now, spread = base.mean, live.mean, base.sd
        scores = np.asarray(centers, float)
    if spread <= _TINY * max(abs(was), _TINY):
        spread = _joint_sd(live, base)
    scale = max(abs(was), spread / 2)
    if scale <= _TINY:
        return Statistic("mean", 0.0, 1.0)
    p = contingency_tests.score_shift(live.counts, base.counts, scores)
    return Statistic("mean", float(abs(now - was) / scale), p)


def sd_shift(live: Numbers, base: Numbers, centers: Sequence[float], kurtosis: float) -> Statistic:
    """Change of the spread, |ln ratio| as a ratio - 1; of the bins' centers with a heavy tail.

    Its chance is that of the squared distances from the middle (of the ranks: Mood 1954).
    """
    if kurtosis > HEAVY_TAILED:
        places = np.asarray(centers, float)
        was, now = _grouped(base.counts, places)[1], _grouped(live.counts, places)[1]
        scores = (contingency_tests.mid_ranks(live.counts, base.counts) - 0.5) ** 2
    else:
        places = np.asarray(centers, float)
        was, now = base.sd, live.sd
        scores = (places - _grouped(live.counts + base.counts, places)[0]) ** 2
    if was <= _TINY:
        return Statistic("sd", 0.0, 1.0)  # `outside` tells a constant that is none any more
    ratio = abs(np.log(max(now / was, _DEAD)))
    p = contingency_tests.score_shift(live.counts, base.counts, scores)
    return Statistic("sd", float(np.expm1(ratio)), p)


def outside(below: int, above: int, n: int, m: int, worth: float = 1.0) -> Statistic:
    """The share of rows beyond the least and the greatest value of the baseline.

    That the k greatest of n + m values are all live has the chance C(n, k) / C(n + m, k),
    whatever their distribution (Rosenbaum 1954); it is Fisher's of k rows against none.
    """
    p = min(_fisher(side, n, 0, m, worth) for side in (below, above))
    return Statistic("outside", (below + above) / n, p)


def category_shifts(
    live: Mapping[str, int],
    frequencies: Mapping[str, float],
    other: float,
    m: float,
    worth: float = 1.0,
) -> list[Statistic]:
    """`js`: Jensen-Shannon distance in base 2, 0 to 1; `unseen`: the share beyond chance.

    ``other``: the share of rows whose categories the baseline does not name. Categories in which
    chance would leave too few rows are one cell. Unseen rows are more than chance leaves in
    categories that the baseline lacks, all of them together or the most frequent one alone.
    """
    names = sorted(set(live) | set(frequencies))
    m = m * worth
    q = np.array([live.get(name, 0) * worth for name in names], float)
    p = np.array([frequencies.get(name, 0.0) * m for name in names], float)
    if other:  # what is not named is one category more, and nothing is new
        new = np.array([name not in frequencies for name in names], bool)
        q, p = np.append(q[~new], q[new].sum()), np.append(p[~new], other * m)
        return [_js(q, p)]
    return [_js(q, p), _unseen(q, p)]


def _js(q: Floats, p: Floats) -> Statistic:
    places = contingency_tests.pool_rare(q, p)
    q, p = contingency_tests.pooled(q, places), contingency_tests.pooled(p, places)
    if len(q) < 2 or not q.sum() or not p.sum():
        return Statistic("js", 0.0, 1.0)
    # By rounding, the divergence of equal shares may be a little below zero.
    divergence = max(jensen_shannon_divergence(p, q), 0.0)
    return Statistic("js", float(np.sqrt(divergence)), contingency_tests.homogeneity(q, p))


def _unseen(q: Floats, p: Floats) -> Statistic:
    n = q.sum()
    expected, together = contingency_tests.unseen_rows(q, p)
    most, alone = contingency_tests.largest_unseen(q, p)
    result = float(q[p <= 0].sum())
    if alone < together:
        return Statistic("unseen", most / n, min(1.0, 2 * alone))
    return Statistic("unseen", max(0.0, result - expected) / n, min(1.0, 2 * together))


def share_shift(
    name: str, live: int, n: int, share: float, m: int, worth: float = 1.0
) -> Statistic:
    """Change of a share of rows; exact (Fisher), since the counts may be few."""
    return Statistic(
        name, float(abs(live / n - share)), _fisher(live, n, round(share * m), m, worth)
    )


def excess(name: str, live: int, n: int, tolerated: float) -> Statistic:
    """Rows beyond a tolerated share (binomial)."""
    return Statistic(name, live / n, float(stats.binom.sf(live - 1, n, tolerated)) if live else 1.0)


def lost_anchors(live: Floats, anchors: Floats, floor: float) -> Statistic:
    """1 - median cosine between entities' vectors now and then, both (k, dimensions).

    Certain when more of them point elsewhere (1 - cosine above ``floor``) than a quarter could
    by chance.
    """
    norms = np.linalg.norm(live, axis=1) * np.linalg.norm(anchors, axis=1)
    dots = (live * anchors).sum(axis=1)
    apart = 1 - np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)
    lost = int((apart >= floor).sum())
    p = stats.binom.sf(lost - 1, len(apart), _LOST_BY_CHANCE) if lost else 1.0
    return Statistic("anchors", float(np.median(apart)), float(p))


def missing_volume(live: int, usual: float) -> Statistic:
    """The share of the usual number of requests that did not come (Poisson)."""
    if usual <= 0:
        return Statistic("volume", 0.0, 1.0)
    return Statistic("volume", max(0.0, 1 - live / usual), float(stats.poisson.cdf(live, usual)))


def _fisher(live: int, n: int, before: int, m: int, worth: float) -> float:
    """Fisher's test of rows that are each worth so much."""
    scaled = [round(worth * rows) for rows in (live, n, before, m)]
    return contingency_tests.fisher(*scaled)


def _grouped(counts: Floats, centers: Floats) -> tuple[float, float]:
    """(mean, standard deviation) of rows that each count as their bin's center."""
    rows = counts.sum()
    if not rows:
        return 0.0, 0.0
    mean = float((counts * centers).sum() / rows)
    return mean, float(np.sqrt((counts * (centers - mean) ** 2).sum() / rows))


def _joint_sd(live: Numbers, base: Numbers) -> float:
    """The standard deviation of both samples' rows together."""
    n, m = live.rows, base.rows
    between = n * m / (n + m) * (live.mean - base.mean) ** 2
    return float(np.sqrt((n * live.sd**2 + m * base.sd**2 + between) / (n + m)))

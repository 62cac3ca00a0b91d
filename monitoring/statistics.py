"""How far a live distribution is from its baseline, and whether chance explains it.

Every function takes counts or moments, never rows, so that the measuring can be done wherever
the rows are. ``n`` rows are live, ``m`` the baseline's.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from extensions.versions.distance import divergence, stability
from monitoring.verdicts import Statistic

_TINY = 1e-12
# A spread that vanished is a change by this factor, not by an infinite one.
_DEAD = 1e-6
# Anchors whose direction is lost: under the baseline at most this share lies below the floor.
_LOST_BY_CHANCE = 0.25


def psi(live: Sequence[int], weights: Sequence[float], m: int, alpha: float) -> Statistic:
    """Population stability index over bins: sum (q - p) ln(q / p).

    For samples of one distribution PSI / (1/n + 1/m) is chi-squared with k - 1 degrees of
    freedom (Yurdakul 2018).
    """
    k, n = len(weights), int(sum(live))
    if k < 2:
        return Statistic("psi", 0.0, 1.0)
    effect = stability(np.asarray(weights, float) * m, np.asarray(live, float))
    scale = 1 / n + 1 / m
    return Statistic(
        "psi",
        effect,
        float(stats.chi2.sf(effect / scale, k - 1)),
        float(scale * stats.chi2.isf(alpha, k - 1)),
    )


def mean_shift(live: float, n: int, mean: float, sd: float, m: int, alpha: float) -> Statistic:
    """Shift of the mean, by the baseline's mean or half its spread, whichever is larger."""
    scale = max(abs(mean), sd / 2, _TINY)
    error = sd * np.sqrt(1 / n + 1 / m)
    shift = abs(live - mean)
    if error <= _TINY * scale:  # a constant: any other mean is certain
        return Statistic("mean", float(shift / scale), 0.0 if shift > 1e-9 * scale else 1.0)
    return Statistic(
        "mean",
        float(shift / scale),
        float(2 * stats.norm.sf(shift / error)),
        float(stats.norm.isf(alpha / 2) * error / scale),
    )


def sd_shift(live: float, n: int, sd: float, kurtosis: float, m: int, alpha: float) -> Statistic:
    """Change of the spread; ln s has the variance (kurtosis - 1) / 4 x (1/n + 1/m)."""
    if sd <= _TINY:
        return Statistic("sd", 0.0, 1.0)
    ratio = abs(np.log(max(live / sd, _DEAD)))
    error = np.sqrt(max(kurtosis - 1, 0.5) / 4 * (1 / n + 1 / m))
    return Statistic(
        "sd",
        float(np.expm1(ratio)),
        float(2 * stats.norm.sf(ratio / error)),
        float(np.expm1(stats.norm.isf(alpha / 2) * error)),
    )


def js_distance(
    live: Mapping[str, int], frequencies: Mapping[str, float], m: int, alpha: float
) -> Statistic:
    """Jensen-Shannon distance in base 2, 0 to 1; its square x 8 ln 2 / (1/n + 1/m) is chi-squared.

    (Of the divergence of two samples, to second order, with k - 1 degrees of freedom.)
    """
    names = sorted(set(live) | set(frequencies))
    n = sum(live.values())
    if len(names) < 2:
        return Statistic("js", 0.0, 1.0)
    q = np.array([live.get(name, 0) for name in names], float)
    p = np.array([frequencies.get(name, 0.0) for name in names], float)
    apart = max(divergence(p, q), 0.0)  # by rounding, equal ones may be less than nothing apart
    scale = (1 / n + 1 / m) / (8 * np.log(2))
    degrees = len(names) - 1
    return Statistic(
        "js",
        float(np.sqrt(apart)),
        float(stats.chi2.sf(apart / scale, degrees)),
        float(np.sqrt(scale * stats.chi2.isf(alpha, degrees))),
    )


def share_shift(name: str, live: int, n: int, share: float, m: int) -> Statistic:
    """Change of a share of rows; exact (Fisher), since the counts may be few."""
    before = round(share * m)
    effect = abs(live / n - share)
    total, drawn = n + m, live + before
    if live / n >= share:
        p = stats.hypergeom.sf(live - 1, total, drawn, n)
    else:
        p = stats.hypergeom.cdf(live, total, drawn, n)
    return Statistic(name, float(effect), float(min(1.0, 2 * p)))


def excess(name: str, live: int, n: int, tolerated: float) -> Statistic:
    """Rows beyond a tolerated share (binomial)."""
    return Statistic(name, live / n, float(stats.binom.sf(live - 1, n, tolerated)) if live else 1.0)


def dimension_shifts(
    live_mean: NDArray[np.float64],
    live_sd: NDArray[np.float64],
    n: int,
    mean: NDArray[np.float64],
    sd: NDArray[np.float64],
    kurtosis: NDArray[np.float64],
    m: int,
    alpha: float,
) -> tuple[Statistic, Statistic]:
    """The dimension whose mean moved most (in standard deviations), and the one whose spread did.

    ``alpha`` is that of one dimension: the number of dimensions counts in the family.
    """
    size = 1 / n + 1 / m
    moving = sd > _TINY
    unit = np.where(moving, sd, 1.0)
    shift = np.where(moving | (np.abs(live_mean - mean) > _TINY), np.abs(live_mean - mean), 0)
    shift = shift / unit
    ratio = np.where(moving, np.abs(np.log(np.maximum(live_sd, _DEAD * unit) / unit)), 0.0)
    # A dimension that never moved and does now.
    ratio = np.where(~moving & (live_sd > _TINY), -np.log(_DEAD), ratio)
    errors = np.sqrt(np.maximum(kurtosis - 1, 0.5) / 4 * size)
    by_sd = int(np.argmax(ratio / errors))
    by_mean = int(np.argmax(shift))
    quantile = stats.norm.isf(alpha / 2)
    return (
        Statistic(
            "dimension_mean",
            float(shift[by_mean]),
            float(2 * stats.norm.sf(shift[by_mean] / np.sqrt(size))),
            float(quantile * np.sqrt(size)),
        ),
        Statistic(
            "dimension_sd",
            float(ratio[by_sd]),
            float(2 * stats.norm.sf(ratio[by_sd] / errors[by_sd])),
            float(quantile * errors[by_sd]),
        ),
    )


def lost_anchors(
    live: NDArray[np.float64], anchors: NDArray[np.float64], floor: float
) -> Statistic:
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

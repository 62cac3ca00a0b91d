"""Two-sample tests on counts over the same cells: what chance alone does to a table of two rows.

Every test asks the same: had all rows been dealt at random to the window (``n`` rows) and to the
baseline (``m`` rows), how often would they lie as far apart as they do? What was counted in both
together is given; nothing is assumed about the distribution that it came from, so rare values
and long tails need no rule of their own.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]

# Chi-squared wants so many rows in each cell, by chance alone, of the smaller of both samples.
LEAST_EXPECTED = 8.0
# Where the bound on a tail is looked for: weights per row.
_TILTS = np.geomspace(1e-6, 50.0, 400)


def fisher(live: int, n: int, before: int, m: int) -> float:
    """Fisher's exact test of two shares, two-sided by doubling the nearer tail (Fisher 1935)."""
    total, drawn = n + m, live + before
    if n <= 0 or m <= 0 or not 0 < drawn < total:
        return 1.0
    if live * m >= before * n:
        p = stats.hypergeom.sf(live - 1, total, drawn, n)
    else:
        p = stats.hypergeom.cdf(live, total, drawn, n)
    return float(min(1.0, 2 * p))


def homogeneity(live: Floats, base: Floats) -> float:
    """The chance of a table whose rows are as unlike each other: Pearson's chi-squared.

    Its mean and variance are the exact ones of tables with these margins (Haldane 1940, Dawson
    1954) and not those of infinitely many rows: with many cells of few rows chi-squared's own
    are wrong. Two cells are `fisher`'s.
    """
    total = live + base
    live, base = live[total > 0], base[total > 0]
    n, m = live.sum(), base.sum()
    if len(live) == 2 and n > 0 and m > 0:
        return fisher(round(live[0]), round(n), round(base[0]), round(m))
    return independence(np.stack([live, base]))


def independence(table: Floats) -> float:
    """The chance that rows and columns of a table of counts are as far from independent."""
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    across, down, total = table.sum(axis=1), table.sum(axis=0), table.sum()
    r, c = table.shape
    if r < 2 or c < 2 or total < 4:
        return 1.0
    expected = np.outer(across, down) / total
    result = ((table - expected) ** 2 / expected).sum()
    mean = total * (r - 1) * (c - 1) / (total - 1)
    even = [(k - 1) * (total - k) / (total - 1) for k in (r, c)]
    uneven = [(total * (1 / one).sum() - len(one) ** 2) / (total - 2) for one in (across, down)]
    variance = (
        2 * total / (total - 3) * (even[0] - uneven[0]) * (even[1] - uneven[1])
        + total**2 / (total - 1) * uneven[0] * uneven[1]
    )
    if variance <= 0:  # margins that leave one table only
        return 1.0
    scale = 2 * mean / variance
    return float(stats.chi2.sf(result * scale, mean * scale))


def score_shift(live: Floats, base: Floats, scores: Floats) -> float:
    """The chance of mean scores as far apart: a linear rank test of grouped values, two-sided.

    With the cells' mid-ranks as scores it is Wilcoxon's test, with their squared distances from
    the middle Mood's (Lehmann 1975). Mean, variance and skewness are those of dealing without
    replacement; of the normal and the Pearson III tail the heavier one counts.
    """
    total = live + base
    n, m = float(live.sum()), float(base.sum())
    rows = n + m
    if n < 1 or m < 1 or rows < 4:
        return 1.0
    apart = scores - (total * scores).sum() / rows
    second, third = ((total * apart**power).sum() / rows for power in (2, 3))
    spread = n * m / (rows - 1) * second
    if spread <= 0:
        return 1.0
    skew = (n * m * (m - n) / ((rows - 1) * (rows - 2)) * third) / spread**1.5
    z = float((live * apart).sum() / np.sqrt(spread))
    tail = stats.norm.sf(abs(z))
    if np.sign(z) * skew > 0:
        tail = max(tail, stats.pearson3.sf(abs(z), abs(skew)))
    return float(min(1.0, 2 * tail))


def scores_differ(groups: NDArray[np.int64], scores: Floats) -> Floats:
    """By column of ``scores``: the chance of groups with mean scores as unlike each other.

    With ranks as scores it is Kruskal and Wallis' test (1952) and with their squared distances
    from the middle Mood's of many samples. The share of the sum of squares that lies between
    groups is compared with a gamma law of its exact mean and variance over all ways to deal the
    rows (Kazi-Aoual et al. 1995; of two scores it is `independence`): in groups of a few rows, or
    with scores that few rows differ in, F's own are wrong.
    """
    sizes = np.bincount(groups)
    names, groups = np.flatnonzero(sizes), np.searchsorted(np.flatnonzero(sizes), groups)
    sizes, rows = sizes[names], len(groups)
    apart = scores - scores.mean(axis=0)
    squares = (apart**2).sum(axis=0)
    moving = (
        squares > 1e-12 * rows * np.maximum(np.abs(scores).max(axis=0, initial=0.0), 1e-12) ** 2
    )
    if len(sizes) < 2 or rows < 4 or not moving.any():
        return np.ones(scores.shape[1])
    apart, squares = apart[:, moving], squares[moving]
    sums = np.stack([np.bincount(groups, column) for column in apart.T], axis=1)
    between = (sums**2 / sizes[:, None]).sum(axis=0) / squares
    k = len(sizes)
    mean = (k - 1) / (rows - 1)
    even = (k - 1) * (rows - k) / (rows - 1), (rows - 2) / (rows - 1)
    uneven = (
        (rows * (1 / sizes).sum() - k**2) / (rows - 2),
        (rows * (apart**4).sum(axis=0) / squares**2 - 1) / (rows - 2),
    )
    variance = 2 / (rows * (rows - 3)) * (even[0] - uneven[0]) * (even[1] - uneven[1]) + uneven[
        0
    ] * uneven[1] / (rows - 1)
    possible = variance > 0
    scale = 2 * mean / np.where(possible, variance, 1.0)
    result = np.ones(scores.shape[1])
    result[moving] = np.where(possible, stats.chi2.sf(between * scale, mean * scale), 1.0)
    return result


def unseen_rows(live: Floats, base: Floats) -> tuple[float, float]:
    """(rows of cells that the baseline lacks, as expected by chance; the chance of as many).

    A cell with N rows in both samples is missing from the baseline with the chance that all of
    them were dealt to the window, C(n, N) / C(n + m, N). The sum over all cells has Chernoff's
    bound for its tail, which holds since a cell's absence makes the others' less likely
    (Joag-Dev and Proschan 1983). What a baseline has once is what it might have lacked, so this is
    Good's (1953) reasoning, with both samples and without his normal law.
    """
    total = live + base
    live, base, total = live[total > 0], base[total > 0], total[total > 0]
    sizes, how_many = np.unique(np.round(total), return_counts=True)
    absent = _absent(sizes, float(live.sum()), float(base.sum()))
    expected = float((how_many * sizes * np.exp(absent)).sum())
    result = float(live[base <= 0].sum())
    if result <= expected:
        return expected, 1.0
    with np.errstate(divide="ignore", over="ignore"):
        stay = np.log(-np.expm1(np.minimum(absent, -1e-300)))
        tilted = np.logaddexp(stay, absent + _TILTS[:, None] * sizes) @ how_many
    return expected, float(np.exp(min(0.0, (tilted - _TILTS * result).min())))


def largest_unseen(live: Floats, base: Floats) -> tuple[float, float]:
    """(rows of the most frequent cell that the baseline lacks, the chance of one as frequent).

    By the union bound over all cells that are as frequent in both samples together.
    """
    missing = live[base <= 0]
    if not len(missing):
        return 0.0, 1.0
    most = float(missing.max())
    total = np.round(live + base)
    absent = _absent(total[total >= round(most)], float(live.sum()), float(base.sum()))
    return most, float(min(1.0, np.exp(absent).sum()))


def pool_neighbours(live: Floats, base: Floats, least: float = LEAST_EXPECTED) -> NDArray[np.int64]:
    """Which cell each of these ordered ones is joined into, so that all have rows enough.

    Where that would leave one, the fullest stays alone and all others are joined: zeros and the
    rest of a feature that is nearly always zero.
    """
    total = live + base
    expected = total * (min(live.sum(), base.sum()) / max(total.sum(), 1.0))
    place, held = 0, 0.0
    places = np.zeros(len(total), np.int64)
    for cell, rows in enumerate(expected):
        if held >= least:
            place, held = place + 1, 0.0
        places[cell] = place
        held += rows
    if held < least and place:
        places[places == place] = place - 1
    if places[-1:].any() or (total > 0).sum() < 2:
        return places
    joined: NDArray[np.int64] = (np.arange(len(total)) != np.argmax(total)).astype(np.int64)
    return joined


def pool_rare(live: Floats, base: Floats, least: float = LEAST_EXPECTED) -> NDArray[np.int64]:
    """Which cell each of these unordered ones is joined into: all with too few rows into one."""
    total = live + base
    expected = total * (min(live.sum(), base.sum()) / max(total.sum(), 1.0))
    rare = expected < least
    if rare.all() and len(total):
        rare[np.argmax(total)] = False
    places = np.zeros(len(total), np.int64)
    places[~rare] = np.arange(1, (~rare).sum() + 1)
    return places if rare.any() else places - 1


def pooled(counts: Floats, places: NDArray[np.int64]) -> Floats:
    """Counts by the cells that they are joined into."""
    result: Floats = np.bincount(places, counts).astype(np.float64)
    return result


def mid_ranks(live: Floats, base: Floats) -> Floats:
    """Each ordered cell's place between 0 and 1 among all rows (Bross' ridits, 1958)."""
    total = live + base
    result: Floats = (np.cumsum(total) - total / 2) / max(total.sum(), 1.0)
    return result


def _absent(sizes: Floats, n: float, m: float) -> Floats:
    """Ln of the chance that all rows of a cell of this size were dealt to the window."""
    log = special.gammaln
    with np.errstate(invalid="ignore"):
        result: Floats = log(n + 1) - log(n - sizes + 1) - log(n + m + 1) + log(n + m - sizes + 1)
    return np.where(sizes > n + 0.5, -np.inf, result)

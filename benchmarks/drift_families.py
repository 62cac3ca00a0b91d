"""Features as real data has them: rare values, long tails, many categories, constant dimensions.

One service of all of them, none of which changes; and the changes that a check must see all the
same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from monitoring import array_metrics, expectations
from monitoring.baseline import CATEGORICAL, EMBEDDING, NUMERIC, Baseline, Feature, baseline_of
from monitoring.suite import Rules, expectations_of
from monitoring.verdicts import Finding

VIEW, SERVICE = "families", "families"
DIMENSIONS = 8

Values = NDArray[Any]
Draw = Callable[[np.random.Generator, int], Values]


@dataclass(frozen=True)
class Family:
    """A distribution, by the name of Feast's type of its values."""

    name: str
    dtype: str
    draw: Draw

    @property
    def feature(self) -> Feature:
        """As a feature of the service."""
        return Feature(VIEW, self.name, self.dtype, 0, ())


@cache
def zipf_shares(exponent: float, categories: int) -> NDArray[np.float64]:
    """Shares that fall with a power of the rank."""
    shares: NDArray[np.float64] = 1 / np.arange(1, categories + 1) ** exponent
    shares /= shares.sum()
    return shares


def categories(shares: NDArray[np.float64]) -> Draw:
    """Names by given shares."""
    edges = np.cumsum(shares)[:-1]

    def draw(rng: np.random.Generator, n: int) -> Values:
        names: Values = np.searchsorted(edges, rng.random(n), "right").astype(str)
        return names

    return draw


def _inflated(share: float, of: Draw, elsewhere: float = 0.0) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> Values:
        return np.where(rng.random(n) < share, of(rng, n), elsewhere)

    return draw


def _genres(rng: np.random.Generator, n: int) -> Values:
    """Lists of genres as MovieLens has them: 216 that occur, most of them seldom."""
    return categories(_genre_shares())(rng, n)


@cache
def _genre_shares() -> NDArray[np.float64]:
    # 18 genres, up to three of them at once, by a popularity that falls fast.
    single = zipf_shares(1.0, 18)
    pairs = np.outer(single, single)[np.triu_indices(18, 1)]
    shares = np.sort(np.concatenate([single, 1.5 * pairs, pairs[:45] / 9]))[::-1]
    found: NDArray[np.float64] = shares[:216] / shares[:216].sum()
    return found


def _vectors(rng: np.random.Generator, n: int) -> Values:
    """Dimensions that are always 0, that seldom are not, that have a long tail, and ordinary."""
    vectors = rng.normal(size=(n, DIMENSIONS))
    vectors[:, :2] = 0.0
    vectors[:, 2] = np.where(rng.random(n) < 0.0005, vectors[:, 2], 0.0)
    vectors[:, 3] = np.where(rng.random(n) < 0.005, vectors[:, 3] * 50, 1.0)
    vectors[:, 4] = rng.lognormal(0, 1.5, n)
    return vectors


def _uniform(rng: np.random.Generator, n: int) -> Values:
    return rng.random(n)


def _lognormal(sigma: float) -> Draw:
    return lambda rng, n: rng.lognormal(0, sigma, n)


def _pareto(shape: float) -> Draw:
    return lambda rng, n: rng.pareto(shape, n) + 1


FAMILIES = {
    one.name: one
    for one in (
        Family("normal", "DOUBLE", lambda rng, n: rng.normal(5, 2, n)),
        Family("constant", "DOUBLE", lambda _, n: np.full(n, 3.0)),
        Family("nearly constant, 0.02 %", "DOUBLE", _inflated(0.0002, _uniform)),
        Family("nearly constant, 0.1 %", "DOUBLE", _inflated(0.001, _uniform)),
        Family("nearly constant, 0.5 %", "DOUBLE", _inflated(0.005, _lognormal(2))),
        Family("rare outliers", "DOUBLE", _inflated(0.999, lambda r, n: r.normal(5, 1, n), 1e6)),
        Family("lognormal 1.5", "DOUBLE", _lognormal(1.5)),
        Family("lognormal 2.5", "DOUBLE", _lognormal(2.5)),
        Family("pareto 1.5", "DOUBLE", _pareto(1.5)),
        Family("pareto 1.1", "DOUBLE", _pareto(1.1)),
        Family("a far mode, 0.3 %", "DOUBLE", _inflated(0.003, lambda r, n: r.normal(1e3, 1, n))),
        Family("amounts, 90 % zero", "DOUBLE", _inflated(0.1, lambda r, n: r.lognormal(3, 2, n))),
        Family("prices", "DOUBLE", lambda rng, n: np.round(rng.lognormal(3, 1, n)) - 0.01),
        Family("geometric 0.01", "INT64", lambda rng, n: rng.geometric(0.01, n)),
        Family("negative binomial 0.1", "INT64", lambda r, n: r.negative_binomial(0.1, 0.02, n)),
        Family("poisson 0.3", "INT64", lambda rng, n: rng.poisson(0.3, n)),
        Family("true 1 %", "BOOL", lambda rng, n: rng.random(n) < 0.01),
        Family("true 0.1 %", "BOOL", lambda rng, n: rng.random(n) < 0.001),
        Family("zipf 20", "STRING", categories(zipf_shares(1.0, 20))),
        Family("zipf 200", "STRING", categories(zipf_shares(1.0, 200))),
        Family("zipf 2,000", "STRING", categories(zipf_shares(1.3, 2_000))),
        Family("zipf 20,000", "STRING", categories(zipf_shares(1.0, 20_000))),
        Family("uniform 900", "STRING", categories(np.full(900, 1 / 900))),
        Family("uniform 10,000", "STRING", categories(np.full(10_000, 1e-4))),
        Family("genre lists", "STRING", _genres),
        Family("vectors", "DOUBLE_LIST", _vectors),
    )
}


def _permuted(rng: np.random.Generator, n: int) -> Values:
    """The same shares, of other categories."""
    names = FAMILIES["zipf 200"].draw(rng, n).astype(int)
    permuted: Values = np.random.default_rng(1).permutation(200)[names].astype(str)
    return permuted


def _new_category(rng: np.random.Generator, n: int) -> Values:
    known = FAMILIES["zipf 200"].draw(rng, n).astype(object)
    return np.where(rng.random(n) < 0.02, "new", known).astype(str)


# One feature each that has changed; by the kind of change: which, and its live values.
CHANGES: Mapping[str, tuple[str, Draw]] = {
    # The mean of a lognormal distribution with sigma 1.5 is e^(1.5^2 / 2).
    "lognormal 1.5, location +25 % of the mean": (
        "lognormal 1.5", lambda r, n: r.lognormal(0, 1.5, n) + 0.25 * np.exp(1.5**2 / 2)
    ),
    "pareto 1.5 x 1.25": ("pareto 1.5", lambda r, n: 1.25 * (r.pareto(1.5, n) + 1)),
    "pareto 1.1 x 1.25": ("pareto 1.1", lambda r, n: 1.25 * (r.pareto(1.1, n) + 1)),
    "a new category at 2 %": ("zipf 200", _new_category),
    "zipf 200 permuted": ("zipf 200", _permuted),
    "a constant changes": ("constant", lambda _, n: np.full(n, 4.0)),
    "true 1 % -> 10 %": ("true 1 %", lambda r, n: r.random(n) < 0.1),
    "poisson 0.3 -> 0.5": ("poisson 0.3", lambda r, n: r.poisson(0.5, n)),
}  # fmt: skip


class Watched:
    """A training set of all families, and how windows are judged against it."""

    def __init__(self, columns: Mapping[str, Values]) -> None:
        table = pa.table({name: _column(values) for name, values in columns.items()})
        self.baseline: Baseline = baseline_of(
            SERVICE, {}, "none", table, [one.feature for one in FAMILIES.values()], {}
        )
        # Of the service: with all families together.
        rules = Rules.of(self.baseline, least_rows=1)
        asked = expectations_of(self.baseline, VIEW, rules, set(FAMILIES))
        self._asked: dict[str, Any] = {one.column: one for one in asked if hasattr(one, "judged")}

    @classmethod
    def drawn(cls, rows: int, rng: np.random.Generator) -> "Watched":
        """With a training set of so many rows."""
        return cls({name: one.draw(rng, rows) for name, one in FAMILIES.items()})

    def findings(self, name: str, live: Values) -> list[Finding]:
        """Of one feature's live values."""
        asked = self._asked[name]
        found: list[Finding] = asked.judged(measured(asked, FAMILIES[name].feature.kind, live))
        return found


def measured(asked: Any, kind: str | None, live: Values) -> dict[str, Any]:
    """What Great Expectations would measure for an expectation, by the names of its metrics."""
    rows = {expectations.ROWS: len(live)}
    if kind == CATEGORICAL:
        names, numbers = np.unique(live, return_counts=True)
        texts = [str(name).lower() if live.dtype == bool else str(name) for name in names]
        counts = dict(zip(texts, numbers.tolist(), strict=True))
        return {**rows, expectations.NULLS: 0, expectations.COUNTS: counts}
    if kind == EMBEDDING:
        moments = array_metrics.moments_of(np.asarray(live, float), asked.baseline["sds"])
        return {**rows, expectations.NULLS: 0, array_metrics.MOMENTS: moments}
    held = np.asarray(live, float)
    kept = held[np.isfinite(held)]
    found = {
        **rows,
        expectations.NULLS: len(held) - len(kept),
        expectations.MEAN: kept.mean(),
        expectations.SD: kept.std(ddof=1),
    }
    if kind == NUMERIC:
        bins = asked.metric_values()[expectations.HISTOGRAM]["bins"]
        found[expectations.HISTOGRAM] = np.histogram(kept, bins)[0].tolist()
    return found


def _column(values: Values) -> pa.Array:
    return pa.array(list(values)) if values.ndim == 2 else pa.array(values)

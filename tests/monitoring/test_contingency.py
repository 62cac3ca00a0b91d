"""Tests of counts against scipy, enumeration and dealing at random."""

import numpy as np
import pytest
from scipy import stats

from monitoring.statistics import contingency_tests


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.mark.parametrize(
    ("live", "n", "before", "m"), [(5, 200, 0, 10_000), (0, 500, 8, 900), (40, 1000, 300, 10_000)]
)
def test_two_shares_are_fishers(live: int, n: int, before: int, m: int) -> None:
    less = stats.fisher_exact([[live, n - live], [before, m - before]], "less").pvalue
    more = stats.fisher_exact([[live, n - live], [before, m - before]], "greater").pvalue
    found = contingency_tests.fisher(live, n, before, m)
    assert found == pytest.approx(min(1, 2 * min(less, more)), rel=1e-6)
    assert contingency_tests.fisher(0, n, 0, m) == 1


@pytest.mark.parametrize(
    ("m", "n", "shares"),
    [
        (1_000, 1_000, 1 / np.arange(1, 80)),
        (200, 20_000, np.ones(10)),
        (20_000, 500, np.ones(40)),
    ],
)
def test_homogeneity_holds_its_level_on_tables_with_few_rows_in_a_cell(
    rng: np.random.Generator, m: int, n: int, shares: np.ndarray
) -> None:
    """Rows dealt at random: below a level lies as much as the level says, far out as well."""
    total = rng.multinomial(n + m, shares / shares.sum())
    base = rng.multivariate_hypergeometric(total, m, size=20_000)
    p = np.array([contingency_tests.homogeneity((total - one).astype(float), one.astype(float))
                  for one in base])  # fmt: skip
    for level, most in ((0.05, 1.15), (0.01, 1.3), (0.001, 2.5)):
        assert 0.5 * level < (p < level).mean() < most * level


def test_homogeneity_of_full_cells_is_pearsons(rng: np.random.Generator) -> None:
    table = rng.multinomial(40_000, [0.1, 0.2, 0.3, 0.4], size=2)
    table[1] = rng.multinomial(90_000, [0.103, 0.197, 0.3, 0.4])
    expected = stats.chi2_contingency(table, correction=False).pvalue
    found = contingency_tests.homogeneity(table[0].astype(float), table[1].astype(float))
    assert found == pytest.approx(expected, rel=1e-3)
    independent = contingency_tests.independence(table.astype(float))
    assert independent == pytest.approx(expected, rel=1e-3)


def test_mid_ranks_are_wilcoxons(rng: np.random.Generator) -> None:
    live, base = rng.poisson(2.2, 700), rng.poisson(2.0, 1_900)
    q, p = (np.bincount(one, minlength=15).astype(float) for one in (live, base))
    expected = stats.mannwhitneyu(live, base, use_continuity=False, method="asymptotic").pvalue
    found = contingency_tests.score_shift(q, p, contingency_tests.mid_ranks(q, p))
    assert found == pytest.approx(expected, rel=0.02)


def test_a_score_that_few_rows_have_is_no_normal_number(rng: np.random.Generator) -> None:
    """Three of 500 rows with a huge score: the normal law alone would be certain of them."""
    total, m = np.array([20_480, 20]), 20_000
    base = rng.multivariate_hypergeometric(total, m, size=20_000)
    scores = np.array([0.0, 1e6])
    shift = contingency_tests.score_shift
    p = np.array([shift((total - row).astype(float), row.astype(float), scores) for row in base])
    assert (p < 0.001).mean() < 0.003
    assert (p < 0.01).mean() < 0.02


def test_unseen_rows_are_bounded_by_dealing_at_random(rng: np.random.Generator) -> None:
    for m, n, shares in (
        (500, 20_000, np.ones(100)),
        (1_000, 1_000, 1 / np.arange(1, 500)),
        (2_000, 500, np.ones(900)),
    ):
        total = rng.multinomial(n + m, shares / shares.sum())
        base = rng.multivariate_hypergeometric(total, m, size=3_000)
        rows, p, alone = [], [], []
        for one in base:
            live = (total - one).astype(float)
            expected, chance = contingency_tests.unseen_rows(live, one.astype(float))
            rows.append(live[one == 0].sum())
            p.append(chance)
            alone.append(contingency_tests.largest_unseen(live, one.astype(float))[1])
        assert expected == pytest.approx(np.mean(rows), rel=0.2, abs=1.5)
        for level in (0.05, 0.01):
            assert (np.array(p) < level).mean() <= level + 0.005
            assert (np.array(alone) < level).mean() <= level + 0.005


def test_unseen_rows_beyond_chance_are_certain() -> None:
    base = np.array([*np.full(50, 20.0), 0.0])
    live = np.array([*np.full(50, 19.6), 20.0])  # a new category at 2 %
    assert contingency_tests.largest_unseen(live, base)[0] == 20
    assert contingency_tests.largest_unseen(live, base)[1] < 1e-5
    assert contingency_tests.unseen_rows(live, base)[1] < 2e-5


def test_pooling_leaves_rows_enough_and_zeros_alone() -> None:
    q, p = np.array([1.0, 2, 300, 4, 5, 90]), np.array([2.0, 1, 300, 6, 3, 88])
    for pool in (contingency_tests.pool_neighbours, contingency_tests.pool_rare):
        places = pool(q, p)
        for counts in (q, p):
            assert contingency_tests.pooled(counts, places).sum() == counts.sum()
    places = contingency_tests.pool_neighbours(q, p)
    assert np.all(np.diff(places) >= 0)  # neighbours stay neighbours
    assert contingency_tests.pooled(q + p, places).min() >= 2 * contingency_tests.LEAST_EXPECTED
    mostly = contingency_tests.pool_neighbours(np.array([990.0, 3.0, 1.0]), np.array([995.0, 4, 1]))
    assert mostly.tolist() == [0, 1, 1]


def test_scores_of_groups_hold_their_level_with_rare_and_endless_ones(
    rng: np.random.Generator,
) -> None:
    """F's own law calls the one rare row of a small group certain."""
    groups = np.repeat(np.arange(6), [3, 5, 16, 40, 100, 300])
    n = len(groups)
    columns = [rng.random(n), rng.random(n) < 0.01, rng.standard_cauchy(n), np.ones(n)]
    scores = np.stack(columns, axis=1).astype(float)
    p = np.array([contingency_tests.scores_differ(rng.permutation(groups), scores)
                  for _ in range(4_000)])  # fmt: skip
    for level, most in ((0.05, 1.3), (0.01, 2.5), (0.001, 5)):
        assert ((p < level).mean(axis=0) <= most * level).all()
    assert (p[:, 3] == 1).all()


def test_two_scores_of_groups_are_the_tables(rng: np.random.Generator) -> None:
    groups, rare = rng.integers(0, 5, 300), rng.random(300) < 0.1
    table = np.stack([np.bincount(groups[rare == one], minlength=5) for one in (False, True)])
    found = contingency_tests.scores_differ(groups, rare[:, None].astype(float))
    assert found[0] == pytest.approx(contingency_tests.independence(table.astype(float)))

"""No alarm where nothing changed, whatever the distribution; and one where something did.

The laws of normal samples alarm in nearly every window of such a service.
"""

from collections import Counter

import numpy as np
import pytest

from benchmarks.drift_families import CHANGES, FAMILIES, Watched
from monitoring.verdicts import CRITICAL, WARNING, at_least

# Rows of the training set and of a window.
SIZES = [(1_000, 1_000), (200, 20_000), (20_000, 500)]
TRAINED, WINDOWS = 12, 4


@pytest.mark.parametrize(("m", "n"), SIZES)
def test_a_stationary_service_of_all_families_is_quiet(m: int, n: int) -> None:
    """At most 0.5 % of windows, all features together: of 48, more than 2 never (p = 0.002)."""
    rng = np.random.default_rng([m, n])
    alarms, named = 0, Counter[tuple[str, str]]()
    for _ in range(TRAINED):
        watched = Watched.drawn(m, rng)
        for _ in range(WINDOWS):
            bad = [
                (name, one.statistic)
                for name, family in FAMILIES.items()
                for one in watched.findings(name, family.draw(rng, n))
                if at_least(one.verdict, WARNING)
            ]
            alarms += bool(bad)
            named.update(bad)
    assert alarms <= 2, named
    assert max(named.values(), default=0) <= 1, named


@pytest.fixture(scope="module")
def trained() -> list[Watched]:
    return [Watched.drawn(10_000, np.random.default_rng(seed)) for seed in range(3)]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_at_a_thousand_rows(change: str, trained: list[Watched]) -> None:
    """95 % of windows: of 60, at least 53 unless the share is lower (p = 0.004)."""
    name, live = CHANGES[change]
    rng = np.random.default_rng(5)
    seen = 0
    for run in range(60):
        found = trained[run % len(trained)].findings(name, live(rng, 1_000))
        seen += any(at_least(one.verdict, WARNING) for one in found)
    assert seen >= 53


def test_a_spread_from_a_constant_needs_more_than_a_few_rows(trained: list[Watched]) -> None:
    """A dimension that was always 0: 5 of 5,000 rows are chance, all of them are not."""
    rng = np.random.default_rng(6)
    for share, quiet in ((0.001, True), (1.0, False)):
        vectors = FAMILIES["vectors"].draw(rng, 5_000)
        vectors[:, 0] = np.where(rng.random(5_000) < share, rng.normal(size=5_000), 0.0)
        verdicts = {one.statistic: one.verdict for one in trained[0].findings("vectors", vectors)}
        assert (verdicts["dimension_sd"] != CRITICAL) == quiet


def test_one_huge_vector_is_not_another_encoder(trained: list[Watched]) -> None:
    rng = np.random.default_rng(7)
    vectors = FAMILIES["vectors"].draw(rng, 500)
    vectors[0] = 1e6
    found = trained[0].findings("vectors", vectors)
    assert not [one for one in found if at_least(one.verdict, WARNING)]

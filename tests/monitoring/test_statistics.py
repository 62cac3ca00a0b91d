"""The formulas against scipy and simulation, and one class on two engines."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pytest
from scipy import stats
from scipy.spatial.distance import cosine, jensenshannon

from benchmarks import drift_platform as platform
from benchmarks.drift_platform import DRIFTS, HOUR, SERVICE, START, STATIONARY
from extensions.database import connect
from extensions.statistics.divergence import (
    jensen_shannon_divergence,
    population_stability_index,
)
from monitoring.baseline import EMBEDDING, baseline_of, bin_edges, numeric_content
from monitoring.checks import drift_store
from monitoring.checks.drift_check import as_json, read_results
from monitoring.checks.serving_log_window import Window, relations
from monitoring.statistics import drift_statistics
from monitoring.statistics.embedding_drift import Moments, dimension_shifts
from monitoring.suite import (
    IS_DEFAULT,
    IS_STALE,
    Measuring,
    Rules,
    anchors_of,
    comparisons,
    expectations_of,
)
from monitoring.verdicts import CRITICAL, OK, WARNING, Floor, Statistic

ALPHA = 5e-5


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_the_distances_are_scipys(rng: np.random.Generator) -> None:
    """One of each, for drift checks and for the difference of two versions."""
    for k in (2, 5, 12):
        p, q = rng.multinomial(9_000, rng.dirichlet(np.ones(k) * 5)) + 1, rng.integers(1, 400, k)
        # Both relative entropies; scipy makes shares of counts.
        psi = population_stability_index(p, q)
        assert psi == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p))
        assert psi == pytest.approx(population_stability_index(q, p))
        q[0] = 0
        expected = jensenshannon(p.astype(float), q.astype(float), base=2) ** 2
        assert jensen_shannon_divergence(p.astype(float), q.astype(float)) == pytest.approx(
            expected
        )
    # An empty bin counts as half a row, and takes nothing from the others.
    before, now = np.array([60, 40, 0]), np.array([20, 0, 80])
    shares = [(0.6, 0.2), (0.4, 0.005), (0.005, 0.8)]
    assert population_stability_index(before, now) == pytest.approx(
        sum((b - a) * np.log(b / a) for a, b in shares)
    )
    assert jensen_shannon_divergence(np.array([1.0, 0.0]), np.array([0.0, 7.0])) == pytest.approx(
        1.0
    )


def test_psi_is_of_the_baselines_bins(rng: np.random.Generator) -> None:
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    counts = rng.multinomial(5_000, [0.12, 0.2, 0.3, 0.38])
    found = drift_statistics.psi(counts.astype(float), weights * 10_000)
    q = counts / counts.sum()
    assert found.effect == pytest.approx(stats.entropy(q, weights) + stats.entropy(weights, q))
    table = np.stack([counts, weights * 10_000])
    assert found.p == pytest.approx(stats.chi2_contingency(table).pvalue, rel=0.01)
    assert drift_statistics.psi(np.array([7.0]), np.array([10.0])).p == 1


def test_js_distance_is_scipys(rng: np.random.Generator) -> None:
    names = list("abcdef")
    p, q = rng.dirichlet(np.ones(6) * 3), rng.multinomial(4_000, rng.dirichlet(np.ones(6) * 3))

    def js(live: dict[str, int], frequencies: dict[str, float], m: int) -> Statistic:
        return drift_statistics.category_shifts(live, frequencies, 0.0, m)[0]

    found = js(dict(zip(names, q.tolist(), strict=True)), dict(zip(names, p, strict=True)), 9_000)
    assert found.effect == pytest.approx(jensenshannon(p, q / q.sum(), base=2), rel=1e-9)
    # A category on one side only counts.
    assert js({"x": 100}, {"y": 1.0}, 100).effect == pytest.approx(1.0)
    same = js({"x": 30, "y": 60}, {"x": 1 / 3, "y": 2 / 3}, 90)
    assert (same.effect, same.p) == (pytest.approx(0, abs=1e-7), pytest.approx(1))


def test_unseen_is_what_chance_does_not_leave() -> None:
    shares = {f"c{place}": 0.02 for place in range(50)}
    live = {**{f"c{place}": 20 for place in range(49)}, "new": 20}
    [_, found] = drift_statistics.category_shifts(live, shares, 0.0, 10_000)
    assert (found.name, found.effect) == ("unseen", pytest.approx(0.02))
    assert found.p < 1e-12
    # Half of what the baseline has stands there once: as much is new to it in every window.
    once = {f"c{place}": 1 / 200 for place in range(200)}
    [_, found] = drift_statistics.category_shifts({f"d{n}": 1 for n in range(200)}, once, 0.0, 200)
    assert found.p > 0.1
    # Beyond what is named, nothing is new.
    assert len(drift_statistics.category_shifts({"new": 9}, {"c0": 0.5}, 0.5, 200)) == 1


def test_a_share_is_fishers_exact_test() -> None:
    for live, n, before, m in ((5, 200, 0, 10_000), (40, 1000, 300, 10_000), (0, 500, 800, 9_000)):
        found = drift_statistics.share_shift("nulls", live, n, before / m, m)
        less = stats.fisher_exact([[live, n - live], [before, m - before]], "less").pvalue
        more = stats.fisher_exact([[live, n - live], [before, m - before]], "greater").pvalue
        assert found.p == pytest.approx(min(1, 2 * min(less, more)), rel=1e-6)
        assert found.effect == pytest.approx(abs(live / n - before / m))


def numbers(values: Any, edges: Any) -> drift_statistics.Numbers:
    counts = np.histogram(values, [-np.inf, *edges, np.inf])[0].astype(float)
    return drift_statistics.Numbers(counts, float(values.mean()), float(values.std(ddof=1)))


def test_mean_and_spread_are_of_the_values_and_their_chance_of_the_bins(
    rng: np.random.Generator,
) -> None:
    base, live = rng.normal(10, 2, 10_000), rng.normal(10.5, 3, 1_000)
    edges = bin_edges(base)
    was, now = numbers(base, edges), numbers(live, edges)
    centers = [float(np.median(base[np.digitize(base, edges) == place])) for place in range(10)]
    mean = drift_statistics.mean_shift(now, was, centers, 3.0)
    assert mean.effect == pytest.approx(abs(live.mean() - base.mean()) / base.mean())
    moved = rng.normal(10.4, 2, 1_000)
    p = drift_statistics.mean_shift(numbers(moved, edges), was, centers, 3.0).p
    # Nearly what the values themselves tell: ten bins lose little of a normal distribution.
    expected = stats.norm.isf(stats.ttest_ind(moved, base).pvalue / 2)
    assert stats.norm.isf(p / 2) == pytest.approx(expected, rel=0.12)
    sd = drift_statistics.sd_shift(now, was, centers, 3.0)
    assert sd.effect == pytest.approx(live.std(ddof=1) / base.std(ddof=1) - 1)
    assert sd.p < 1e-9
    # With a heavy tail the chance is that of ranks, and one row more changes next to nothing.
    ranks = drift_statistics.mean_shift(now, was, centers, 500.0)
    assert 0 < ranks.p < 1e-3
    with_one = numbers(np.append(live, 1e9), edges)
    assert drift_statistics.mean_shift(with_one, was, centers, 500.0).effect < ranks.effect + 0.01
    # A feature around zero is measured by its spread.
    around = drift_statistics.Numbers(was.counts, 0.0, 2.0)
    level = drift_statistics.mean_shift(
        drift_statistics.Numbers(was.counts, 0.1, 2.0), around, centers, 3.0
    )
    assert level.effect == pytest.approx(0.1)
    assert level.p == pytest.approx(1.0)
    # A constant has no spread that could change, and what it changes to is `outside`.
    constant = drift_statistics.Numbers(np.array([500.0]), 1.0, 0.0)
    assert drift_statistics.mean_shift(constant, constant, [1.0], 3.0).p == 1
    assert drift_statistics.sd_shift(constant, constant, [1.0], 3.0).p == 1


def test_outside_is_the_chance_of_the_greatest_values() -> None:
    found = drift_statistics.outside(0, 30, 1_000, 2_000)
    assert found.effect == pytest.approx(0.03)
    # All of the 30 greatest of 3,000 in one sample of 1,000, on either end.
    chance = np.prod([(1_000 - k) / (3_000 - k) for k in range(30)])
    assert found.p == pytest.approx(2 * chance, rel=1e-6)
    assert drift_statistics.outside(0, 1, 20_000, 200).p > 0.5


@pytest.mark.parametrize("n", [500, 2_000])
def test_chance_is_what_it_says(n: int) -> None:
    """Under no change the p-values of each statistic fall below 1 % about 1 % of the time."""
    rng = np.random.default_rng(n)
    m, runs, level = 10_000, 1_000, 0.01
    below = dict.fromkeys(("psi", "mean", "sd", "js", "heavy mean", "heavy sd"), 0)
    for _ in range(runs):
        base, live = rng.gamma(4, 1, m), rng.gamma(4, 1, n)
        content = numeric_content(base)
        edges, centers = content["edges"][1:-1], content["centers"]
        was, now = numbers(base, edges), numbers(live, edges)
        genres = rng.multinomial(n, [0.4, 0.3, 0.2, 0.1])
        before = rng.multinomial(m, [0.4, 0.3, 0.2, 0.1]) / m
        named = (dict(zip("abcd", one, strict=True)) for one in (genres.tolist(), before))
        for name, found in (
            ("psi", drift_statistics.psi(now.counts, was.counts)),
            ("mean", drift_statistics.mean_shift(now, was, centers, content["kurtosis"])),
            ("sd", drift_statistics.sd_shift(now, was, centers, content["kurtosis"])),
            ("heavy mean", drift_statistics.mean_shift(now, was, centers, 500.0)),
            ("heavy sd", drift_statistics.sd_shift(now, was, centers, 500.0)),
            ("js", drift_statistics.category_shifts(*named, 0.0, m)[0]),
        ):
            below[name] += found.p < level
    for name, count in below.items():
        # Five standard deviations of a binomial, and the laws are asymptotic.
        assert count / runs < level + 5 * math.sqrt(level / runs) + 0.005, (name, count)
        assert count / runs > 0.002, (name, count)


def test_stale_rows_and_missing_requests_are_exact_tests() -> None:
    for live, n in ((0, 900), (9, 900), (30, 900)):
        found = drift_statistics.excess("stale", live, n, 0.01)
        assert found.effect == pytest.approx(live / n)
        assert found.p == pytest.approx(stats.binomtest(live, n, 0.01, "greater").pvalue)
    found = drift_statistics.missing_volume(40, 100.0)
    assert found.effect == pytest.approx(0.6)
    assert found.p == pytest.approx(sum(stats.poisson.pmf(k, 100) for k in range(41)))
    assert drift_statistics.missing_volume(130, 100.0).effect == 0
    assert drift_statistics.missing_volume(3, 0.0).p == 1


def test_the_dimension_that_moved_most_is_found(rng: np.random.Generator) -> None:
    n, m, d = 800, 10_000, 6
    base = rng.normal(3, [1, 2, 3, 4, 5, 0], (m, d))
    live = rng.normal(3, [1, 2, 3, 4, 5, 0], (n, d))
    live[:, 1] += 0.5 * 2
    live[:, 3] = 3 + (live[:, 3] - 3) * 1.4
    kurtoses = np.array([*stats.kurtosis(base.T[:5], axis=1, fisher=False), 3])
    unknown = np.full(d, np.nan)
    mean, sd = dimension_shifts(
        Moments(live.mean(axis=0), live.std(axis=0, ddof=1), unknown, n),
        Moments(base.mean(axis=0), base.std(axis=0, ddof=1), kurtoses, m),
        ALPHA,
    )
    # One at a time, by the laws of a single number.
    shifts = [
        (a.mean() - b.mean()) / b.std(ddof=1) for a, b in zip(live.T[:5], base.T[:5], strict=True)
    ]
    assert mean.effect == pytest.approx(np.abs(shifts).max())
    assert np.argmax(np.abs(shifts)) == 1
    assert mean.p == pytest.approx(stats.ttest_ind(live[:, 1], base[:, 1]).pvalue, rel=2)
    ratio = np.log(live[:, 3].std(ddof=1) / base[:, 3].std(ddof=1))
    error = math.sqrt((kurtoses[3] - 1) / 4 * (1 / n + 1 / m))
    assert sd.effect == pytest.approx(ratio)
    assert sd.p == pytest.approx(2 * stats.norm.sf(ratio / error))


def test_anchors_that_point_elsewhere_are_counted(rng: np.random.Generator) -> None:
    then = rng.normal(size=(50, 16))
    now = then + 0.05 * rng.normal(size=then.shape)
    now[:20] = rng.normal(size=(20, 16))
    now[20] = 0
    found = drift_statistics.lost_anchors(now, then, 0.3)
    turned = [1.0 if not a.any() else cosine(a, b) for a, b in zip(now, then, strict=True)]
    assert found.effect == pytest.approx(np.median(turned))
    lost = sum(one >= 0.3 for one in turned)
    assert found.p == pytest.approx(stats.binomtest(lost, 50, 0.25, "greater").pvalue)
    assert drift_statistics.lost_anchors(then, then, 0.3).p == 1


def test_certain_and_large_or_nothing() -> None:
    floor = Floor(0.1, 0.2)
    assert Statistic("psi", 0.5, 1e-3).judge(floor, 1e-4) == OK  # by chance
    assert Statistic("psi", 0.05, 1e-9).judge(floor, 1e-4) == OK  # too small to matter
    assert Statistic("psi", 0.15, 1e-9).judge(floor, 1e-4) == WARNING
    assert Statistic("psi", 0.25, 1e-9).judge(floor, 1e-4) == CRITICAL


def test_edges_lie_between_values_and_bins_are_filled(rng: np.random.Generator) -> None:
    for values in (
        rng.normal(size=5_000),
        rng.poisson(3, 5_000).astype(float),
        np.where(rng.random(5_000) < 0.6, 0.0, rng.gamma(2, 5, 5_000)),
        np.array([1.0, 2.0] * 50),
    ):
        edges = bin_edges(values)
        assert edges == sorted(set(edges))
        assert not set(edges) & set(values.tolist())
        shares = np.histogram(values, [-np.inf, *edges, np.inf])[0] / len(values)
        assert shares.min() >= 0.02 - 1e-9
        assert len(edges) <= 9
    assert bin_edges(np.ones(100)) == []


def test_an_embeddings_moments_and_anchors(rng: np.random.Generator) -> None:
    columns = platform.draw(STATIONARY, 3_000, rng)
    [taste] = [f for f in platform.FEATURES if f.kind == EMBEDDING]
    base = baseline_of(SERVICE, {}, "", platform.table_of(columns), [taste], {})
    content = base.features[0].content
    vectors = columns["taste"].astype(np.float64)
    np.testing.assert_allclose(content["means"], vectors.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(content["sds"], vectors.std(axis=0, ddof=1), rtol=1e-9)
    np.testing.assert_allclose(
        content["kurtoses"], stats.kurtosis(vectors, axis=0, fisher=False), rtol=1e-9
    )
    assert len(content["anchors"]) == 50
    for anchor in content["anchors"]:
        [user] = anchor["keys"]
        np.testing.assert_array_equal(
            np.float32(anchor["vector"]), platform.tastes(np.array([user]), STATIONARY)[0]
        )


def test_a_baseline_leaves_out_what_is_no_number(rng: np.random.Generator) -> None:
    columns = platform.draw(STATIONARY, 1_000, rng)
    score, taste = columns["score"].copy(), columns["taste"].copy()
    score[:10], score[10:30] = np.nan, np.inf
    taste[:40, 3] = -np.inf
    wrong = {**columns, "score": score, "taste": taste}
    features = [f for f in platform.FEATURES if f.name in ("score", "taste")]
    found = baseline_of(SERVICE, {}, "", platform.table_of(wrong), features, {})
    by_name = {one.feature.name: one for one in found.features}
    assert by_name["score"].null_rate == pytest.approx(0.03)
    assert by_name["taste"].null_rate == pytest.approx(0.04)
    assert by_name["score"].content["mean"] == pytest.approx(columns["score"][30:].mean())
    np.testing.assert_allclose(
        by_name["taste"].content["means"], columns["taste"][40:].mean(axis=0), rtol=1e-5, atol=1e-7
    )
    json.loads(found.to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("world", ["stationary", "sd x 1.5", "nulls 0 -> 5 %"])
def test_pandas_and_postgresql_give_the_same_numbers(fresh_database: str, world: str) -> None:
    drawn = {"stationary": STATIONARY, **DRIFTS}[world]
    base = platform.baseline()
    rules = Rules.of(base)
    window = Window(SERVICE, START, START + HOUR)
    with connect(fresh_database, autocommit=True) as conn:
        platform.serve(conn, fresh_database, drawn, 1_500, 0, seed=5)
        platform.log_tastes(conn, drawn, 0)
        in_database, in_pandas = Measuring(fresh_database), Measuring()
        with relations(conn, base, window) as found:
            for view, relation in found.views.items():
                asked = expectations_of(base, view, rules, set(relation.columns))
                one = in_database.validate(in_database.of_relation(relation.name), asked)
                frame = _frame(conn, relation.name)
                assert len(frame) == 1_500
                other = in_pandas.validate(in_pandas.of_frame(frame), asked)
                _same(one, other)
                for result, expected in zip(as_json(one), asked, strict=True):
                    _against_numpy(result, expected, frame)
            [(label, relation)] = found.anchors.items()
            [feature] = [f for f in base.features if f.feature.label == label]
            asked = [anchors_of(feature, rules)]
            one = in_database.validate(in_database.of_relation(relation.name), asked)
            other = in_pandas.validate(in_pandas.of_frame(_frame(conn, relation.name)), asked)
            _same(one, other)
        in_database.close()


def _frame(conn: psycopg.Connection, relation: str) -> pd.DataFrame:
    cursor = conn.execute(f"SELECT * FROM {relation}")
    assert cursor.description is not None
    frame = pd.DataFrame(cursor.fetchall(), columns=[c.name for c in cursor.description])
    for name in frame.columns:
        if name not in ("genre", "taste", "request_id", "place"):
            frame[name] = frame[name].astype(np.float64)
    if "taste" in frame:  # the driver reads reals from their shortest text
        frame["taste"] = [np.float32(vector).astype(np.float64) for vector in frame["taste"]]
    return frame


def _same(one: Any, other: Any) -> None:
    for a, b in zip(as_json(one), as_json(other), strict=True):
        assert a["success"] == b["success"]
        left, right = a["result"].get("details"), b["result"].get("details")
        if left is None:
            continue
        for f, g in zip(left["findings"], right["findings"], strict=True):
            assert (f["statistic"], f["verdict"]) == (g["statistic"], g["verdict"])
            assert f["effect"] == pytest.approx(g["effect"], rel=1e-9, abs=1e-12)
            assert f["p"] == pytest.approx(g["p"], rel=1e-6, abs=1e-300)
        assert left["live"].keys() == right["live"].keys()
        if "counts" in left["live"]:
            assert left["live"]["counts"] == right["live"]["counts"]
    assert read_results(as_json(one))[1] == []


def _against_numpy(result: dict[str, Any], expected: Any, frame: pd.DataFrame) -> None:
    """The measured side of each expectation, recomputed from the rows."""
    details = result["result"].get("details")
    if details is None:
        return
    live, column = details["live"], frame[expected.column]
    held = column.dropna()
    assert live.get("nulls", 0) == column.isna().sum()
    if "mean" in live:
        values = held.to_numpy()
        assert live["mean"] == pytest.approx(values.mean(), rel=1e-9)
        assert live["sd"] == pytest.approx(values.std(ddof=1), rel=1e-9)
        edges = [-np.inf, *expected.baseline["edges"], np.inf]
        assert live["counts"] == np.histogram(values, edges)[0].tolist()
    elif "means" in live:
        vectors = np.array(held.tolist(), np.float64)
        np.testing.assert_allclose(live["means"], vectors.mean(axis=0), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(live["sds"], vectors.std(axis=0, ddof=1), rtol=1e-6)
    elif "share" in live:
        assert live["share"] == pytest.approx(held.mean())
    else:
        assert live["counts"] == held.value_counts().to_dict()


def test_certainty_is_shared_by_all_comparisons() -> None:
    base = platform.baseline()
    # 5 numbers x 5, 1 category x 3, 32 dimensions x 2 + 2, defaults and stale of 3 views, volume.
    assert comparisons(base) == 5 * 5 + 3 + 66 + 6 + 1
    assert Rules.of(base).alpha == pytest.approx(0.005 / 101)
    floors = {("v:f", "psi"): Floor(0.4, 0.8)}
    assert Rules.of(base, floors).floors_of("v:f")["psi"] == asdict(Floor(0.4, 0.8))
    assert Rules.of(base, floors).floors_of("v:g")["psi"] == asdict(Floor(0.1, 0.2))


def test_a_baseline_is_its_content(fresh_database: str) -> None:
    with connect(fresh_database, autocommit=True) as conn:
        base = platform.baseline()
        first = drift_store.bind(conn, base)
        assert drift_store.bind(conn, platform.baseline()) == first
        second = drift_store.bind(conn, platform.baseline(seed=2))
        assert second != first
        identity, read = drift_store.bound_baseline(conn, SERVICE)
        assert (identity, read.identity) == (second, second)
        row = conn.execute("SELECT count(*) FROM drift_baselines").fetchone()
        assert row == (2,)  # kept for ever
        assert (IS_DEFAULT, IS_STALE) == ("is_default", "is_stale")

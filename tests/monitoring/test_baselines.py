"""Odd columns make a baseline or a true sentence; odd windows are judged against it."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from extensions.errors import SkewlessError
from extensions.statistics.histogram import edges_with_range
from monitoring import array_metrics, expectations
from monitoring.baseline import Baseline, Feature, baseline_of
from monitoring.baselines.distribution_measuring import MOST_CATEGORIES, categorical_content
from monitoring.suite import Rules, expectations_of
from monitoring.verdicts import CRITICAL, Finding

ROWS = 200
NAN, INF = float("nan"), float("inf")


def baseline(dtype: str, values: Any, **more: Any) -> Baseline:
    feature = Feature("v", "f", dtype, 0, ())
    table = pa.table({"f": values, **more})
    found = baseline_of("s", {}, "none", table, [feature], {})
    # It can be kept: JSON knows neither NaN nor infinity.
    return Baseline.from_json(json.loads(found.to_json(), parse_constant=pytest.fail))


def judged(base: Baseline, metrics: dict[str, Any]) -> dict[str, Finding]:
    [asked] = [one for one in expectations_of(base, "v", Rules.of(base), {"f"})
               if hasattr(one, "judged")]  # fmt: skip
    return {one.statistic: one for one in asked.judged(metrics)}


def numbers(base: Baseline, values: Any) -> dict[str, Any]:
    held = values[np.isfinite(values)]
    bins = [-np.inf, *base.features[0].content["edges"], np.inf]
    return {
        expectations.ROWS: len(values),
        expectations.NULLS: len(values) - len(held),
        expectations.HISTOGRAM: np.histogram(held, bins)[0].tolist(),
        expectations.MEAN: float(held.mean()) if len(held) else None,
        expectations.SD: float(held.std(ddof=1)) if len(held) > 1 else None,
    }


@pytest.mark.parametrize(
    ("dtype", "values", "missing"),
    [
        ("FLOAT", pa.nulls(ROWS, pa.float32()), 1.0),
        ("FLOAT", pa.array([NAN] * ROWS, pa.float32()), 1.0),
        ("DOUBLE", pa.array([INF, -INF] * (ROWS // 2)), 1.0),
        ("DOUBLE", pa.array([1e308, -1e308] * (ROWS // 2)), 1.0),
        ("FLOAT", pa.array([1e38, -1e38] * (ROWS // 2), pa.float32()), 0.0),
        ("DOUBLE", pa.array([5e-324, 0.0] * (ROWS // 2)), 0.0),
        ("INT64", pa.array([2**60 + n for n in range(ROWS)]), 0.0),
        ("INT64", pa.array([2**63 - 1, -(2**63)] * (ROWS // 2)), 0.0),
        ("STRING", pa.nulls(ROWS, pa.string()), 1.0),
        ("BOOL", pa.array([True] * ROWS), 0.0),
        ("FLOAT_LIST", pa.nulls(ROWS, pa.list_(pa.float32())), 1.0),
        ("FLOAT_LIST", pa.array([[]] * ROWS, pa.list_(pa.float32())), 0.0),
        ("FLOAT_LIST", pa.array([[NAN, 1.0]] * ROWS, pa.list_(pa.float32())), 1.0),
        ("INT64_LIST", pa.array([[1, None], [1, 2]] * (ROWS // 2)), 0.5),
        ("INT64_LIST", pa.array([[2**60, n] for n in range(ROWS)]), 0.0),
        ("DOUBLE_LIST", pa.array([[1.0, 2.0]] + [None] * (ROWS - 1)), 1 - 1 / ROWS),
    ],
)  # fmt: skip
def test_an_odd_column_makes_a_baseline(dtype: str, values: pa.Array, missing: float) -> None:
    times = pa.array(np.arange(ROWS) * 3_600_000_000, pa.timestamp("us", "UTC"))
    base = baseline(dtype, values, event_timestamp=times)
    assert base.features[0].null_rate == pytest.approx(missing)


def test_what_makes_none_says_why() -> None:
    with pytest.raises(SkewlessError, match="99 rows are too few for a baseline of s"):
        baseline("DOUBLE", pa.array([1.0] * 99))
    lengths = pa.array([[1.0], [1.0, 2.0]] * (ROWS // 2))
    with pytest.raises(SkewlessError, match=r"vectors of 1 to 2 dimensions"):
        baseline("DOUBLE_LIST", lengths)
    # Beside another feature it is left out, with the reason.
    features = [Feature("v", "f", "DOUBLE_LIST", 0, ()), Feature("v", "g", "DOUBLE", 0, ())]
    table = pa.table({"f": lengths, "g": np.arange(ROWS, dtype=float)})
    found = baseline_of("s", {}, "none", table, features, {})
    assert [one.feature.name for one in found.features] == ["g"]
    assert found.left_out == ("v:f (vectors of 1 to 2 dimensions)",)


def test_odd_windows_are_judged() -> None:
    rng = np.random.default_rng(1)
    base = baseline("DOUBLE", pa.array(rng.normal(5, 2, 2_000)))
    everything = judged(base, numbers(base, np.full(1_000, np.nan)))
    assert {k: v.verdict for k, v in everything.items()} == {"nulls": CRITICAL}
    one = judged(base, numbers(base, np.r_[np.full(999, np.nan), 5.0]))
    assert one["nulls"].verdict == CRITICAL
    constant = judged(base, numbers(base, np.full(1_000, 5.0)))
    assert {k for k, v in constant.items() if v.verdict == CRITICAL} == {"psi", "sd"}
    # A column that had no value and now has them: its nulls went away.
    empty = baseline("DOUBLE", pa.nulls(ROWS, pa.float64()))
    assert judged(empty, numbers(empty, rng.normal(5, 2, 1_000)))["nulls"].verdict == CRITICAL
    for values in (pa.nulls(ROWS, pa.list_(pa.float64())), pa.array([[]] * ROWS)):
        base = baseline("DOUBLE_LIST", values.cast(pa.list_(pa.float64())))
        found = judged(base, {expectations.ROWS: 900, expectations.NULLS: 0})
        assert set(found) == {"nulls"}


def test_a_single_vector_is_no_distribution() -> None:
    base = baseline("DOUBLE_LIST", pa.array([[1.0, 2.0]] + [None] * (ROWS - 1)))
    rng = np.random.default_rng(2)
    moments = array_metrics.moments_of(rng.normal(size=(900, 2)), [0.0, 0.0])
    found = judged(
        base, {expectations.ROWS: 900, expectations.NULLS: 0, array_metrics.MOMENTS: moments}
    )
    assert set(found) == {"nulls"}


def test_edges_hold_the_range_and_leave_a_frequent_value_alone() -> None:
    rng = np.random.default_rng(3)
    for values in (
        np.zeros(100), rng.normal(size=3_000), rng.lognormal(0, 3, 500),
        np.where(rng.random(2_000) < 0.004, rng.random(2_000), 0.0),
        np.float64(2**60) + np.arange(0, 4096, 256),
    ):  # fmt: skip
        edges = edges_with_range(values)
        assert edges == sorted(set(edges))
        counts = np.histogram(values, [-np.inf, *edges, np.inf])[0]
        assert (counts[0], counts[-1]) == (0, 0)
        assert counts[1:-1].min() > 0
    [_, zero, *_] = np.histogram(values := np.where(np.arange(2_000) < 8, 0.5, 0.0),
                                 [-np.inf, *edges_with_range(values), np.inf])[0]  # fmt: skip
    assert zero == 1_992


def test_kept_categories_are_not_chosen_by_what_they_are_compared_with() -> None:
    """Of more than can be kept, their share in the baseline is what a window has of them."""
    rng = np.random.default_rng(4)
    names = pa.array(rng.integers(0, 40_000, 30_000).astype(str))
    content = categorical_content(pa.chunked_array([names]))
    assert len(content["frequencies"]) == MOST_CATEGORIES
    assert content["counted"] == 15_000
    live = rng.integers(0, 40_000, 30_000).astype(str)
    share = np.isin(live, list(content["frequencies"])).mean()
    assert sum(content["frequencies"].values()) == pytest.approx(share, abs=0.01)

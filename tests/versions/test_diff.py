"""The difference of two versions, against numbers worked out by hand and by the oracle's events."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from extensions.asof import Spine, compute
from extensions.database import connect_arrow
from extensions.errors import SkewlessError
from extensions.statistics.divergence import population_stability_index
from extensions.statistics.ranking_change import rank_change, top_overlap
from extensions.stores.registry.version_store import find
from extensions.versions.column_distance import (
    ColumnSummary,
    Distribution,
    cumulative_shares,
    distance_of,
    distribution_change,
    summary_of,
)
from extensions.versions.diff import Comparison, FeatureDiff, LargestDifference, compare
from extensions.versions.diff_report import render
from extensions.versions.engine_choice import EngineSettings
from tests.reports.page import Page
from tests.versions.conftest import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def chunked(values: list, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


def test_numbers_texts_and_embeddings_are_measured() -> None:
    apart, change, kind = distance_of(chunked([1, 2, None, None]), chunked([1, 5, 3, None]))
    assert kind == "number"
    assert apart.tolist() == [0, 3, np.inf, 0]
    assert change.tolist() == [0, 3, 0, 0]
    apart, _, kind = distance_of(chunked(["a", "b", None]), chunked(["a", "c", "d"]))
    assert (kind, apart.tolist()) == ("text", [0, 1, 1])
    floats = pa.list_(pa.float32())
    apart, _, kind = distance_of(
        chunked([[0, 0], [1, 1], None], floats), chunked([[3, 4], [1, 1], [0, 0]], floats)
    )
    assert (kind, apart.tolist()) == ("embedding", [5, 0, np.inf])


def test_drift_statistics_are_the_textbook_s() -> None:
    # Σ (q - p) ln(q / p), for shares (.5, .5) and (.75, .25).
    expected = 0.25 * np.log(1.5) + -0.25 * np.log(0.5)
    assert population_stability_index(np.array([50, 50]), np.array([75, 25])) == pytest.approx(
        expected
    )
    same = list(range(100))
    assert distribution_change(chunked(same), chunked(same), "number").psi == 0
    apart = distribution_change(chunked(["a", "a"]), chunked(["b", "b"]), "text")
    assert apart.divergence == 1.0


def test_both_versions_are_asked_the_same(world: World, tmp_path: Path) -> None:
    world.repository.second_version("user_watch_stats")
    world.apply()
    found = compare(world.conn, world.database, "user_watch_stats", 1, 2, size=16)
    assert found.pairs == 16
    [one] = found.features
    # Every 50th event of the history is shorter than a minute.
    assert 0 < one.differing <= 16
    assert one.quantiles[-1] == 0
    assert one.first.mean > one.second.mean
    largest = one.largest[0]
    assert largest.first - largest.second == largest.distance == -one.quantiles[0]
    # The same questions, asked one at a time.
    with connect_arrow(world.database) as arrow:
        for version, value in ((1, largest.first), (2, largest.second)):
            computation = find(world.conn, "user_watch_stats", version).definition.computation()
            spine = Spine.of([(*largest.keys, largest.as_of)], computation)
            [row] = compute(arrow, computation, spine).to_pylist()
            assert row["user_watch_count_7d"] == value
    assert one.ranking is None  # of so few entities at an instant
    assert found.sql[0] != found.sql[1]
    report = render(found)
    assert "<svg" in report
    assert not re.search(r"https?://|src=|@import|<script", report)
    page = Page(report)
    assert (page.open, page.wrong) == ([], [])
    # The line that was added to the SQL, and what the figures are of.
    assert page.tags.count("ins") >= 1
    for said in ("What changed in the SQL", "Rank correlation", "Declared default", "Null", "PSI"):
        assert said in page.text


def test_a_version_is_the_same_as_itself(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    found = compare(world.conn, world.database, "item_stats", 1, 1, size=50)
    [one] = found.features
    assert (one.differing, one.psi) == (0, 0)
    found = compare(world.conn, world.database, "item_stats", 1, 2, size=50)
    [one] = found.features
    # A faster decay can only lower a score.
    assert one.differing == found.pairs == 48
    assert one.quantiles[-1] <= 0


def test_what_cannot_be_compared(world: World) -> None:
    with pytest.raises(SkewlessError, match="ranking_signals is a transform"):
        compare(world.conn, world.database, "ranking_signals", 1, 1)
    world.conn.execute("UPDATE watch_events SET watched_at = %s, ingested_at = %s",
                       [datetime.now(UTC) - timedelta(days=200)] * 2)  # fmt: skip
    with pytest.raises(SkewlessError, match="No entity of item_stats was active"):
        compare(world.conn, world.database, "item_stats", 1, 1)


def test_rankings_are_compared_at_each_instant() -> None:
    values = np.arange(100.0)
    groups = ["a"] * 50 + ["b"] * 50
    same = rank_change(values, values**3, groups)
    assert same is not None
    assert (same.spearman, same.top_overlap) == (pytest.approx(1), 1)
    assert (same.top, same.rankings) == (5, 2)
    turned = rank_change(values, -values, groups)
    assert turned is not None
    assert (turned.spearman, turned.top_overlap) == (pytest.approx(-1), 0)
    # The order within each instant counts, not the level from one to the other.
    shifted = np.concatenate([values[:50] + 1000, values[50:]])
    assert rank_change(values, shifted, groups) == same
    # Nobody is ranked by a constant, and null ranks nowhere.
    assert rank_change(values, np.ones(100), groups) is None
    holes = values.copy()
    holes[::2] = np.nan
    assert rank_change(values, holes, groups).spearman == pytest.approx(1)
    assert rank_change(values[:9], values[:9], groups[:9]) is None


def test_ties_at_the_border_of_the_top_share_its_places() -> None:
    tied = np.array([3.0, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    assert top_overlap(tied, tied, 3) == 1
    # Of four that tie for two places each has a half; one of them leaves.
    other = np.array([3.0, 2, 2, 0, 0, 0, 0, 0, 0, 0])
    assert top_overlap(tied, other, 3) == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_bins_show_the_tails() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0, 1, 5_000), [1e6] * 60])
    change = distribution_change(chunked(values.tolist()), chunked(values.tolist()), "number")
    edges, counts = change.distribution.edges, change.distribution.first
    assert sum(counts) == 5_060
    assert any(10 < edge < 1e6 for edge in edges)
    # Of twenty bins as wide as each other nineteen would be empty.
    assert sum(count > 0 for count in counts) >= 10
    gone = np.where(values == 1e6, 0.0, values)
    moved = distribution_change(chunked(values.tolist()), chunked(gone.tolist()), "number")
    tail = next(place for place, edge in enumerate(edges, 1) if edge > 10)
    assert sum(moved.distribution.first[tail:]) == 60
    assert sum(moved.distribution.second[tail:]) == 0


def test_defaults_and_nulls_are_counted() -> None:
    summary = summary_of(chunked([0.1, None, 0.1, 2.0], pa.float32()), "number", 0.1)
    assert (summary.nulls, summary.defaults) == (1, 2)
    assert summary_of(chunked([None, "a"]), "text", None).defaults == 1
    lists = chunked([[0.1, 0.2], [1.0, 0.0]], pa.list_(pa.float32()))
    assert summary_of(lists, "embedding", [0.1, 0.2]).defaults == 1


def test_changes_keep_their_tails() -> None:
    rng = np.random.default_rng(1)
    values = np.append(rng.normal(size=100_000), [-500.0, 900.0])
    points = cumulative_shares(values)
    assert len(points) < 150
    assert (points[0][0], points[-1]) == (-500.0, (900.0, 1.0))
    for value, share in points:
        assert share == pytest.approx((values <= value).mean())
    assert cumulative_shares(np.array([2.0, 1.0, 2.0])) == ((1.0, 1 / 3), (2.0, 1.0))


def test_a_report_s_names_and_values_are_text() -> None:
    hostile = "<script>alert(1)</script>"
    column = ColumnSummary(0, 0, None, None)
    feature = FeatureDiff(
        name=hostile, kind="text", differing=1, share=0.5, first=column, second=column,
        quantiles=(0.0,) * 7, psi=None, divergence=0.5, ranking=None,
        largest=(LargestDifference((hostile,), NOW, hostile, "b", 1.0),),
        distribution=Distribution((), (hostile,), (1,), (2,), (3, 4, 5)), changes=(),
    )  # fmt: skip
    comparison = Comparison(
        view=hostile, first=1, second=2, pairs=2, instants=(NOW,), join_keys=(hostile,),
        features=(feature,), only_first=(hostile,), only_second=(), seconds=(1.0, 2.0),
        sql=(hostile, f"{hostile} -- </pre>"), descriptions={hostile: hostile},
    )  # fmt: skip
    page = Page(render(comparison))
    assert (page.open, page.wrong) == ([], [])
    assert "script" not in page.tags
    assert page.fetched == [f"#{hostile}"]
    assert "5 other categories" in page.text
    assert page.text.count("critical") >= 2


def test_duckdb_compares_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of one time: values that decay are others a moment later."""
    world.repository.second_version("item_stats")
    world.apply()
    at = datetime.now(UTC) - timedelta(minutes=1)
    monkeypatch.setattr("extensions.versions.diff.settled_now", lambda *_: at)
    url, pair = world.database, ("item_stats", 1, 2)
    ours = compare(world.conn, url, *pair, size=50)
    by_duckdb = EngineSettings("duckdb", "1GB")
    theirs = compare(world.conn, url, *pair, size=50, settings=by_duckdb)
    assert (ours.engine, theirs.engine) == ("postgresql", "duckdb")
    assert replace(theirs, seconds=ours.seconds, engine=ours.engine) == ours
    # Of so few pairs nothing is gained.
    assert compare(world.conn, url, *pair, size=50, settings=EngineSettings()).engine == (
        "postgresql"
    )

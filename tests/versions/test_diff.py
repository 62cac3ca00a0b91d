"""The difference of two versions, against numbers worked out by hand and by the oracle's events."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from extensions.asof import Spine, compute
from extensions.database import connect_arrow
from extensions.errors import SkewlessError
from extensions.stores.registry.version_store import find
from extensions.versions.column_distance import distance_of, histogram, stability
from extensions.versions.diff import compare
from extensions.versions.diff_report import render
from tests.versions.conftest import World


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
    assert stability(np.array([50, 50]), np.array([75, 25])) == pytest.approx(expected)
    same = list(range(100))
    _, psi, _ = histogram(chunked(same), chunked(same), "number")
    assert psi == 0
    _, _, apart = histogram(chunked(["a", "a"]), chunked(["b", "b"]), "text")
    assert apart == 1.0


def test_both_versions_are_asked_the_same(world: World, tmp_path: Path) -> None:
    world.repository.second_version("user_watch_stats")
    world.apply()
    found = compare(world.conn, world.database, "user_watch_stats", 1, 2, size=16)
    assert found.questions == 16
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
    report = render(found)
    assert "<svg" in report
    assert not re.search(r"https?://|src=|@import|<script", report)


def test_a_version_is_the_same_as_itself(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    found = compare(world.conn, world.database, "item_stats", 1, 1, size=50)
    [one] = found.features
    assert (one.differing, one.psi) == (0, 0)
    found = compare(world.conn, world.database, "item_stats", 1, 2, size=50)
    [one] = found.features
    # A faster decay can only lower a score.
    assert one.differing == found.questions == 48
    assert one.quantiles[-1] <= 0


def test_what_cannot_be_compared(world: World) -> None:
    with pytest.raises(SkewlessError, match="ranking_signals is a transform"):
        compare(world.conn, world.database, "ranking_signals", 1, 1)
    world.conn.execute("UPDATE watch_events SET watched_at = %s, ingested_at = %s",
                       [datetime.now(UTC) - timedelta(days=200)] * 2)  # fmt: skip
    with pytest.raises(SkewlessError, match="No entity of item_stats was active"):
        compare(world.conn, world.database, "item_stats", 1, 1)

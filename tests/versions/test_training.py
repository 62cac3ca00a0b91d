"""Training returns what was served: by the default of each label's moment, or the version named."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from feast import FeatureStore

from extensions.errors import SkewlessError
from extensions.stores.registry.version_store import Era
from extensions.stores.registry.version_timeline import multirange
from extensions.training.label_source import read_labels
from extensions.training.manifest import read_manifest
from extensions.training.training_set import take, take_again
from extensions.versions.promotion import promote, rollback
from extensions.versions.retirement import retire
from tests.versions.conftest import World, between_moves

FEATURE = "user_watch_count_7d"


def joined(store: FeatureStore, at: list[datetime], view: str = "user_watch_stats") -> list[int]:
    labels = pd.DataFrame({"user_id": [1] * len(at), "event_timestamp": at})
    rows = store.get_historical_features(entity_df=labels, features=[f"{view}:{FEATURE}"]).to_df()
    return [int(value) for value in rows[rows.columns[-1]]]


def test_each_label_gets_the_version_that_was_served_then(world: World, tmp_path: Path) -> None:
    world.repository.second_version("user_watch_stats")
    world.apply()
    served = []

    def note() -> None:
        value = world.online(f"user_watch_stats:{FEATURE}", user_id=1)[FEATURE]
        served.append((between_moves(), value))

    note()
    for _ in range(3):
        promote(world.conn, "skewless", "user_watch_stats", 2)
        note()
        rollback(world.conn, "skewless", "user_watch_stats")
        note()
    moments = [at for at, _ in served]
    values = [value for _, value in served]
    assert len(set(values)) == 2
    store = world.store()
    assert joined(store, moments) == values
    # In whatever order they come, and long before the first move.
    old = datetime.now(UTC) - timedelta(hours=3)
    assert joined(store, [*reversed(moments), old])[:-1] == values[::-1]
    assert joined(store, moments, "user_watch_stats@v2") == [values[1]] * len(moments)
    assert joined(store, moments, "user_watch_stats@v1") == [values[0]] * len(moments)

    # A training set of the past is the same after the pointer moved on.
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"user_id": 1, "event_timestamp": [at.isoformat() for at in moments]}).to_csv(
        labels, index=False
    )
    first = take(store, "home_page", read_labels(str(labels)), tmp_path / "a.parquet")
    promote(world.conn, "skewless", "user_watch_stats", 2)
    store = world.store()
    again = take_again(store, first.manifest_path, tmp_path / "b.parquet")
    assert again.manifest.sha256 == first.manifest.sha256


@pytest.mark.parametrize("user", [404])
def test_an_unknown_entity_has_the_default_of_its_era(world: World, user: int) -> None:
    world.repository.second_version("user_watch_stats")
    world.repository.edit("views.py", 'tags={"default": "0"}', 'tags={"default": "7"}')
    world.apply()
    before = datetime.now(UTC)
    time.sleep(0.02)
    promote(world.conn, "skewless", "user_watch_stats", 2)
    after = datetime.now(UTC)
    labels = pd.DataFrame({"user_id": [user] * 2, "event_timestamp": [before, after]})
    rows = (
        world.store()
        .get_historical_features(entity_df=labels, features=[f"user_watch_stats:{FEATURE}"])
        .to_df()
    )
    assert rows[FEATURE].tolist() == [0, 7]


def test_moments_are_written_as_postgresql_reads_them(world: World) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    text = multirange([Era(1, None, at), Era(1, at + timedelta(days=1), None)])
    [row] = world.conn.execute(
        "SELECT %s <@ m, %s <@ m, %s <@ m, %s <@ m FROM (SELECT %s::tstzmultirange AS m) AS x",
        [at - timedelta(microseconds=1), at, at + timedelta(days=1), at + timedelta(days=999),
         text],
    ).fetchall()  # fmt: skip
    assert row == (True, False, True, True)


def switched(world: World) -> list[datetime]:
    """Moments of v1, v2, v1 and v2 of user_watch_stats; v2 is the default in the end."""
    world.repository.second_version("user_watch_stats")
    world.apply()

    moments = [between_moves()]
    for move, version in ((promote, 2), (rollback, 1), (promote, 2)):
        move(world.conn, "skewless", "user_watch_stats", version)
        moments.append(between_moves())
    return moments


def test_the_manifest_lists_each_version_that_labels_got(world: World, tmp_path: Path) -> None:
    moments = switched(world)
    # User 404 has no row in any log. The latest label got v2.
    at = [moments[0], *moments, moments[1]]
    users = [1, 1, 1, 1, 1, 404]
    frame = pd.DataFrame({"user_id": users, "event_timestamp": [one.isoformat() for one in at]})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    labels = read_labels(str(tmp_path / "labels.csv"))
    first = take(world.store(), "home_page", labels, tmp_path / "a.parquet")
    used = [
        (one.view, one.version, one.table, one.labels, one.default_rate)
        for one in first.manifest.views
    ]
    assert used[:2] == [
        ("user_watch_stats", 1, "user_watch_stats_v1", 3, 0.0),
        ("user_watch_stats", 2, "user_watch_stats_v2", 3, 1 / 3),
    ]
    assert [one[:4] for one in used[2:]] == [
        ("user_preferences", 1, "user_preferences_v1", 6),
        ("user_habits", 1, "user_habits_v1", 6),
    ]
    rates = {column.name: column.default_rate for column in first.manifest.columns}
    assert rates[FEATURE] == 1 / 6
    assert read_manifest(first.manifest_path) == first.manifest

    # Whatever the pointer does later: the same set, of the same versions.
    rollback(world.conn, "skewless", "user_watch_stats")
    again = take_again(world.store(), first.manifest_path, tmp_path / "b.parquet")
    assert again.manifest.sha256 == first.manifest.sha256
    assert again.manifest.views == first.manifest.views

    # A label of v1's days alone: v2 is not listed, though it was the default meanwhile.
    frame[:1].to_csv(tmp_path / "one.csv", index=False)
    labels = read_labels(str(tmp_path / "one.csv"))
    alone = take(world.store(), "home_page", labels, tmp_path / "c.parquet")
    assert [(v.version, v.labels) for v in alone.manifest.views][:1] == [(1, 1)]
    assert [v.view for v in alone.manifest.views].count("user_watch_stats") == 1


def test_a_log_that_is_gone_is_said(world: World, tmp_path: Path) -> None:
    moments = switched(world)
    frame = pd.DataFrame({"user_id": 1, "event_timestamp": [one.isoformat() for one in moments]})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    labels = read_labels(str(tmp_path / "labels.csv"))
    first = take(world.store(), "home_page", labels, tmp_path / "a.parquet")
    assert not any("gone" in said for said in first.manifest.warnings)

    # Retired, its log is kept: nothing is added to it, and nothing is missing.
    retire(world.store(), world.conn, "user_watch_stats", 1, keep_log_days=1)
    kept = take_again(world.store(), first.manifest_path, tmp_path / "b.parquet")
    assert kept.manifest.sha256 == first.manifest.sha256
    assert not any("user_watch_stats v1" in said for said in kept.manifest.warnings)

    # Its day has come.
    world.conn.execute("UPDATE view_versions SET drop_log_at = now() WHERE state = 'retired'")
    retire(world.store(), world.conn, "user_watch_stats", 1)
    with pytest.raises(SkewlessError, match=r"logs are gone \(user_watch_stats v1\)"):
        take_again(world.store(), first.manifest_path, tmp_path / "c.parquet")
    without = take(world.store(), "home_page", labels, tmp_path / "d.parquet")
    assert [(v.version, v.table, v.labels) for v in without.manifest.views][:2] == [
        (1, None, 2),
        (2, "user_watch_stats_v2", 2),
    ]
    assert any(
        said == "2 of 4 labels were served user_watch_stats v1, whose log is gone: its values are "
        "null." for said in without.manifest.warnings
    )  # fmt: skip
    values = pd.read_parquet(without.path)[FEATURE]
    assert values.isna().tolist() == [True, False, True, False]
    again = take_again(world.store(), without.manifest_path, tmp_path / "e.parquet")
    assert again.manifest.views == without.manifest.views

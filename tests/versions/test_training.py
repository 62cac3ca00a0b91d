"""Training returns what was served: by the default of each label's moment, or the version named."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from feast import FeatureStore

from extensions.stores.eras import multirange
from extensions.stores.published import Era
from extensions.training.labels import read_labels
from extensions.training.training_set import take, take_again
from extensions.versions.moving import promote, rollback
from tests.versions.conftest import World

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
        time.sleep(0.02)
        value = world.online(f"user_watch_stats:{FEATURE}", user_id=1)[FEATURE]
        served.append((datetime.now(UTC), value))
        time.sleep(0.02)

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

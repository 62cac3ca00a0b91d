"""A refresh from end to end: whatever was logged reaches Redis, by whoever comes next."""

import json
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total
from typer.testing import CliRunner

from extensions import addresses
from extensions.asof.backfill import backfill
from extensions.asof.tick import tick
from extensions.cli.app import app
from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.operations import doctor
from extensions.operations.refresh import Refresher
from extensions.stores.offline.join.label_coverage import CoverageWarning


@pytest.fixture(scope="module")
def applied(prepared: None, repo_root: Path) -> None:
    """As `feast apply` does; that the command does it is tested next door."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repo_root)
        config = load_repo_config(repo_root, repo_root / "feature_store.yaml")
        apply_total(config, repo_root, skip_source_validation=False)


def served(store: FeatureStore, feature: str, user_id: int) -> object:
    row = store.get_online_features(features=[feature], entity_rows=[{"user_id": user_id}])
    return row.to_dict()[feature.partition(":")[2]][0]


def watch(conn: psycopg.Connection, name: str, user_id: int, at: datetime) -> None:
    conn.execute(
        "INSERT INTO watch_events "
        "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
        "VALUES (%s, %s, 7, %s, %s, 120000, 0.5)",
        [name, user_id, at, at],
    )


def test_what_a_backfill_logged_is_published_by_the_next_round_of_the_loop(
    store: FeatureStore, environment: dict[str, str]
) -> None:
    now = datetime.now(UTC)
    with Refresher.open(online=True) as refresher:
        habits = refresher.computations["user_habits.v1"]
        watch(refresher.conn, "quiet", 61, now - timedelta(days=3))
        backfill(refresher.conn, habits, now - timedelta(days=5), now)
        assert refresher.refresh([habits], None, due_only=True) == []
    assert served(store, "user_habits:user_avg_watch_duration_min", 61) == 2.0


def test_a_tick_that_was_not_published_is_published_by_the_next_round(
    store: FeatureStore, environment: dict[str, str]
) -> None:
    with Refresher.open(online=True) as refresher:
        counts = refresher.computations["user_watch_stats.v1"]
        watch(refresher.conn, "unpublished", 62, datetime.now(UTC) - timedelta(hours=1))
        # A process that died between the two: the tick is committed, Redis knows nothing.
        assert tick(refresher.conn, counts, full=True).rows > 0
        assert served(store, "user_watch_stats:user_watch_count_7d", 62) == 0
        refresher.refresh([counts], None, due_only=True)
    assert served(store, "user_watch_stats:user_watch_count_7d", 62) == 1


def test_a_view_whose_sql_fails_does_not_keep_the_others_from_being_refreshed(
    store: FeatureStore, environment: dict[str, str]
) -> None:
    with Refresher.open(online=False) as refresher:
        good = refresher.computations["user_habits.v1"]
        watch(refresher.conn, "anyone", 63, datetime.now(UTC) - timedelta(hours=1))
        broken = replace(
            refresher.computations["user_watch_stats.v1"],
            sql="SELECT s.user_id, s.as_of, 1 / 0 AS user_watch_count_7d FROM spine AS s",
        )
        before = datetime.now(UTC)
        with pytest.raises(SkewlessError, match=r"user_watch_stats\.v1: division by zero"):
            refresher.refresh([broken, good], None, full=True)
        row = refresher.conn.execute(
            "SELECT processed_through FROM watermarks WHERE view_name = 'user_habits'"
        ).fetchone()
        assert row is not None
        assert row[0] >= before - timedelta(seconds=5)


def test_realtime_views_are_the_streams_business_once_there_is_one(
    store: FeatureStore, environment: dict[str, str]
) -> None:
    with connect(environment[addresses.POSTGRES_VARIABLE], autocommit=True) as conn:
        conn.execute("INSERT INTO stream_offsets VALUES ('group', 'topic', 0, 0)")
    try:
        with Refresher.open(online=False) as refresher:
            names = {c.view for c in refresher.choose(None)}
            assert "user_habits" in names
            assert "user_watch_stats" not in names
            assert [c.view for c in refresher.choose("user_watch_stats")] == ["user_watch_stats"]
            everything = {c.view for c in refresher.choose(None, everything=True)}
            assert "user_watch_stats" in everything
    finally:
        with connect(environment[addresses.POSTGRES_VARIABLE], autocommit=True) as conn:
            conn.execute("DELETE FROM stream_offsets")


def test_what_a_backfill_logs_behind_the_published_watermark_is_published(
    store: FeatureStore, environment: dict[str, str]
) -> None:
    with Refresher.open(online=True) as refresher:
        progress = refresher.computations["user_item_progress.v1"]
        refresher.refresh([progress], None)
        now = datetime.now(UTC)
        watch(refresher.conn, "of long ago", 64, now - timedelta(days=80))
        backfill(refresher.conn, progress, now - timedelta(days=90), now - timedelta(days=70))
        refresher.refresh([progress], None, due_only=True)
        row = store.get_online_features(
            features=["user_item_progress:user_item_watch_progress"],
            entity_rows=[{"user_id": 64, "item_id": 7}],
        )
        assert row.to_dict()["user_item_watch_progress"] == [0.5]
        assert refresher.conn.execute("SELECT count(*) FROM unpublished_rows").fetchone() == (0,)


def test_labels_that_no_log_covers_are_warned_of(
    store: FeatureStore, environment: dict[str, str]
) -> None:
    now = datetime.now(UTC)
    with Refresher.open(online=False) as refresher:
        counts = refresher.computations["user_watch_stats.v1"]
        watch(refresher.conn, "before the gap", 65, now - timedelta(days=100))
        refresher.conn.execute("DELETE FROM watermarks WHERE view_name = 'user_watch_stats'")
        refresher.conn.execute("DELETE FROM backfills WHERE view_name = 'user_watch_stats'")
        start, end = now - timedelta(days=110), now - timedelta(days=95)
        backfill(refresher.conn, counts, start, end)
        refresher.refresh([counts], None)
    labels = pd.DataFrame(
        {
            "user_id": [65, 65, 65, 65],
            "event_timestamp": [
                now - timedelta(days=99),
                now - timedelta(days=50),
                now - timedelta(days=200),
                datetime.now(UTC),
            ],
        }
    )
    feature = "user_watch_stats:user_watch_count_7d"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CoverageWarning)
        frame = store.get_historical_features(entity_df=labels, features=[feature]).to_df()
    said = [str(one.message) for one in caught if one.category is CoverageWarning]
    assert len(said) == 2
    assert said[0].startswith("1 of 4 labels lie where the log of user_watch_stats has a gap")
    zulu = end.isoformat().replace("+00:00", "Z")
    assert f"--from {zulu}" in said[0]
    assert said[1].startswith("1 of 4 labels are older than the log of user_watch_stats")
    # Behind the gap the value is true again: the first tick found who had left the window.
    assert frame["user_watch_count_7d"].tolist()[::3] == [1, 0]


@pytest.mark.usefixtures("store")
def test_commands_name_who_is_refused(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refresh, status and doctor: how many, one of them, why, and what to do."""
    monkeypatch.setenv(addresses.KAFKA_VARIABLE, "127.0.0.1:1")
    with connect(environment[addresses.POSTGRES_VARIABLE], autocommit=True) as conn:
        watch(conn, "any", 64, datetime.now(UTC) - timedelta(hours=1))
        conn.execute(
            "INSERT INTO refused_entities (view_name, version, digest, entity, why, as_of) VALUES "
            "('user_habits', 1, 'a', '{64}', 'integer out of range (22003)', now()), "
            "('user_habits', 1, 'b', '{65}', 'division by zero (22012)', now()), "
            "('item_stats', 1, 'c', '{66}', 'division by zero (22012)', now())"
        )
        conn.execute("INSERT INTO stream_offsets VALUES ('group', 'topic', 0, 0)")
        conn.execute("UPDATE refused_entities SET refused_at = now() + interval '1 day'")
    try:
        done = CliRunner().invoke(app, ["refresh", "--view", "user_habits", "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        assert json.loads(done.stdout)[0]["refused"] == 2
        said = " ".join(done.stderr.split())
        assert "user_habits v1 goes on without 2 entities, such as 6" in said
        assert "tried again every minute" in said
        assert "item_stats" not in said
        [shown] = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
        assert [(one["view"], one["refused"]) for one in shown["refused"]] == [
            ("item_stats", 1), ("user_habits", 2),
        ]  # fmt: skip
        text = CliRunner().invoke(app, ["status"]).stdout
        assert "Refused entities" in text
        assert "division by zero" in text
        assert "tried again every minute" in " ".join(text.split())
        found = {one.what: one for one in doctor.examine(0)}
        assert not found["refused entities of user_habits.v1"].ok
    finally:
        with connect(environment[addresses.POSTGRES_VARIABLE], autocommit=True) as conn:
            conn.execute("TRUNCATE stream_offsets, refused_entities")

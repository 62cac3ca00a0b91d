"""The comparison turns red on every way in which history, log and Redis have come apart."""

from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest

from extensions.asof.backfill import backfill
from extensions.consistency import consistency_report
from extensions.stores import log_publishing
from extensions.stores.values import future_rows
from tests.consistency.conftest import World

DAY = timedelta(days=1)


def test_a_healthy_store_has_no_finding(world: World) -> None:
    found = world.compare()
    assert not any(one.counts for one in found.values()), found
    assert len(found) == len(world.computations)
    assert all(one.entities >= 20 for one in found.values())
    assert not any(one.blind for one in found.values())


def insert(conn: psycopg.Connection, name: str, user: int, at: datetime, *, item: int = 1) -> None:
    """An event that claims to have arrived when it happened, past every note."""
    with conn.transaction():
        conn.execute("SET LOCAL skewless.noted = 'on'")
        conn.execute(
            "INSERT INTO watch_events "
            "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
            "VALUES (%s, %s, %s, %s, %s, 60000, 0.5)",
            [name, user, item, at, at],
        )


def differences(world: World, name: str) -> dict[tuple[object, ...], str]:
    """Cause by entity of one view version."""
    return {tuple(one.keys.values()): one.cause for one in world.compare()[name].worst}


def test_history_that_nobody_computed(world: World) -> None:
    now = datetime.now(UTC)
    insert(world.conn, "of a new user", 900, now - DAY)
    insert(world.conn, "of a known user", 1, now - DAY)
    found = differences(world, "user_watch_stats.v1")
    assert found[(900,)] == consistency_report.NOT_COMPUTED
    assert found[(1,)] == consistency_report.CLAIMED_ARRIVAL
    world.refresh(full=True)
    assert world.causes() == {}


def test_rows_that_are_missing_from_the_log(world: World) -> None:
    world.conn.execute("DELETE FROM user_habits_v1 WHERE user_id = 3")
    found = differences(world, "user_habits.v1")
    assert found[(3,)] in (consistency_report.NOT_COMPUTED, consistency_report.ONLINE_AHEAD)
    assert "user_habits.v1" in world.causes()


def test_a_value_whose_events_have_left_the_window(world: World) -> None:
    now = datetime.now(UTC)
    insert(world.conn, "old", 901, now - 8 * DAY)
    world.conn.execute(
        "INSERT INTO user_watch_stats_v1 "
        "(user_id, event_timestamp, created_timestamp, user_watch_count_7d) "
        "VALUES (901, %s, %s, 1)",
        [now - 7.5 * DAY, now - 7.5 * DAY],
    )
    assert differences(world, "user_watch_stats.v1")[(901,)] == consistency_report.LEFT_WINDOW


def test_a_gap_behind_a_backfill(world: World) -> None:
    now = datetime.now(UTC)
    counts = world.computations["user_watch_stats.v1"]
    insert(world.conn, "long ago", 902, now - 100 * DAY)
    for table in ("user_watch_stats_v1", "watermarks", "backfills"):
        world.conn.execute(f"TRUNCATE {table}")  # type: ignore[arg-type]
    backfill(world.conn, counts, now - 120 * DAY, now - 95 * DAY)
    world.refresh()
    found = world.compare()["user_watch_stats.v1"]
    assert found.counts.get(consistency_report.LOG_GAP, 0) > 0
    [told, *_] = [one for one in found.worst if one.cause == consistency_report.LOG_GAP]
    assert "no backfill and no live value covers labels of" in told.sentence()


def test_what_a_backfill_logged_and_nobody_published(world: World) -> None:
    now = datetime.now(UTC)
    progress = world.computations["user_item_progress.v1"]
    insert(world.conn, "of long ago", 903, now - 80 * DAY)
    backfill(world.conn, progress, now - 90 * DAY, now - 70 * DAY)
    world.conn.execute("TRUNCATE unpublished_rows")
    assert differences(world, "user_item_progress.v1")[(903, 1)] == consistency_report.NOT_PUBLISHED


def test_a_row_of_the_future_in_the_log(world: World) -> None:
    world.conn.execute(
        "INSERT INTO user_habits_v1 (user_id, event_timestamp, created_timestamp, "
        "user_avg_watch_duration_min, user_preferred_hour) VALUES (4, '2100-01-01', now(), 1, 1)"
    )
    found = world.compare()["user_habits.v1"]
    assert found.counts[consistency_report.FUTURE_ROW] == 1
    assert "the log holds a row of 2100-01-01" in found.worst[0].sentence()
    assert found.worst[0].keys == {"user_id": 4}


def test_a_row_of_the_future_in_redis(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(future_rows, "latest_time", lambda _: datetime.max.replace(tzinfo=UTC))
    habits = world.computations["user_habits.v1"]
    row = pa.table(
        {
            "user_id": pa.array([5]),
            "event_timestamp": pa.array([datetime(2100, 1, 1, tzinfo=UTC)]),
            "created_timestamp": pa.array([datetime.now(UTC)]),
            "user_avg_watch_duration_min": pa.array([1.0], pa.float32()),
            "user_preferred_hour": pa.array([1]),
        }
    )
    online = log_publishing.online_store(world.store)
    online.write_arrow(world.store.config, log_publishing.registered(world.store, habits), row)
    found = world.compare()["user_habits.v1"]
    assert found.counts == {consistency_report.FUTURE_ROW: 1}
    assert "Redis holds a row of 2100-01-01" in found.worst[0].sentence()


def test_redis_that_lost_rows_or_was_restored_from_an_older_copy(world: World) -> None:
    kept = {key: world.redis.dump(key) for key in world.redis.keys("*user_id*")}
    with world.conn.transaction():
        world.conn.execute(
            "INSERT INTO watch_events "
            "(event_id, user_id, item_id, watched_at, duration_ms, progress) "
            "SELECT 'more' || u, u, 1, now() - interval '1 hour', 60000, 0.25 "
            "FROM generate_series(1, 10) AS u"
        )
    world.refresh()
    assert world.causes() == {}
    for key, value in kept.items():
        world.redis.restore(key, 0, value, replace=True)
    causes = world.causes()
    assert causes["user_watch_stats.v1"] == {consistency_report.ONLINE_BEHIND}
    assert causes["user_item_progress.v1"] == {consistency_report.ONLINE_BEHIND}
    world.redis.delete(*kept)
    assert world.causes()["user_habits.v1"] == {consistency_report.ONLINE_BEHIND}


def test_postgres_that_was_restored_from_an_earlier_dump(world: World) -> None:
    before = world.conn.execute("SELECT clock_timestamp()").fetchone()
    assert before is not None
    world.conn.execute("CREATE TABLE kept_marks AS SELECT * FROM watermarks")
    world.conn.execute(
        "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, duration_ms, progress) "
        "SELECT 'lost' || u, u, 1, now() - interval '1 hour', 60000, 0.25 "
        "FROM generate_series(1, 10) AS u"
    )
    world.refresh()
    # All that the database has learnt since is gone from it, and online still.
    with world.conn.transaction():
        world.conn.execute("SET LOCAL skewless.noted = 'on'")
        world.conn.execute("DELETE FROM watch_events WHERE event_id LIKE 'lost%'")
        for computation in world.computations.values():
            world.conn.execute(
                f"DELETE FROM {computation.log_table} WHERE created_timestamp > %s",  # type: ignore[arg-type]
                before,
            )
        world.conn.execute("DELETE FROM watermarks")
        world.conn.execute("INSERT INTO watermarks SELECT * FROM kept_marks")
    causes = world.causes()
    assert causes["user_watch_stats.v1"] == {consistency_report.ONLINE_AHEAD}
    assert causes["user_item_progress.v1"] == {consistency_report.ONLINE_AHEAD}


def test_a_log_that_is_behind_by_more_than_its_budget(world: World) -> None:
    world.conn.execute(
        "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, ingested_at, "
        "duration_ms, progress) SELECT 'x' || u, u, 1, now() - interval '1 hour', "
        "now() - interval '1 hour', 60000, 0.25 FROM generate_series(1, 3) AS u"
    )
    hours = timedelta(hours=2)
    world.conn.execute(
        "UPDATE watermarks SET processed_through = processed_through - %s, "
        "live_from = live_from - %s, published_through = published_through - %s",
        [hours, hours, hours],
    )
    world.conn.execute("DELETE FROM user_watch_stats_v1 WHERE NOT skewless_backfilled")
    found = world.compare()["user_watch_stats.v1"]
    assert found.counts.get(consistency_report.OVERDUE, 0) > 0


def test_redis_away_is_said_and_is_not_all_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.store.config.online_store, "connection_string", "127.0.0.1:1,db=0")
    world.store._provider = None
    found = world.compare()
    assert all(one.blind for one in found.values())
    for one in found.values():
        assert "Redis" in " ".join(one.left_out), one.left_out

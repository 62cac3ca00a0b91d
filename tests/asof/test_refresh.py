"""Ticks and backfills as an operator runs them: repeated, interrupted, two at once, too early."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from extensions.addresses import POSTGRES_VARIABLE
from extensions.asof import Computation, Freshness
from extensions.asof.backfill import backfill
from extensions.asof.safe_time import settled_now
from extensions.asof.tick import tick
from extensions.asof.tick_schedule import due_tick, last_tick
from extensions.asof.watermarks import alone_on, read_watermark
from extensions.database import connect
from extensions.database.event_ingest import take_ingest_lock
from extensions.errors import SkewlessError
from extensions.operations import refresh as refresh_module
from extensions.operations.refresh import Refresher
from tests.asof.loading import watch

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def logged(conn: psycopg.Connection) -> list[tuple[int, int]]:
    return conn.execute(
        "SELECT user_id, user_watch_count_7d FROM user_watch_stats_v1 "
        "ORDER BY event_timestamp, user_id"
    ).fetchall()


def test_a_tick_computes_only_whom_something_entered_or_left(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    watch(conn, "leaves soon", 1, now - 7 * DAY + 30 * timedelta(minutes=1))
    watch(conn, "stays", 2, now - DAY)
    watch(conn, "enters", 3, now - 10 * timedelta(minutes=1))
    # As if they had been stored when they say that they arrived.
    conn.execute("TRUNCATE history_changes")
    first = tick(conn, counts, now - HOUR)
    assert (first.rows, first.since) == (2, None)
    second = tick(conn, counts, now)
    assert second.since == now - HOUR
    # User 1 fell to zero because time passed, user 3 rose; user 2 was not computed again.
    assert logged(conn) == [(1, 1), (2, 1), (3, 1)]
    third = tick(conn, counts, settled_now(conn))
    assert third.rows == 0


def test_a_user_whose_events_all_left_falls_to_zero(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    watch(conn, "a", 1, now - 7 * DAY - timedelta(minutes=1))
    tick(conn, counts, now - HOUR)
    tick(conn, counts, now)
    assert logged(conn) == [(1, 1), (1, 0)]


def test_the_same_moment_twice_changes_nothing(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    watch(conn, "a", 1, now - HOUR)
    assert tick(conn, counts, now).rows == 1
    assert tick(conn, counts, now).rows == 0
    assert tick(conn, counts, now - HOUR).rows == 0
    assert logged(conn) == [(1, 1)]


def test_a_full_tick_sees_history_that_was_imported_behind_the_watermark(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    tick(conn, counts, now - HOUR)
    watch(conn, "imported", 1, now - DAY)
    assert tick(conn, counts, now - timedelta(minutes=1)).rows == 0
    assert tick(conn, counts, now, full=True).rows == 1


def test_a_moment_that_events_may_still_precede_is_refused(
    conn: psycopg.Connection, counts: Computation
) -> None:
    with pytest.raises(SkewlessError, match="events may still arrive"):
        tick(conn, counts, datetime.now(UTC) + HOUR)
    assert read_watermark(conn, counts) is None


def test_an_open_ingest_transaction_holds_the_settled_moment_back(
    conn: psycopg.Connection, fresh_database: str, counts: Computation
) -> None:
    with connect(fresh_database) as ingest:
        began = conn.execute("SELECT clock_timestamp()").fetchone()
        assert began is not None
        take_ingest_lock(ingest, "watch_events")
        ingest.execute(
            "INSERT INTO watch_events "
            "(event_id, user_id, item_id, watched_at, duration_ms, progress) "
            "VALUES ('open', 1, 1, now() - interval '1 hour', 60000, 0.5)"
        )
        stamped = ingest.execute("SELECT ingested_at FROM watch_events").fetchone()
        assert stamped is not None
        held = settled_now(conn)
        assert held < stamped[0]
        with pytest.raises(SkewlessError, match="events may still arrive"):
            tick(conn, counts, stamped[0])
        before = tick(conn, counts)
        assert before.rows == 0
        ingest.commit()
    after = tick(conn, counts)
    assert after.at > stamped[0]
    assert logged(conn) == [(1, 1)]


def test_two_at_once_on_one_view_cannot_be(
    conn: psycopg.Connection,
    fresh_database: str,
    computations: dict[str, Computation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("extensions.asof.tick.PATIENCE_SECONDS", 0.2)
    counts, habits = computations["user_watch_stats.v1"], computations["user_habits.v1"]
    with connect(fresh_database, autocommit=True) as other, alone_on(other, counts):
        with pytest.raises(SkewlessError, match=r"refresh or backfill of user_watch_stats\.v1"):
            tick(conn, counts)
        tick(conn, habits)
    tick(conn, counts)


def test_a_computation_that_drops_a_row_leaves_nothing_behind(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    watch(conn, "a", 1, now - HOUR)
    watch(conn, "b", 2, now - HOUR)
    broken = replace(counts, sql=counts.sql + "\nWHERE s.user_id <> 2")
    with pytest.raises(SkewlessError, match="returned 1 rows for 2 questions"):
        tick(conn, broken, now)
    assert logged(conn) == []
    assert read_watermark(conn, counts) is None


def test_an_interrupted_backfill_goes_on_after_its_last_whole_day(
    conn: psycopg.Connection, counts: Computation, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    start = now - 5 * DAY
    for day in range(5):
        watch(conn, f"d{day}", 1, start + day * DAY + HOUR)

    class StoppedError(Exception):
        pass

    def stop_on_the_third(done: int, total: int) -> None:
        assert total == 5
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        backfill(conn, counts, start, now, progress=stop_on_the_third)
    assert logged(conn) == [(1, 1), (1, 2), (1, 3)]
    assert read_watermark(conn, counts) is None
    resumed = backfill(conn, counts, start, now)
    assert resumed.resumed_from == start + 3 * DAY
    assert resumed.rows == 2
    assert backfill(conn, counts, start, now).rows == 0
    assert [count for _, count in logged(conn)] == [1, 2, 3, 4, 5]
    # What the next tick must look at begins where the backfill ended.
    mark = read_watermark(conn, counts)
    assert mark is not None
    assert mark.processed_through == now


def test_backfills_of_the_past_join_up_and_leave_the_view_unborn(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    for day in range(4):
        watch(conn, f"d{day}", 1, now - day * DAY - HOUR)
    # Two changes, of the days 4 to 2 ago.
    assert backfill(conn, counts, now - 4 * DAY, now - 2 * DAY).rows == 2
    mark = read_watermark(conn, counts)
    assert mark is not None
    assert mark.live_from is None
    # The next range is not mistaken for live values: its state at the start is there already,
    # at another moment, and is logged at this one too.
    assert backfill(conn, counts, now - 2 * DAY, now - timedelta(minutes=1)).rows == 3
    done = tick(conn, counts, now)
    assert (done.since, done.rows) == (now - timedelta(minutes=1), 0)
    mark = read_watermark(conn, counts)
    assert mark is not None
    assert mark.live_from == now


def test_a_backfill_replaces_what_one_wrote_before_an_import(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    watch(conn, "a", 1, now - 2 * DAY)
    backfill(conn, counts, now - 3 * DAY, now)
    watch(conn, "imported later", 1, now - 2 * DAY - HOUR)
    assert backfill(conn, counts, now - 3 * DAY, now).rows == 2
    assert logged(conn) == [(1, 1), (1, 2)]
    assert backfill(conn, counts, now - 3 * DAY, now).rows == 0
    assert backfill(conn, counts, now - 3 * DAY, now, again=True).rows == 2
    assert logged(conn) == [(1, 1), (1, 2)]


def test_a_backfill_never_overlays_what_was_live(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    watch(conn, "a", 1, now - 3 * HOUR)
    watch(conn, "b", 1, now - 30 * timedelta(minutes=1))
    live = now - HOUR
    tick(conn, counts, live)
    # An event becomes known to have happened before the store went live, and one after it.
    done = backfill(conn, counts, now - DAY, now)
    assert done.end == live
    rows = conn.execute(
        "SELECT event_timestamp, event_timestamp = created_timestamp FROM user_watch_stats_v1 "
        "ORDER BY event_timestamp"
    ).fetchall()
    assert rows == [(now - 3 * HOUR, True), (live, False)]


@pytest.mark.parametrize("name", ["user_habits.v1", "item_stats.v1"])
def test_due_ticks_lie_on_whole_periods(
    conn: psycopg.Connection, computations: dict[str, Computation], name: str
) -> None:
    computation = computations[name]
    period = computation.freshness.period
    assert period is not None
    settled = settled_now(conn)
    due = due_tick(conn, computation, settled)
    assert due is not None
    assert due == last_tick(computation, settled)
    assert due <= settled < due + period
    assert (due - datetime(1970, 1, 1, tzinfo=UTC)) % period == timedelta(0)
    tick(conn, computation, due)
    assert due_tick(conn, computation, settled) is None
    assert due_tick(conn, computation, settled + period) == due + period


def test_a_backfill_to_the_middle_of_an_hour_leaves_the_rest_to_the_next_tick(
    conn: psycopg.Connection, computations: dict[str, Computation]
) -> None:
    popularity = computations["item_stats.v1"]
    now = datetime.now(UTC)
    middle = now.replace(minute=0, second=0, microsecond=0) - HOUR + 30 * timedelta(minutes=1)
    watch(conn, "a", 1, middle - timedelta(minutes=10))
    backfill(conn, popularity, middle - DAY, middle)
    mark = read_watermark(conn, popularity)
    assert mark is not None
    assert mark.processed_through == middle - 30 * timedelta(minutes=1)
    assert tick(conn, popularity, now).rows == 1


def test_a_backfill_behind_a_first_tick_off_the_hour_leaves_no_gap(
    conn: psycopg.Connection, counts: Computation
) -> None:
    """Whose events left between the last whole hour and the first tick is not active in it."""
    hourly = replace(counts, freshness=Freshness.HOURLY)
    now = settled_now(conn).replace(minute=0, second=0, microsecond=0) - HOUR
    first = now + timedelta(minutes=40)
    watch(conn, "left at ten past", 1, now - 7 * DAY + timedelta(minutes=10))
    watch(conn, "stays", 2, now - DAY)
    conn.execute("TRUNCATE history_changes")
    assert tick(conn, hourly, first).rows == 1
    backfill(conn, hourly, now - 8 * DAY, first)
    tick(conn, hourly, settled_now(conn))
    newest = conn.execute(
        "SELECT DISTINCT ON (user_id) user_id, user_watch_count_7d, event_timestamp "
        "FROM user_watch_stats_v1 ORDER BY user_id, event_timestamp DESC"
    ).fetchall()
    assert newest == [(1, 0, first), (2, 1, first)]


def test_a_due_round_keeps_the_partitions_of_every_log(
    conn: psycopg.Connection,
    fresh_database: str,
    computations: dict[str, Computation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(POSTGRES_VARIABLE, fresh_database)
    rolled: list[str] = []
    monkeypatch.setattr(refresh_module, "roll", lambda _, table: rolled.append(table))
    monkeypatch.setattr(refresh_module, "_kept", -1e9)
    refresher = Refresher(conn, computations, None)
    for _ in range(2):  # the second round is within ten minutes
        refresher.refresh([], None, due_only=True)
    assert sorted(rolled) == sorted(each.log_table for each in computations.values())

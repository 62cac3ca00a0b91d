"""What a log covers: gaps behind backfills, what `--again` may delete, who a full tick asks."""

from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest

from extensions.asof import Computation
from extensions.asof.backfill import backfill
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.history_changes import follow_sources
from extensions.asof.log_coverage import Coverage, Span, coverage, gap_behind, gap_sentence
from extensions.asof.tick import tick
from extensions.asof.unpublished_ranges import unpublished
from extensions.database.identifier_limits import BACKFILLED
from tests.asof.loading import watch

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def latest(conn: psycopg.Connection, user_id: int) -> int | None:
    row = conn.execute(
        "SELECT user_watch_count_7d FROM user_watch_stats_v1 WHERE user_id = %s "
        "ORDER BY event_timestamp DESC, created_timestamp DESC LIMIT 1",
        [user_id],
    ).fetchone()
    return row[0] if row else None


def test_spans_that_touch_are_one_and_what_lies_between_others_is_a_gap() -> None:
    spans = [
        Span(NOON + 3 * DAY, NOON + 4 * DAY),
        Span(NOON, NOON + DAY),
        Span(NOON + DAY / 2, NOON + 2 * DAY),
        Span(NOON + 4 * DAY + HOUR, NOON + 5 * DAY),
    ]
    known = Coverage.of(spans, slack=HOUR)
    assert known.spans == (Span(NOON, NOON + 2 * DAY), Span(NOON + 3 * DAY, NOON + 5 * DAY))
    assert known.gaps == (Span(NOON + 2 * DAY, NOON + 3 * DAY),)
    moments = pa.chunked_array(
        [[NOON - HOUR, NOON, NOON + 2 * DAY, NOON + 2 * DAY + HOUR, NOON + 3 * DAY, None]],
        pa.timestamp("us", "UTC"),
    )
    assert known.before(moments).to_pylist() == [True, False, False, False, False, False]
    assert known.in_gap(moments).to_pylist() == [False, False, False, True, False, False]


def test_a_full_refresh_after_a_backfill_corrects_who_is_not_active_any_more(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    watch(conn, "long ago", 1, now - 100 * DAY)
    backfill(conn, counts, now - 120 * DAY, now - 95 * DAY)
    assert latest(conn, 1) == 1
    tick(conn, counts, full=True)
    assert latest(conn, 1) == 0


def test_the_gap_between_a_backfill_and_the_first_tick_is_known(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    watch(conn, "long ago", 1, now - 100 * DAY)
    begin, end = now - 120 * DAY, now - 95 * DAY
    backfill(conn, counts, begin, end)
    [open_end] = [gap_behind(conn, counts)]
    assert open_end is not None
    assert open_end.start == end
    live = tick(conn, counts).at
    assert coverage(conn, counts).gaps == (Span(end, live),)
    assert gap_behind(conn, counts) == Span(end, live)
    backfill(conn, counts, end, now)
    assert coverage(conn, counts).gaps == ()
    assert gap_behind(conn, counts) is None


def test_again_deletes_what_backfills_wrote_and_nothing_that_was_pushed(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    at = now - 3 * DAY
    watch(conn, "a", 1, at)
    backfill(conn, counts, now - 5 * DAY, now)
    pushed = at + HOUR
    conn.execute(
        "INSERT INTO user_watch_stats_v1 "
        "(user_id, event_timestamp, created_timestamp, user_watch_count_7d) VALUES (1, %s, %s, 99)",
        [pushed, pushed],
    )
    watch(conn, "found later", 1, at - HOUR)
    backfill(conn, counts, now - 5 * DAY, now, again=True)
    rows = conn.execute(
        "SELECT event_timestamp, user_watch_count_7d FROM user_watch_stats_v1 "
        "ORDER BY event_timestamp"
    ).fetchall()
    assert rows == [(at - HOUR, 1), (at, 2), (pushed, 99)]


def test_a_log_that_was_made_before_backfilled_rows_were_marked_gets_the_marks(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    watch(conn, "a", 1, now - 3 * DAY)
    backfill(conn, counts, now - 5 * DAY, now - DAY)
    tick(conn, counts)
    conn.execute(f"ALTER TABLE user_watch_stats_v1 DROP COLUMN {BACKFILLED}")
    assert ensure_log_tables(conn, [counts]) == []
    marks = conn.execute(
        f"SELECT {BACKFILLED} FROM user_watch_stats_v1 ORDER BY event_timestamp"
    ).fetchall()
    # The tick's own row is none: it was created after its time.
    assert marks == [(True,), (False,)]
    backfill(conn, counts, now - 5 * DAY, now - DAY, again=True)
    assert conn.execute("SELECT count(*) FROM user_watch_stats_v1").fetchone() == (2,)


def test_a_backfill_notes_what_is_not_online(conn: psycopg.Connection, counts: Computation) -> None:
    now = datetime.now(UTC)
    watch(conn, "a", 1, now - 3 * DAY)
    backfill(conn, counts, now - 5 * DAY, now - DAY)
    [noted] = unpublished(conn, counts)
    assert noted.start <= now - 3 * DAY <= noted.end


def watch_long_ago(conn: psycopg.Connection, counts: Computation, name: str, at: datetime) -> None:
    """An event that claims to have arrived as it happened, as an import stores it."""
    follow_sources(conn, [counts])
    watch(conn, name, 1, at)


def test_history_that_changed_after_a_backfill_makes_it_stale(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    begin, end = now - 20 * DAY, now - 2 * DAY
    watch_long_ago(conn, counts, "a", now - 15 * DAY)
    backfill(conn, counts, begin, end)
    assert coverage(conn, counts).gaps == ()
    watch_long_ago(conn, counts, "imported", now - 10 * DAY)
    known = coverage(conn, counts)
    [gap] = known.gaps
    # A claim is rounded down to its day.
    assert now - 11 * DAY < gap.start <= now - 10 * DAY
    assert gap.end == end
    assert known.is_stale(gap)
    labels = pa.chunked_array([[now - 12 * DAY, now - 9 * DAY, end]], pa.timestamp("us", "UTC"))
    assert known.in_gap(labels).to_pylist() == [False, True, True]
    said = gap_sentence("user_watch_stats", 2, 3, known)
    assert "history changed after user_watch_stats was backfilled" in said
    # The plain command replaces what is stale, and nothing else; then it is done.
    redone = backfill(conn, counts, begin, end)
    assert redone.resumed_from == gap.start
    assert logged(conn) == [(now - 15 * DAY, 1), (now - 10 * DAY, 2), (now - 8 * DAY, 1),
                            (now - 3 * DAY, 0)]  # fmt: skip
    assert coverage(conn, counts).gaps == ()
    assert backfill(conn, counts, begin, end).rows == 0


def test_an_update_of_history_makes_all_of_a_backfill_stale(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    begin, end = now - 20 * DAY, now - 2 * DAY
    watch_long_ago(conn, counts, "a", now - 15 * DAY)
    watch(conn, "b", 1, now - 14 * DAY)
    backfill(conn, counts, begin, end)
    conn.execute("DELETE FROM watch_events WHERE event_id = 'a'")
    assert [gap.end for gap in coverage(conn, counts).gaps] == [end]
    backfill(conn, counts, begin, end)
    assert logged(conn) == [(now - 14 * DAY, 1), (now - 7 * DAY, 0)]
    assert coverage(conn, counts).gaps == ()


@pytest.mark.parametrize("again", [False, True])
def test_a_replacement_that_was_interrupted_goes_on_replacing(
    conn: psycopg.Connection, counts: Computation, *, again: bool
) -> None:
    now = datetime.now(UTC)
    begin, end = now - 20 * DAY, now - 2 * DAY
    watch_long_ago(conn, counts, "a", now - 15 * DAY)
    backfill(conn, counts, begin, end)
    watch_long_ago(conn, counts, "imported", now - 14 * DAY)

    def interrupt(done: int, total: int) -> None:
        if done > total - 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backfill(conn, counts, begin, end, again=again, progress=interrupt)
    [gap] = coverage(conn, counts).gaps
    assert gap.end == end
    assert gap.start > now - 14 * DAY
    backfill(conn, counts, begin, end)
    assert logged(conn) == [(now - 15 * DAY, 1), (now - 14 * DAY, 2), (now - 8 * DAY, 1),
                            (now - 7 * DAY, 0)]  # fmt: skip
    assert coverage(conn, counts).gaps == ()


def logged(conn: psycopg.Connection) -> list[tuple[datetime, int]]:
    return conn.execute(
        "SELECT event_timestamp, user_watch_count_7d FROM user_watch_stats_v1 "
        "WHERE user_id = 1 ORDER BY event_timestamp"
    ).fetchall()

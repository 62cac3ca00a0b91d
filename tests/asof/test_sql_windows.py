"""A view may have several windows: its value changes wherever a row leaves one of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from extensions.asof import Computation, Spine, compute
from extensions.asof.backfill import backfill
from extensions.asof.sql_windows import window_ends, window_problems
from extensions.asof.tick import tick
from extensions.database import connect_arrow
from tests.asof.loading import watch

SECOND = timedelta(seconds=1)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
TWO = """
SELECT s.user_id, s.as_of, w.n AS user_watch_count_7d
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT 1000 * count(*) FILTER (WHERE {window}) + count(*) AS n
    FROM watch_events AS e
    WHERE
        e.user_id = s.user_id
        AND e.watched_at > s.as_of - interval '168 hours'
        AND e.watched_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS w
"""
# The ways in which people write that a row is not older than an hour.
WRITTEN = {
    "open": "e.watched_at > s.as_of - interval '1 hour'",
    "closed": "e.watched_at >= s.as_of - interval '60 minutes'",
    "between": "e.watched_at BETWEEN s.as_of - '1 hour'::interval AND s.as_of",
    "an age": "s.as_of - e.watched_at < interval '01:00:00'",
    "from the row": "e.watched_at + interval '3600' second >= s.as_of",
    "a product": "e.watched_at > s.as_of - 60 * interval '1 minute'",
    "a cast": "e.watched_at > s.as_of - CAST('1 hour' AS interval)",
}


def two_windows(counts: Computation, window: str) -> Computation:
    return replace(counts, sql=TWO.format(window=window))


def logged(conn: psycopg.Connection, user: int, at: datetime) -> int | None:
    """The value that a label of that moment gets."""
    row = conn.execute(
        "SELECT user_watch_count_7d FROM user_watch_stats_v1 WHERE user_id = %s "
        "AND event_timestamp <= %s ORDER BY event_timestamp DESC, created_timestamp DESC LIMIT 1",
        [user, at],
    ).fetchone()
    return row[0] if row else 0


def recomputed(
    url: str, computation: Computation, asked: list[tuple[int, datetime]]
) -> dict[tuple[int, datetime], int]:
    with connect_arrow(url) as arrow:
        table = compute(arrow, computation, Spine.of(asked, computation))
    rows = table.to_pylist()
    return {(row["user_id"], row["as_of"]): row["user_watch_count_7d"] for row in rows}


@pytest.mark.parametrize("written", WRITTEN)
def test_a_backfill_has_a_row_where_one_leaves_the_shorter_window(
    conn: psycopg.Connection, fresh_database: str, counts: Computation, written: str
) -> None:
    computation = two_windows(counts, WRITTEN[written])
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for number, ago in enumerate([26 * HOUR, 25 * HOUR + MINUTE, 3 * HOUR]):
        watch(conn, f"of {ago}", 1 + number % 2, now - ago)
    backfill(conn, computation, now - 2 * DAY, now)
    edges = [now - 26 * HOUR + off for off in (HOUR - SECOND, HOUR, HOUR + SECOND)]
    moments = [*edges, *(now - n * 10 * MINUTE - SECOND for n in range(200))]
    true = recomputed(
        fresh_database, computation, [(user, at) for at in moments for user in (1, 2)]
    )
    assert {value > 1000 for value in true.values()} == {False, True}
    assert {asked: logged(conn, *asked) for asked in true} == true


@pytest.mark.parametrize("written", WRITTEN)
def test_a_tick_computes_whom_a_row_left_the_shorter_window_of(
    conn: psycopg.Connection, counts: Computation, written: str
) -> None:
    computation = two_windows(counts, WRITTEN[written])
    now = datetime.now(UTC).replace(microsecond=0)
    watch(conn, "a", 1, now - 90 * MINUTE)
    watch(conn, "b", 2, now - 3 * DAY)
    conn.execute("TRUNCATE history_changes")
    # As of the very moment at which the row is an hour old: some ways count it then, some do not.
    tick(conn, computation, now - 30 * MINUTE)
    tick(conn, computation, now - MINUTE)
    assert (logged(conn, 1, now), logged(conn, 2, now)) == (1, 1)
    rows = conn.execute("SELECT count(*) FROM user_watch_stats_v1 WHERE user_id = 2").fetchone()
    assert rows == (1,)


def test_windows_are_those_of_the_text_and_the_horizon(counts: Computation) -> None:
    assert counts.windows == (7 * DAY,)
    two = two_windows(counts, WRITTEN["open"])
    assert two.windows == replace(two, horizon=None).windows == (HOUR, 7 * DAY)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("e.at > s.as_of - interval '1 week 2 days 03:04:05.5'",
         {timedelta(days=9, hours=3, minutes=4, seconds=5.5)}),
        ("e.at > as_of - INTERVAL '90' DAY", {90 * DAY}),
        ("-- interval '1 day'\n'interval ''1 day'''", set()),
        ("e.at >= as_of - interval '1 day'", {DAY, DAY + timedelta.resolution}),
        ("e.at > as_of - interval '2 mons'", set()),
        ("e.at > as_of - interval '0 days'", set()),
    ],
)  # fmt: skip
def test_lengths_are_read_as_postgresql_reads_them(text: str, lengths: set[timedelta]) -> None:
    assert window_ends(text) == lengths


def test_a_window_that_cannot_be_followed_is_refused() -> None:
    [told] = window_problems("seen", "e.at > s.as_of - interval '1 month'", None)
    assert "seen" in told
    assert "no fixed length" in told
    [told] = window_problems("seen", "e.at > s.as_of - interval '30 days'", 7 * DAY)
    assert "longer than the view's horizon (7 days)" in told
    assert not list(window_problems("seen", "e.at > s.as_of - interval '168 hours'", 7 * DAY))


TODAY = """
SELECT s.user_id, s.as_of, w.n AS user_watch_count_7d
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS n
    FROM watch_events AS e
    WHERE
        e.user_id = s.user_id
        AND e.watched_at >= {day}
        AND e.watched_at > s.as_of - interval '168 hours'
        AND e.watched_at <= s.as_of
        AND e.ingested_at <= s.as_of
) AS w
"""
BEGINNINGS = {
    "date_trunc('day', s.as_of)": DAY,
    "date_trunc('month', s.as_of)": DAY,
    "s.as_of::date": DAY,
    "CAST(s.as_of AS date)": DAY,
    "date_trunc('hour', s.as_of)": HOUR,
    "date_trunc('day', s.as_of AT TIME ZONE 'Asia/Kathmandu') AT TIME ZONE 'Asia/Kathmandu'": (
        15 * MINUTE
    ),
}


@pytest.mark.parametrize("written", BEGINNINGS)
def test_a_count_of_today_ends_with_the_day(
    conn: psycopg.Connection, fresh_database: str, counts: Computation, written: str
) -> None:
    """Nothing enters and nothing leaves at midnight, and yet the count begins anew."""
    computation = replace(counts, sql=TODAY.format(day=written))
    assert computation.calendar_step == BEGINNINGS[written]
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for number, ago in enumerate([50 * HOUR + MINUTE, 27 * HOUR, 3 * HOUR]):
        watch(conn, f"of {ago}", 1 + number % 2, now - ago)
    backfill(conn, computation, now - 3 * DAY, now)
    moments = [now - n * 15 * MINUTE - SECOND for n in range(230)]
    true = recomputed(
        fresh_database, computation, [(user, at) for at in moments for user in (1, 2)]
    )
    assert set(true.values()) >= {0, 1}
    assert {asked: logged(conn, *asked) for asked in true} == true


@pytest.mark.parametrize(
    "text",
    [
        "exp(-extract(EPOCH FROM s.as_of - e.at) / 86400)",
        "age(s.as_of, e.at)",
        "date_part('epoch', s.as_of - max(e.at))",
        "extract(second FROM s.as_of)",
    ],
)
def test_what_changes_at_every_moment_must_say_so(text: str) -> None:
    [told] = window_problems("seen", text, None)
    assert "changes at every moment" in told
    assert not list(window_problems("seen", "sum(extract(EPOCH FROM e.at)) FROM spine s", None))


NEW_ITEMS = """
SELECT s.user_id, s.as_of, (
    SELECT count(DISTINCT i.item_id)
    FROM watch_events AS e
    INNER JOIN items AS i ON i.item_id = e.item_id
    WHERE
        e.user_id = s.user_id
        AND e.watched_at > s.as_of - interval '168 hours'
        AND e.watched_at <= s.as_of
        AND e.ingested_at <= s.as_of
        AND {window}
        AND i.valid_from <= s.as_of
        AND i.ingested_at <= s.as_of
) AS user_watch_count_7d
FROM spine AS s
"""


@pytest.mark.parametrize(
    "window",
    [
        "i.valid_from > s.as_of - interval '1 hour'",
        "i.valid_from + interval '1 hour' > s.as_of",
        "s.as_of - i.valid_from < interval '1 hour'",
    ],
)
def test_rows_of_another_source_leave_its_window(
    conn: psycopg.Connection,
    fresh_database: str,
    computations: dict[str, Computation],
    window: str,
) -> None:
    """An item is new for an hour, for all who watched it."""
    counts, preferences = computations["user_watch_stats.v1"], computations["user_preferences.v1"]
    items = next(source for source in preferences.reads if source.table == "items")
    computation = replace(
        counts, sql=NEW_ITEMS.format(window=window), reads=(counts.reads[0], items)
    )
    assert computation.has_windows_over(items)
    assert not preferences.has_windows_over(items)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    watch(conn, "a", 1, now - 9 * HOUR)
    watch(conn, "b", 2, now - 4 * HOUR - 30 * MINUTE)
    for ago in (5 * HOUR, 2 * DAY):
        conn.execute(
            "INSERT INTO items (item_id, genre, valid_from, ingested_at) VALUES (1, 'x', %s, %s)",
            [now - ago, now - ago],
        )
    backfill(conn, computation, now - DAY, now)
    moments = [now - n * 10 * MINUTE - SECOND for n in range(100)]
    true = recomputed(
        fresh_database, computation, [(user, at) for at in moments for user in (1, 2)]
    )
    assert set(true.values()) == {0, 1}
    assert {asked: logged(conn, *asked) for asked in true} == true

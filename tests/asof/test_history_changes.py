"""History that changes behind the watermarks: whoever changes it, the next tick corrects it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest

from extensions.asof import Computation, HistorySource
from extensions.asof.history_changes import (
    HistoryChange,
    follow_sources,
    history_changes,
    not_followed,
    prune_history_changes,
)
from extensions.asof.tick import tick
from extensions.asof.tick_schedule import due_tick, last_tick
from extensions.database import connect
from feature_repo.simulator import EVENT_SCHEMA, ITEM_SCHEMA
from tests.asof.loading import watch
from tests.history.tables import load_events, load_items

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def noted(conn: psycopg.Connection, table: str = "watch_events") -> list[HistoryChange]:
    now = datetime.now(UTC) + HOUR
    return history_changes(conn, [table], NEVER, now)


def latest(conn: psycopg.Connection, computation: Computation) -> dict[int, int]:
    [feature] = computation.features
    return dict(
        conn.execute(
            f"SELECT DISTINCT ON ({computation.join_keys[0]}) {computation.join_keys[0]}, "  # type: ignore[arg-type]
            f"{feature.name} FROM {computation.log_table} ORDER BY 1, event_timestamp DESC"
        ).fetchall()
    )


def event_batch(rows: list[tuple[str, int, datetime, datetime | None]]) -> pa.RecordBatch:
    columns = [
        [name for name, *_ in rows],
        [user for _, user, *_ in rows],
        [1] * len(rows),
        [at for *_, at, _ in rows],
        [arrival for *_, arrival in rows],
        [60_000] * len(rows),
        [0.5] * len(rows),
    ]
    return pa.record_batch(
        [pa.array(c, f.type) for c, f in zip(columns, EVENT_SCHEMA, strict=True)],
        schema=EVENT_SCHEMA,
    )


@pytest.mark.parametrize("how", ["insert", "insert into the partition", "copy", "loader"])
def test_rows_that_claim_to_have_arrived_long_ago_are_found(
    conn: psycopg.Connection, counts: Computation, fresh_database: str, how: str
) -> None:
    now = datetime.now(UTC)
    watch(conn, "known", 1, now - HOUR, now - HOUR)
    tick(conn, counts)
    before = len(noted(conn))
    at = now - 2 * DAY
    if how == "loader":
        load_events(fresh_database, [event_batch([("late", 2, at, at)])])
    elif how == "copy":
        with conn.cursor().copy(
            "COPY watch_events (event_id, user_id, item_id, watched_at, ingested_at, duration_ms, "
            "progress) FROM STDIN"
        ) as copy:
            copy.write_row(("late", 2, 1, at, at, 60_000, 0.5))
    elif how == "insert":
        watch(conn, "late", 2, at, at)
    else:
        conn.execute("SELECT ensure_time_partitions('watch_events', 'month', %s, %s)", [at, at])
        partition = f"watch_events_{at:%Y_%m}"
        conn.execute(
            f"INSERT INTO {partition} (event_id, user_id, item_id, watched_at, ingested_at, "  # type: ignore[arg-type]
            "duration_ms, progress) VALUES ('late', 2, 1, %s, %s, 60000, 0.5)",
            [at, at],
        )
    [change] = noted(conn)[before:]
    assert change.operation == "insert"
    assert change.claimed_from is not None
    assert at - DAY < change.claimed_from <= at
    # User 1's row arrived after the claim too: one computed too many is no fault.
    assert 1 <= tick(conn, counts).rows <= 2
    assert latest(conn, counts) == {1: 1, 2: 1}
    assert tick(conn, counts).rows == 0


def test_rows_that_arrive_as_they_are_stored_leave_no_note(
    conn: psycopg.Connection, counts: Computation, fresh_database: str
) -> None:
    now = datetime.now(UTC)
    tick(conn, counts)
    conn.execute(
        "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, duration_ms, progress) "
        "VALUES ('now', 1, 1, %s, 60000, 0.5)",
        [now - DAY],
    )
    load_events(fresh_database, [event_batch([("loaded now", 2, now - DAY, None)])])
    assert noted(conn) == []
    arrivals = conn.execute("SELECT min(ingested_at) FROM watch_events").fetchone()
    assert arrivals is not None
    assert arrivals[0] >= now
    tick(conn, counts)
    assert latest(conn, counts) == {1: 1, 2: 1}


@pytest.mark.parametrize(
    ("statement", "operation", "expected"),
    [
        ("DELETE FROM watch_events WHERE event_id = 'a'", "delete", {1: 0, 2: 1}),
        ("UPDATE watch_events SET user_id = 2 WHERE event_id = 'a'", "update", {1: 0, 2: 2}),
        ("TRUNCATE watch_events", "truncate", {1: 0, 2: 0}),
    ],
)
def test_rows_that_are_changed_or_taken_away_are_found(
    conn: psycopg.Connection,
    counts: Computation,
    statement: str,
    operation: str,
    expected: dict[int, int],
) -> None:
    now = datetime.now(UTC)
    watch(conn, "a", 1, now - DAY, now - DAY)
    watch(conn, "b", 2, now - DAY, now - DAY)
    tick(conn, counts)
    before = len(noted(conn))
    conn.execute(statement)  # type: ignore[arg-type]
    assert {change.operation for change in noted(conn)[before:]} == {operation}
    tick(conn, counts)
    assert latest(conn, counts) == expected


def test_a_row_of_another_source_that_claims_to_be_old_is_found(
    conn: psycopg.Connection, computations: dict[str, Computation], fresh_database: str
) -> None:
    preferences = computations["user_preferences.v1"]
    now = datetime.now(UTC)
    conn.execute(
        "INSERT INTO genres (genre, embedding, ingested_at) "
        "VALUES ('drama', array_fill(1::real, ARRAY[32]), %s)",
        [now - 90 * DAY],
    )
    watch(conn, "a", 1, now - DAY, now - DAY)
    tick(conn, preferences)
    zeros = [0.0] * 32
    assert latest(conn, preferences) == {1: zeros}
    old = datetime(1971, 1, 1, tzinfo=UTC)
    columns = [pa.array([1]), pa.array(["drama"]), pa.array([old]), pa.array([old])]
    load_items(
        fresh_database,
        [
            pa.record_batch(
                [c.cast(f.type) for c, f in zip(columns, ITEM_SCHEMA, strict=True)],
                schema=ITEM_SCHEMA,
            )
        ],
    )
    assert tick(conn, preferences).rows == 1
    assert latest(conn, preferences) == {1: [1.0] * 32}


def test_a_history_table_with_capitals_is_followed(
    conn: psycopg.Connection, counts: Computation
) -> None:
    conn.execute(
        'CREATE TABLE "Plays" (user_id bigint, "playedAt" timestamptz, "knownAt" timestamptz)'
    )
    source = HistorySource("Plays", ("user_id",), "playedAt", "knownAt")
    plays = replace(counts, reads=(source,))
    assert follow_sources(conn, [plays]) == []
    old = datetime.now(UTC) - 2 * DAY
    conn.execute('INSERT INTO "Plays" VALUES (1, %s, %s)', [old, old])
    assert [change.operation for change in noted(conn, "Plays")] == ["insert"]
    conn.execute('CREATE VIEW "Replays" AS SELECT * FROM "Plays"')
    source = replace(source, table="Replays")
    assert follow_sources(conn, [replace(counts, reads=(source,))]) == ["Replays"]
    assert not_followed(conn, [plays, replace(counts, reads=(source,))]) == ["Replays"]


def test_a_view_whose_history_was_changed_is_due_before_its_hour(
    conn: psycopg.Connection, computations: dict[str, Computation]
) -> None:
    stats = computations["item_stats.v1"]
    now = datetime.now(UTC)
    tick(conn, stats)
    settled = datetime.now(UTC)
    if last_tick(stats, settled) == last_tick(stats, now):  # not in the second of a full hour
        assert due_tick(conn, stats, settled) is None
    watch(conn, "late", 1, now - DAY, now - DAY)
    settled = datetime.now(UTC)
    assert due_tick(conn, stats, settled) == settled


def test_a_transaction_of_anyone_that_stores_history_holds_the_safe_time_back(
    conn: psycopg.Connection, counts: Computation, fresh_database: str
) -> None:
    """An INSERT of another program, which knows nothing of locks."""
    tick(conn, counts)
    with connect(fresh_database) as other:
        other.execute(
            "INSERT INTO watch_events "
            "(event_id, user_id, item_id, watched_at, duration_ms, progress) "
            "VALUES ('open', 1, 1, now() - interval '1 hour', 60000, 0.5)"
        )
        assert tick(conn, counts).rows == 0
        other.commit()
    assert tick(conn, counts).rows == 1
    assert latest(conn, counts) == {1: 1}


def test_notes_that_a_later_one_implies_are_pruned_once_every_view_has_passed_them(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    notes = [
        ("watch_events", now - 50 * DAY, now - 90 * DAY),
        ("watch_events", now - 49 * DAY, now - 95 * DAY),
        ("watch_events", now - 48 * DAY, now - 60 * DAY),
        ("watch_events", now - 5 * DAY, None),
        ("items", now - 50 * DAY, None),
        ("items", now - 49 * DAY, now - 60 * DAY),
        ("items", now - 48 * DAY, None),
        ("genres", now - 40 * DAY, now - 41 * DAY),
        ("genres", now - 39 * DAY, now - 41 * DAY),
    ]
    for table, changed_at, claim in notes:
        conn.execute(
            "INSERT INTO history_changes (source_table, operation, changed_at, claimed_from) "
            "VALUES (%s, 'insert', %s, %s)",
            [table, changed_at, claim],
        )
    tick(conn, counts)
    assert prune_history_changes(conn) == 4
    assert prune_history_changes(conn) == 0
    kept = {
        (table, change.changed_at)
        for table in ("watch_events", "items", "genres")
        for change in noted(conn, table)
        if change.changed_at < now - DAY
    }
    assert kept == {notes[i][:2] for i in (1, 2, 3, 6, 8)}


def test_a_view_that_lags_keeps_the_notes_it_has_not_passed(
    conn: psycopg.Connection, counts: Computation
) -> None:
    now = datetime.now(UTC)
    tick(conn, counts)
    conn.execute("UPDATE watermarks SET processed_through = %s", [now - 60 * DAY])
    conn.execute(
        "INSERT INTO history_changes (source_table, operation, changed_at) "
        "SELECT 'items', 'update', %s + n * interval '1 day' FROM generate_series(1, 3) AS n",
        [now - 60 * DAY],
    )
    assert prune_history_changes(conn) == 0
    conn.execute("UPDATE watermarks SET processed_through = %s", [now])
    assert prune_history_changes(conn) == 2

"""What history knew when a value was computed, by the transactions that wrote it."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from extensions.asof import Computation
from extensions.asof.tick import tick
from extensions.consistency.history_and_log_reads import evidence
from extensions.database import connect
from extensions.database.event_ingest import take_ingest_lock
from extensions.database.history_change_notes import note_insert
from tests.asof.loading import watch

SECOND = timedelta(seconds=1)


def logged_at(conn: psycopg.Connection, user: int) -> datetime:
    [at] = conn.execute(
        "SELECT max(event_timestamp) FROM user_watch_stats_v1 WHERE user_id = %s", [user]
    ).fetchone() or [None]
    assert at is not None
    return at


@pytest.mark.parametrize("noted_by", ["the loader", "a trigger"])
def test_a_value_of_while_a_load_was_under_way_did_not_know_its_rows(
    conn: psycopg.Connection, counts: Computation, fresh_database: str, noted_by: str
) -> None:
    """The load began to write before the value was logged, and was seen only after it."""
    old = datetime.now(UTC) - 20 * SECOND
    watch(conn, "known", 1, old)
    watch(conn, "another's", 2, old)
    with connect(fresh_database) as loading:
        take_ingest_lock(loading, "watch_events")
        if noted_by == "the loader":
            loading.execute("SET LOCAL skewless.noted = 'on'")
        with loading.transaction():
            watch(loading, "claims to be old", 1, old + SECOND)
        tick(conn, counts)
        if noted_by == "the loader":
            note_insert(loading, "watch_events", old + SECOND)
    asked = [((user,), logged_at(conn, user), logged_at(conn, user)) for user in (1, 2)]
    assert [one.rewritten for one in evidence(conn, counts, asked)] == [True, False]
    # Whatever is computed since knows them.
    tick(conn, counts)
    now = logged_at(conn, 1)
    assert [one.rewritten for one in evidence(conn, counts, [((1,), now, now)])] == [False]

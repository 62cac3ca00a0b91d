"""Feature logs in partitions: converted under writers, rolled on, and read no slower."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from extensions.asof import Computation, log_partitions
from extensions.asof.engine import append
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.log_partitions import (
    LogPartition,
    next_start,
    partition_logs,
    partitions,
    roll,
    unpartitioned,
)
from extensions.asof.spine import entities
from extensions.database import connect
from extensions.errors import SkewlessError, UnavailableError
from tests.asof.loading import watch

DAY = timedelta(days=1)
LOG = "user_watch_stats_v1"

# A log as the release before made it (extensions/asof/feature_log_tables.py, 0.1.0), with what
# users add to one: a view over it, rights, an index of their own.
PLAIN = f"""
DROP TABLE {LOG};
CREATE TABLE {LOG} (
    user_id bigint NOT NULL,
    event_timestamp timestamptz NOT NULL,
    created_timestamp timestamptz NOT NULL,
    user_watch_count_7d bigint,
    skewless_backfilled boolean NOT NULL DEFAULT FALSE
);
CREATE UNIQUE INDEX {LOG}_as_of ON {LOG} (
    user_id, event_timestamp DESC, created_timestamp DESC
);
CREATE INDEX {LOG}_by_time ON {LOG} USING brin (event_timestamp, created_timestamp);
CREATE INDEX of_my_own ON {LOG} (user_watch_count_7d) WHERE user_watch_count_7d > 3;
CREATE VIEW busy WITH (security_barrier = true) AS
SELECT user_id, event_timestamp FROM {LOG} WHERE user_watch_count_7d > 3;
GRANT SELECT ON {LOG} TO PUBLIC;
"""
FILL = f"""
INSERT INTO {LOG}
SELECT u, at, at + interval '1 second', u FROM generate_series(1, %s) AS u,
generate_series(now() - interval '40 days', now(), interval '1 day') AS at
"""


@pytest.fixture
def plain(conn: psycopg.Connection, counts: Computation) -> Computation:
    """The log of watch counts as the release before made it, with 41 rows for each of 50 users."""
    types = dict(
        conn.execute(
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0",
            [LOG],
        ).fetchall()
    )
    conn.execute(PLAIN)
    made = dict(
        conn.execute(
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0",
            [LOG],
        ).fetchall()
    )
    assert made == types  # the frozen definition is still this view's
    conn.execute(FILL, [50])
    return counts


def rows(conn: psycopg.Connection) -> list[tuple[object, ...]]:
    return conn.execute(f"SELECT * FROM {LOG} ORDER BY 1, 2, 3").fetchall()


@contextmanager
def writing(url: str, computation: Computation) -> Iterator[list[int]]:
    """A writer that appends to the log without pause; the users that it has written."""
    stop, written, failed = threading.Event(), list[int](), list[Exception]()

    def write() -> None:
        with connect(url, autocommit=True) as conn:
            user = 1000
            while not stop.is_set():
                user += 1
                try:
                    append(conn, computation, entities(computation, [(user,)], datetime.now(UTC)))
                    # As a prepared statement, whose plan names the table that was there.
                    conn.execute(
                        f"INSERT INTO {LOG} (user_id, event_timestamp, created_timestamp) "
                        "VALUES (%s, now(), now())",
                        [-user],
                        prepare=True,
                    )
                except (psycopg.Error, SkewlessError) as error:
                    failed.append(error)
                    return
                written.append(user)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while len(written) < 5 and not failed:
            stop.wait(0.01)
        yield written
        before = len(written)
        while len(written) < before + 5 and not failed:
            stop.wait(0.01)
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


def test_a_log_of_before_is_converted_in_place_while_a_writer_runs(
    conn: psycopg.Connection, plain: Computation, fresh_database: str
) -> None:
    before = rows(conn)
    [file] = conn.execute("SELECT pg_relation_filenode(%s::regclass)", [LOG]).fetchone() or [None]
    assert unpartitioned(conn, [LOG]) == {LOG: None}
    with writing(fresh_database, plain) as written:
        assert partition_logs(conn, [LOG]) == [LOG]
    assert [row for row in rows(conn) if 0 < int(str(row[0])) <= 50] == before
    users = {int(str(row[0])) for row in rows(conn)}
    assert set(written) | {-user for user in written} <= users
    # The rows were not copied.
    assert conn.execute(
        "SELECT pg_relation_filenode(%s::regclass)", [f"{LOG}_past"]
    ).fetchone() == (file,)
    past, future = partitions(conn, LOG)
    assert past == LogPartition(f"{LOG}_past", None, future.start)
    assert future == LogPartition(f"{LOG}_future", future.start, None)
    assert future.start is not None
    assert next_start("month", datetime.now(UTC)) <= future.start
    assert unpartitioned(conn, [LOG]) == {}
    assert partition_logs(conn, [LOG]) == []
    ensure_log_tables(conn, [plain])  # its columns are what the view declares


def test_two_processes_convert_at_once(
    conn: psycopg.Connection, plain: Computation, fresh_database: str
) -> None:
    before = rows(conn)
    done: list[list[str]] = []

    def convert() -> None:
        with connect(fresh_database, autocommit=True) as own:
            done.append(partition_logs(own, [LOG]))

    threads = [threading.Thread(target=convert) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [[], [], [LOG]]
    assert rows(conn) == before


def test_what_users_added_to_a_log_follows_it(conn: psycopg.Connection, plain: Computation) -> None:
    partition_logs(conn, [LOG])
    # In the new partition, which the view would not read had it followed the renamed table.
    at = datetime.now(UTC) + 400 * DAY
    conn.execute(f"INSERT INTO {LOG} VALUES (77, %s, %s, 9)", [at, at])
    assert conn.execute("SELECT user_id FROM busy WHERE event_timestamp = %s", [at]).fetchall()
    assert conn.execute(
        "SELECT reloptions FROM pg_class WHERE oid = 'busy'::regclass"
    ).fetchone() == (["security_barrier=true"],)
    assert conn.execute(
        "SELECT has_table_privilege('pg_monitor', %s, 'SELECT')", [LOG]
    ).fetchone() == (True,)
    indexes = {
        name
        for (name,) in conn.execute(
            "SELECT indexrelid::regclass::text FROM pg_index "
            "WHERE indrelid = %s::regclass AND indisvalid",
            [LOG],
        )
    }
    assert indexes == {f"{LOG}_as_of", f"{LOG}_by_time", "of_my_own"}
    row = (5, at, at)
    for _ in range(2):
        conn.execute(
            f"INSERT INTO {LOG} (user_id, event_timestamp, created_timestamp) "
            "VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            row,
        )
    assert conn.execute(f"SELECT count(*) FROM {LOG} WHERE user_id = 5 AND "
                        "event_timestamp = %s", [at]).fetchone() == (1,)  # fmt: skip


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_conversion_killed_between_its_steps_begins_again(
    conn: psycopg.Connection,
    plain: Computation,
    monkeypatch: pytest.MonkeyPatch,
    killed_after: int,
) -> None:
    before = rows(conn)
    patiently, calls = log_partitions.patiently, 0

    def counted(*args: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == killed_after:
            raise KeyboardInterrupt
        return patiently(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(log_partitions, "patiently", counted)
    with pytest.raises(KeyboardInterrupt):
        partition_logs(conn, [LOG])
    assert rows(conn) == before
    assert unpartitioned(conn, [LOG]) == {LOG: None}
    monkeypatch.undo()
    assert partition_logs(conn, [LOG]) == [LOG]
    assert rows(conn) == before
    assert conn.execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'c'",
        [f"{LOG}_past"],
    ).fetchall() == []  # fmt: skip


def test_a_log_that_something_holds_by_its_oid_stays_and_says_why(
    conn: psycopg.Connection, plain: Computation
) -> None:
    conn.execute(f"CREATE MATERIALIZED VIEW copied AS SELECT user_id FROM {LOG}")
    assert unpartitioned(conn, [LOG]) == {LOG: "the materialized view copied"}
    assert partition_logs(conn, [LOG]) == []
    conn.execute("DROP MATERIALIZED VIEW copied")
    conn.execute(f"CREATE PUBLICATION away FOR TABLE {LOG}")
    assert unpartitioned(conn, [LOG]) == {LOG: "the publication away"}


def test_a_transaction_that_stays_open_is_not_waited_for_and_stops_nobody(
    conn: psycopg.Connection,
    plain: Computation,
    fresh_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_partitions, "_TRIES", 2)
    monkeypatch.setattr(log_partitions, "LOCK_TIMEOUT", "200ms")
    with connect(fresh_database) as reader:
        reader.execute(f"SELECT count(*) FROM {LOG}")
        with (
            writing(fresh_database, plain),
            pytest.raises(UnavailableError, match="was in use throughout"),
        ):
            partition_logs(conn, [LOG])


def test_the_newest_partition_begins_later_before_its_time_comes(
    conn: psycopg.Connection, counts: Computation, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    begin = partitions(conn, LOG)[-1].start
    assert begin is not None
    assert begin > now + 7 * DAY
    assert roll(conn, LOG) is None
    # Late: rows are in the newest partition, and one of the far future.
    times = [begin - DAY, begin, begin + 20 * DAY, begin + 3000 * DAY]
    for user, at in enumerate(times):
        conn.execute(
            f"INSERT INTO {LOG} (user_id, event_timestamp, created_timestamp) VALUES (%s, %s, %s)",
            [user, at, at],
        )
    before = rows(conn)
    monkeypatch.setattr(log_partitions, "_now", lambda _: begin + 21 * DAY)
    rolled = roll(conn, LOG)
    after = next_start("month", begin + 28 * DAY)
    assert rolled == LogPartition(f"{LOG}_{begin:%Y_%m_%d}", begin, after)
    assert roll(conn, LOG) is None
    assert rows(conn) == before
    held = {
        part.name: conn.execute(f"SELECT user_id FROM {part.name} ORDER BY 1").fetchall()
        for part in partitions(conn, LOG)
    }
    assert held == {f"{LOG}_past": [(0,)], rolled.name: [(1,), (2,)], f"{LOG}_future": [(3,)]}


def test_days_and_months_may_follow_each_other(
    conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = partitions(conn, LOG)[-1].start
    assert begin is not None
    for day in range(1, 4):
        monkeypatch.setattr(log_partitions, "_now", lambda _, day=day: begin + day * DAY)
        assert roll(conn, LOG, "day") is not None
    monkeypatch.setattr(log_partitions, "_now", lambda _: begin + 5 * DAY)
    assert roll(conn, LOG, "month") is not None
    ends = [part.end for part in partitions(conn, LOG)]
    assert ends == [
        begin,
        *(begin + day * DAY for day in (2, 3, 4)),
        next_start("month", begin),
        None,
    ]


def test_an_entitys_latest_row_is_looked_for_in_one_partition_after_the_other(
    conn: psycopg.Connection, counts: Computation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an index in the order of time, without sorting and without partitions of later times."""
    begin = partitions(conn, LOG)[-1].start
    assert begin is not None
    for month in (1, 35, 65):
        monkeypatch.setattr(log_partitions, "_now", lambda _, m=month: begin + m * DAY)
        roll(conn, LOG)
    conn.execute(
        f"INSERT INTO {LOG} (user_id, event_timestamp, created_timestamp) "
        "SELECT u, %(t)s::timestamptz + d * interval '1 day', %(t)s FROM "
        "generate_series(1, 200) AS u, generate_series(-30, 60) AS d",
        {"t": begin},
    )
    conn.execute(f"ANALYZE {LOG}")
    conn.execute(
        "CREATE TEMPORARY TABLE labels AS SELECT u AS user_id, %s::timestamptz AS at "
        "FROM generate_series(1, 50) AS u",
        [begin + 10 * DAY],
    )
    plan = "\n".join(
        line
        for (line,) in conn.execute(
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) "
            "SELECT * FROM labels LEFT JOIN LATERAL ("
            f"SELECT l.* FROM {LOG} AS l WHERE l.user_id = labels.user_id "
            "AND l.event_timestamp <= labels.at AND l.created_timestamp <= labels.at "
            "ORDER BY l.event_timestamp DESC, l.created_timestamp DESC LIMIT 1) AS l ON TRUE"
        )
    )
    lookup = plan[plan.index("Limit") :]
    assert "Sort" not in lookup, plan
    assert "Merge Append" not in lookup, plan
    read = [line for line in lookup.splitlines() if "Index Scan" in line]
    executed = [line for line in read if "never executed" not in line]
    assert len(executed) == 1, plan  # the partition of the label's time alone


def test_equal_in_time_the_row_that_was_created_last_comes_first_over_all_partitions(
    conn: psycopg.Connection, counts: Computation
) -> None:
    begin = partitions(conn, LOG)[-1].start
    assert begin is not None
    watch(conn, "any", 1, datetime.now(UTC) - DAY)
    for at, created in [(begin, begin + DAY), (begin, begin + 2 * DAY), (begin - DAY, begin)]:
        conn.execute(
            f"INSERT INTO {LOG} (user_id, event_timestamp, created_timestamp) VALUES (1, %s, %s)",
            [at, created],
        )
    found = conn.execute(
        f"SELECT event_timestamp, created_timestamp FROM {LOG} WHERE user_id = 1 "
        "ORDER BY event_timestamp DESC, created_timestamp DESC"
    ).fetchall()
    assert found == [(begin, begin + 2 * DAY), (begin, begin + DAY), (begin - DAY, begin)]

"""Whose open transactions hold the safe time back: those on the tables that are asked about."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import extensions.database
from extensions.asof.safe_time import settled_now
from extensions.database import connect
from extensions.database.event_ingest import INGEST_LOCK, take_ingest_lock
from extensions.database.scalars import clock

FOLDER = Path(extensions.database.__file__).parent / "migrations"
ITEM = (
    "INSERT INTO items (item_id, genre, valid_from, ingested_at) "
    "VALUES (1, 'drama', now(), clock_timestamp())"
)
WATCH = (
    "INSERT INTO {} (event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
    "VALUES ('open', 1, 1, now(), clock_timestamp(), 60000, 0.5)"
)


@pytest.fixture
def conn(fresh_database: str) -> Iterator[psycopg.Connection]:
    with connect(fresh_database, autocommit=True) as connection:
        connection.execute(
            "SELECT follow_history(t.name::regclass, t.name, 'ingested_at') "
            "FROM unnest(ARRAY['watch_events', 'items']) AS t (name)"
        )
        yield connection


@pytest.fixture
def writer(fresh_database: str) -> Iterator[psycopg.Connection]:
    with connect(fresh_database) as connection:
        yield connection


def is_held(conn: psycopg.Connection, *tables: str) -> bool:
    asked = clock(conn)
    return settled_now(conn, tables) < asked


@pytest.mark.parametrize("by", ["insert", "loader"])
def test_a_writer_of_one_table_holds_up_those_that_read_it(
    conn: psycopg.Connection, writer: psycopg.Connection, by: str
) -> None:
    if by == "insert":
        writer.execute(ITEM)
    else:
        take_ingest_lock(writer, "items")
    assert is_held(conn, "items")
    assert is_held(conn, "watch_events", "items")
    assert is_held(conn)
    assert not is_held(conn, "watch_events")
    writer.commit()
    assert not is_held(conn)


def test_each_table_that_a_transaction_writes_to_is_held(
    conn: psycopg.Connection, writer: psycopg.Connection
) -> None:
    writer.execute(ITEM)
    assert not is_held(conn, "watch_events")
    writer.execute(WATCH.format("watch_events"))
    assert is_held(conn, "watch_events")
    assert is_held(conn, "items")


@pytest.mark.parametrize("change", ["UPDATE", "DELETE", "TRUNCATE"])
def test_changes_of_rows_hold_the_table(
    conn: psycopg.Connection, writer: psycopg.Connection, change: str
) -> None:
    conn.execute(ITEM)
    statement = {
        "UPDATE": "UPDATE items SET genre = 'comedy'",
        "DELETE": "DELETE FROM items",
        "TRUNCATE": "TRUNCATE items",
    }[change]
    writer.execute(statement)
    assert is_held(conn, "items")
    assert not is_held(conn, "watch_events")


def test_a_partition_is_held_with_its_table(
    conn: psycopg.Connection, writer: psycopg.Connection
) -> None:
    writer.execute(WATCH.format("watch_events_default"))
    assert is_held(conn, "watch_events")
    assert is_held(conn, "watch_events_default")
    assert not is_held(conn, "items")


def test_what_is_no_table_may_read_any(
    conn: psycopg.Connection, writer: psycopg.Connection
) -> None:
    conn.execute("CREATE VIEW dramas AS SELECT * FROM items")
    writer.execute(ITEM)
    assert is_held(conn, "dramas")
    assert is_held(conn, "dramas", "watch_events")
    assert is_held(conn, "nowhere")


def test_a_process_of_before_the_locks_of_tables_holds_all(
    conn: psycopg.Connection, writer: psycopg.Connection
) -> None:
    writer.execute("SELECT pg_advisory_xact_lock_shared(%s)", [INGEST_LOCK])
    assert is_held(conn, "items")
    assert is_held(conn, "watch_events")


def test_processes_of_before_see_every_writer(
    conn: psycopg.Connection, writer: psycopg.Connection
) -> None:
    writer.execute(ITEM)
    [(held,)] = conn.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' "
        "AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = %s",
        [INGEST_LOCK],
    ).fetchall()
    assert held == 1


def test_a_table_with_an_oid_beyond_the_signed_numbers(
    conn: psycopg.Connection, writer: psycopg.Connection
) -> None:
    """What the lock is keyed by survives the sign; PostgreSQL gives such oids after years."""
    high = 2**32 - 5
    [(number,)] = conn.execute(
        "SELECT %s::bigint::oid::bigint::bit(32)::integer", [high]
    ).fetchall()
    writer.execute("SELECT pg_advisory_xact_lock_shared(1, %s)", [number])
    [(shown,)] = conn.execute(
        "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND classid = 1"
    ).fetchall()
    assert shown == high


def test_a_table_that_is_not_there_is_no_lock(writer: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        take_ingest_lock(writer, "nowhere")


def test_names_are_taken_as_they_are(conn: psycopg.Connection, writer: psycopg.Connection) -> None:
    name = 'Odd "name".x'
    conn.execute(sql.SQL("CREATE TABLE {} (at timestamptz)").format(sql.Identifier(name)))
    take_ingest_lock(writer, name)
    assert is_held(conn, name)
    assert not is_held(conn, "items")


def test_tables_without_partitions_that_were_followed_before(
    fresh_database: str, conn: psycopg.Connection, writer: psycopg.Connection
) -> None:
    """What an upgrade finds: a plain table whose inserts hold nothing."""
    migration = (FOLDER / "0020.ingest-locks.sql").read_text()
    conn.execute((FOLDER / "0020.ingest-locks.rollback.sql").read_text())
    conn.execute('CREATE TABLE "Odd ä" (k int, at timestamptz)')
    conn.execute("SELECT follow_history('\"Odd ä\"', 'Odd ä', 'at')")
    conn.execute(migration)
    writer.execute('INSERT INTO "Odd ä" VALUES (1, clock_timestamp())')
    assert is_held(conn, "Odd ä")
    writer.commit()
    writer.execute('TRUNCATE "Odd ä"')
    writer.commit()
    noted = conn.execute("SELECT source_table, operation FROM history_changes").fetchall()
    assert noted == [("Odd ä", "truncate")]

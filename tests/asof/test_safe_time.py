"""The safe time reads the clock before the locks, whatever plan PostgreSQL chooses."""

import random
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from extensions.asof.safe_time import settled_now
from extensions.database import connect

# Views in place of the system's own, which say when they were read: what a plan shows is where
# a scan stands, not when it runs.
SHADOW = """
CREATE SCHEMA shadow;
CREATE FUNCTION shadow.read_locks() RETURNS SETOF pg_catalog.pg_locks
LANGUAGE plpgsql COST 1 ROWS 1000 AS $$
BEGIN
    PERFORM set_config('test.locks_read_at', clock_timestamp()::text, false);
    PERFORM pg_sleep(0.001);
    RETURN QUERY SELECT * FROM pg_catalog.pg_locks;
END $$;
CREATE VIEW shadow.pg_locks AS SELECT * FROM shadow.read_locks();
"""


@pytest.fixture
def conn(fresh_database: str) -> Iterator[psycopg.Connection]:
    with connect(fresh_database, autocommit=True) as connection:
        connection.execute(SHADOW)
        yield connection


def tuning_settings(conn: psycopg.Connection) -> list[tuple[str, str, str, str, list[str]]]:
    """All settings that steer the planner: name, kind, least, most, and what an enum may be."""
    return conn.execute(
        "SELECT name, vartype, min_val, max_val, enumvals FROM pg_settings "
        "WHERE category LIKE 'Query Tuning%' AND context = 'user' ORDER BY name"
    ).fetchall()


def drawn(draw: random.Random, kind: str, least: str, most: str, choices: list[str]) -> str:
    if kind == "bool":
        return draw.choice(["on", "off"])
    if kind == "enum":
        return draw.choice(choices)
    low, high = float(least), float(most)
    value = draw.choice([low, min(high, max(low, 10 ** draw.uniform(-4, 4)))])
    return str(int(value)) if kind == "integer" else str(value)


def shuffle_settings(conn: psycopg.Connection, seed: int) -> None:
    draw = random.Random(seed)
    settings = tuning_settings(conn)
    conn.execute("RESET ALL")
    for name, *limits in draw.sample(settings, draw.randint(1, len(settings))):
        value = drawn(draw, *limits)
        conn.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
    conn.execute("SET search_path = shadow, pg_catalog, public")


def test_the_clock_is_read_before_the_locks_under_any_planner_settings(
    conn: psycopg.Connection,
) -> None:
    after_the_locks = []
    for seed in range(300):
        shuffle_settings(conn, seed)
        safe_time = settled_now(conn)
        row = conn.execute("SELECT current_setting('test.locks_read_at')::timestamptz").fetchone()
        assert row is not None
        if safe_time > row[0]:
            after_the_locks.append(seed)
    assert after_the_locks == []

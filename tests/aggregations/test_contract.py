"""Compiled texts keep the contract of every computation, and every path gives one value."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from adbc_driver_postgresql import dbapi

from extensions.asof import Computation, Spine, append
from extensions.asof.backfill import backfill
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.history_changes import follow_sources
from extensions.asof.tick import tick
from extensions.database import connect, connect_arrow
from tests.aggregations.dense import dense_rows, dense_views, questions
from tests.aggregations.drawing import HOUR
from tests.aggregations.purchases import START, TABLE, declared, store
from tests.asof.contract import violations
from tests.databases import copied
from tests.oracle.answers import bits

VIEWS = dense_views()


@pytest.fixture(scope="module")
def dense(database: str) -> Iterator[dbapi.Connection]:
    with connect(database, autocommit=True) as conn:
        conn.execute(TABLE)
        conn.execute("CREATE INDEX ON purchases (user_id, bought_at)")
        store(conn, dense_rows())
        conn.execute("ANALYZE")
    with connect_arrow(database) as arrow:
        yield arrow


@pytest.mark.parametrize("name", VIEWS)
def test_a_compiled_text_keeps_the_contract(name: str, dense: dbapi.Connection) -> None:
    assert violations(dense, declared(*VIEWS[name]), questions()) == []


# Backfills of realtime views hold every moment of change, so fewer views are asked.
PATHS = [name for number, name in enumerate(VIEWS) if number % 3 == 0]


@pytest.mark.parametrize("name", PATHS)
def test_ticks_and_backfill_log_the_same_values(
    name: str, postgres_server: str, template_database: str
) -> None:
    computation = declared(*VIEWS[name])
    rows = sorted(dense_rows(120), key=lambda row: row["known_at"])
    start, end = START + 30 * HOUR, START + 45 * HOUR
    logs = []
    for live in (True, False):
        with (
            copied(postgres_server, template_database) as url,
            connect(url, autocommit=True) as conn,
        ):
            _make(conn, computation)
            fed = START - timedelta(days=9)
            for hour in range(16):
                moment = start + hour * HOUR if live else end + timedelta(days=9)
                store(conn, [row for row in rows if fed < row["known_at"] <= moment])
                fed = moment
                if live:
                    tick(conn, computation, moment)
            if not live:
                backfill(conn, computation, start, end)
            logs.append(_log(conn, computation, start))
    ticked, backfilled = (_latest(log, start, end) for log in logs)
    assert ticked
    assert _agree(ticked, backfilled)


def _agree(ticked: dict[Any, Any], backfilled: dict[Any, Any]) -> bool:
    """Where a backfill logs a value it is the ticks', and what ticks log more changes nothing."""
    missing = backfilled.keys() - ticked.keys()
    assert not missing
    return all(ticked[key] == value for key, value in backfilled.items())


def test_the_stream_gives_what_a_backfill_gives(
    postgres_server: str, template_database: str
) -> None:
    """A realtime view, computed for the touched entities after each arrival."""
    name = next(
        each for each, (view, _) in VIEWS.items()
        if not any(f.half_life or f.function == "time_since" for f in view.features)
    )  # fmt: skip
    computation = declared(*VIEWS[name], freshness="realtime")
    rows = [r for r in dense_rows(60) if r["known_at"] >= r["bought_at"]]
    with copied(postgres_server, template_database) as url, connect(url, autocommit=True) as conn:
        _make(conn, computation)
        store(conn, rows)
        arrivals = sorted({(row["user_id"], row["known_at"]) for row in rows})
        with conn.transaction():
            append(conn, computation, Spine.of(arrivals, computation))
        streamed = _latest(_log(conn, computation, START), START, START + 99 * HOUR)
        conn.execute(f"TRUNCATE {computation.log_table}")
        conn.execute("TRUNCATE watermarks, backfills")
        backfill(conn, computation, START - HOUR, START + 99 * HOUR)
        backfilled = _latest(_log(conn, computation, START - HOUR), START, START + 99 * HOUR)
    assert set(streamed) <= set(backfilled)
    assert all(backfilled[key] == value for key, value in streamed.items())


def _make(conn: psycopg.Connection, computation: Computation) -> None:
    conn.execute(TABLE)
    ensure_log_tables(conn, [computation])
    follow_sources(conn, [computation])


def _log(conn: psycopg.Connection, computation: Computation, since: datetime) -> list[Any]:
    names = ", ".join(feature.name for feature in computation.features)
    return conn.execute(
        f"SELECT user_id, event_timestamp, {names} FROM {computation.log_table} "
        "WHERE event_timestamp >= %s",
        [since],
    ).fetchall()


def _latest(log: list[Any], start: datetime, end: datetime) -> dict[Any, Any]:
    return {
        (user, at): bits(tuple(map(_plain, values)))
        for user, at, *values in log
        if start < at <= end
    }


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

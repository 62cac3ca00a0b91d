"""From the logs to Redis: only what is new, harmless when repeated, whole after a loss."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from feast import FeatureStore

from extensions.asof import Computation
from extensions.asof.tick import tick
from extensions.asof.watermarks import read_watermark
from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.stores import log_publishing as publishing
from extensions.stores import rebuild as rebuilding
from extensions.stores.log_publishing import publish
from extensions.stores.rebuild import rebuild_online
from tests.online.repository import applied, watch

NOW = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(scope="module")
def redis_url(redis_server: str) -> str:
    return redis_server.rpartition("/")[0] + "/9"


@pytest.fixture(scope="module")
def feast_store(database: str, redis_url: str, repo_root: Path) -> Iterator[FeatureStore]:
    with applied(database, redis_url, repo_root) as store:
        watch(database, users=20, items=10, events=300, at=NOW)
        yield store


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def flushed(redis_url: str) -> redis.Redis:
    client = redis.Redis.from_url(redis_url)
    client.flushdb()
    return client


def online(store: FeatureStore, computation: Computation, rows: list[dict[str, Any]]) -> Any:
    refs = [f"{computation.view}:{f.name}" for f in computation.features]
    return store.get_online_features(refs, rows).to_dict()


def logged(conn: psycopg.Connection, computation: Computation) -> dict[Any, Any]:
    keys = ", ".join(computation.join_keys)
    names = ", ".join(f.name for f in computation.features)
    rows = conn.execute(
        f"SELECT DISTINCT ON ({keys}) {keys}, {names} FROM {computation.log_table} "
        f"ORDER BY {keys}, event_timestamp DESC, created_timestamp DESC"
    ).fetchall()
    n = len(computation.join_keys)
    return {row[:n]: row[n:] for row in rows}


def assert_online_is_the_log(
    store: FeatureStore, conn: psycopg.Connection, computation: Computation
) -> None:
    expected = logged(conn, computation)
    assert expected
    rows = [dict(zip(computation.join_keys, key, strict=True)) for key in expected]
    found = online(store, computation, rows)
    for feature in range(len(computation.features)):
        name = computation.features[feature].name
        values = [values[feature] for values in expected.values()]
        if isinstance(values[0], float):
            assert found[name] == pytest.approx(values, rel=1e-6)
        elif isinstance(values[0], list):
            assert found[name] == [pytest.approx(one, rel=1e-6) for one in values]
        else:
            assert found[name] == values


def test_publish_writes_what_is_new(feast_store, conn, computations, flushed) -> None:
    for computation in computations.values():
        assert publish(feast_store, conn, computation) == 0  # nothing has been computed yet
        first = tick(conn, computation, NOW - timedelta(minutes=30))
        assert publish(feast_store, conn, computation) == first.rows
        assert_online_is_the_log(feast_store, conn, computation)
        second = tick(conn, computation, NOW)
        assert publish(feast_store, conn, computation) == second.rows
        assert_online_is_the_log(feast_store, conn, computation)
        mark = read_watermark(conn, computation)
        assert mark is not None
        assert mark.published_through == mark.processed_through == NOW
        assert publish(feast_store, conn, computation) == 0


def test_a_crash_before_the_watermark_is_harmless(
    feast_store, conn, computations, flushed, monkeypatch
) -> None:
    computation = computations["user_watch_stats.v1"]
    rebuild_online(feast_store, "user_watch_stats")
    at = tick(conn, computation, NOW + timedelta(minutes=20))
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "advance_published", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            publish(feast_store, conn, computation)
    assert publish(feast_store, conn, computation) == at.rows  # equal rows are written again
    assert_online_is_the_log(feast_store, conn, computation)


def test_rebuild_refills_an_empty_redis(feast_store, conn, computations, flushed) -> None:
    steps: list[tuple[str, int]] = []
    done = rebuild_online(feast_store, progress=lambda *step: steps.append(step))
    assert [f"{one.view}.v{one.version}" for one in done] == list(computations)
    for one, computation in zip(done, computations.values(), strict=True):
        assert one.entities == one.written == len(logged(conn, computation))
        assert_online_is_the_log(feast_store, conn, computation)
    assert ("user_habits.v1", 20) in steps
    again = rebuild_online(feast_store, "user_habits.v1")
    assert [one.resumed for one in again] == [False]
    assert not flushed.keys("*!rebuild*")


@pytest.mark.parametrize("name", ["user_item_progress.v1", "user_habits.v1"])
def test_rebuild_goes_on_where_it_was_cut(
    feast_store, conn, computations, flushed, monkeypatch, name
) -> None:
    computation, real, calls = computations[name], rebuilding._step, []

    def cut(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(rebuilding, "ENTITIES_PER_STEP", 7)
    with monkeypatch.context() as patch:
        patch.setattr(rebuilding, "_step", cut)
        with pytest.raises(KeyboardInterrupt):
            rebuild_online(feast_store, computation.view)
    [rest] = rebuild_online(feast_store, computation.view)
    expected = len(logged(conn, computation))
    assert (rest.resumed, rest.entities, rest.written) == (True, expected, expected - 14)
    assert_online_is_the_log(feast_store, conn, computation)


def test_an_unknown_view(feast_store) -> None:
    with pytest.raises(SkewlessError, match="choose among item_profile"):
        rebuild_online(feast_store, "nothing")


def test_missing_entities_have_the_declared_defaults(feast_store, flushed, computations) -> None:
    for computation in computations.values():
        found = online(feast_store, computation, [dict.fromkeys(computation.join_keys, 12345)])
        for feature in computation.features:
            assert found[feature.name] == [feature.default]

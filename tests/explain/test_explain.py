"""One entity explained: equal values and their events, what differs and why, and the record."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pandas as pd
import psycopg
import pytest
import redis
from adbc_driver_postgresql import dbapi
from feast import FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Float32, Int64

from extensions.asof import Computation
from extensions.asof.engine import compute
from extensions.asof.spine import Spine
from extensions.consistency.online_rows import OnlineReader
from extensions.database import connect_arrow
from extensions.errors import ConfigurationError, InputError
from extensions.exit_codes import NOT_CHECKED, OK, WRONG
from extensions.explain import Explanation, Limits, explain
from extensions.explain.contributions import Contributions, LeaveOneOut
from extensions.explain.events import read_events
from extensions.explain.report import NOW, ONLINE, OWN
from extensions.explain.source_rows import source_rows
from extensions.history.declared_tables import declared_sources
from tests.consistency.conftest import World
from tests.consistency.test_comparison import insert
from tests.platforms.explanations import assert_explained, explained
from tests.platforms.media import PLATFORM
from tests.platforms.truth import Truth

DAY = timedelta(days=1)


def of(world: World, name: str, *keys: str, at: datetime | None = None) -> Explanation:
    return explain(world.store, name, keys, "a test", at, Limits(events=200))


def causes(found: Explanation) -> dict[str, str | None]:
    return {each.what: each.cause for each in found.comparisons}


def arrive(conn: psycopg.Connection, user: int, at: datetime, known: datetime) -> None:
    conn.execute(
        "INSERT INTO watch_events "
        "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
        "VALUES ('late', %s, 1, %s, %s, 60000, 0.5)",
        [user, at, known],
    )


def test_random_entities_and_times_are_the_oracles(world: World) -> None:
    sources = declared_sources(world.url, world.store.repo_path)
    now, rng = datetime.now(UTC), Random(5)
    arrive(world.conn, 5, now - DAY, now - timedelta(minutes=2))
    truth = Truth.of(PLATFORM, world.conn, sources)
    for computation in world.computations.values():
        entities = truth.entities(computation.join_keys)
        for keys in rng.sample(entities, 4):
            at = now - rng.random() * 3 * DAY
            assert_explained(truth, computation, explained(world.store, computation, keys, at))
        stranger = tuple(10**9 for _ in computation.join_keys)
        found = explained(world.store, computation, stranger, None)
        assert_explained(truth, computation, found)
        assert found.equal


def test_a_count_is_the_sum_of_its_events(world: World) -> None:
    found = of(world, "user_watch_stats", "5")
    assert found.equal
    assert found.exit_code == OK
    assert causes(found) == {OWN: None, NOW: None, ONLINE: None}
    assert found.served is not None
    assert found.logged is not None
    assert found.served.status == "PRESENT"
    told = found.to_json()
    assert told["served"]["values"] == told["logged"]["values"] == found.recomputed
    [events] = found.sources
    assert found.recomputed == {"user_watch_count_7d": len(events.events)}
    assert {each.effects["user_watch_count_7d"].difference for each in events.events} == {1}
    assert found.additive == {"user_watch_count_7d": True}


def test_a_late_event_counts_from_its_arrival_on(world: World) -> None:
    now = datetime.now(UTC)
    known = now - timedelta(seconds=1)
    arrive(world.conn, 950, now - DAY, known)
    world.refresh()
    before = of(world, "user_watch_stats", "950", at=known - timedelta(microseconds=1))
    assert (before.recomputed, before.sources[0].known) == ({"user_watch_count_7d": 0}, 0)
    after = of(world, "user_watch_stats", "950", at=known)
    [event] = after.sources[0].events
    assert (event.time, event.arrival, event.entered) == (now - DAY, known, known)
    assert event.leaves == now + 6 * DAY
    assert after.recomputed == {"user_watch_count_7d": 1}


def test_what_entered_and_left_since_the_row_before(world: World) -> None:
    now = datetime.now(UTC)
    for name, at in (("a", 10.5), ("b", 9.5), ("c", 4)):
        insert(world.conn, name, 951, now - at * DAY)
    for logged, value in ((now - 7.5 * DAY, 2), (now - 2 * DAY, 1)):
        world.conn.execute(
            "INSERT INTO user_watch_stats_v1 "
            "(user_id, event_timestamp, created_timestamp, user_watch_count_7d) "
            "VALUES (951, %s, %s, %s)",
            [logged, logged, value],
        )
    found = of(world, "user_watch_stats", "951", at=now - 2 * DAY)
    [events] = found.sources
    assert [(each.time, each.new) for each in events.events] == [(now - 4 * DAY, True)]
    assert (events.known, events.entered, events.left) == (1, 1, 2)
    assert [each.time for each in events.departed] == [now - 9.5 * DAY, now - 10.5 * DAY]
    assert found.before[0].as_of == now - 7.5 * DAY


def test_a_changed_row_of_the_log_is_a_bug(world: World) -> None:
    world.conn.execute("UPDATE user_habits_v1 SET user_preferred_hour = 3 WHERE user_id = 5")
    found = of(world, "user_habits", "5")
    told = causes(found)
    assert (told[OWN], told[NOW], told[ONLINE]) == ("bug", "bug", "bug")
    assert all(each.differing == ("user_preferred_hour",) for each in found.comparisons)
    assert not found.equal
    assert found.exit_code == WRONG


def test_history_that_the_log_lacks_is_named(world: World) -> None:
    now = datetime.now(UTC)
    insert(world.conn, "of a new user", 900, now - DAY)
    insert(world.conn, "of a known user", 1, now - DAY)
    assert causes(of(world, "user_watch_stats", "900"))[NOW] == "not computed"
    known = causes(of(world, "user_watch_stats", "1"))
    assert (known[OWN], known[NOW]) == ("claimed arrival", "claimed arrival")


def test_a_time_that_no_log_covers_is_a_gap(world: World) -> None:
    insert(world.conn, "long ago", 5, datetime.now(UTC) - 50 * DAY)
    found = of(world, "user_watch_stats", "5", at=datetime.now(UTC) - 49 * DAY)
    assert causes(found)[NOW] == "log gap"
    assert found.logged is None


def test_an_emptied_redis_and_one_that_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.redis.flushdb()
    found = of(world, "user_watch_stats", "5")
    assert found.served is not None
    assert found.served.status == "NOT_FOUND"
    assert causes(found)[ONLINE] == "online behind the log"
    assert found.exit_code == WRONG

    def away(*_: object) -> None:
        raise redis.exceptions.ConnectionError("Connection refused.")

    monkeypatch.setattr(OnlineReader, "read", away)
    found = of(world, "user_watch_stats", "5")
    assert found.served is None
    assert found.exit_code == NOT_CHECKED
    assert causes(found) == {OWN: None, NOW: None}
    assert any("Redis does not answer" in note for note in found.notes)


def test_a_retired_version_is_explained_as_of_then(world: World) -> None:
    world.conn.execute(
        "UPDATE view_versions SET state = 'retired', state_since = clock_timestamp() "
        "WHERE view_name = 'user_habits'"
    )
    with pytest.raises(InputError, match=r"user_habits\.v1"):
        of(world, "user_habits", "5")
    found = of(world, "user_habits.v1", "5")
    assert found.state == "retired"
    assert found.served is None
    assert found.recomputed == found.to_json()["logged"]["values"]
    assert any("was retired" in note for note in found.notes)


def test_a_view_without_a_computation(world: World) -> None:
    world.conn.execute(
        "CREATE TABLE bought (user_id bigint, price real, at timestamptz, known timestamptz)"
    )
    at = datetime.now(UTC) - DAY
    view = FeatureView(
        name="bought",
        entities=[world.store.get_entity("user")],
        ttl=timedelta(0),
        schema=[Field(name="user_id", dtype=Int64), Field(name="price", dtype=Float32)],
        source=PostgreSQLSource(
            name="bought", table="bought", timestamp_field="at", created_timestamp_column="known"
        ),
    )
    world.store.apply([view], skip_feature_view_validation=True)
    world.conn.execute("INSERT INTO bought VALUES (5, 0.1, %s, %s)", [at, at])
    behind = of(world, "bought", "5")
    assert causes(behind) == {ONLINE: "lag"}
    world.store.write_to_online_store(
        "bought",
        pd.DataFrame({"user_id": [5], "price": [0.1], "at": [at], "known": [at]}).astype(
            {"price": "float32"}
        ),
    )
    found = of(world, "bought", "5")
    assert causes(found) == {ONLINE: None}
    assert found.recomputed is None
    assert found.sources == ()
    told = found.to_json()
    assert told["served"]["values"] == told["logged"]["values"]
    assert any("no computation" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("nothing", ["1"], "There is no view nothing"),
        ("user_watch_stat", ["1"], "Did you mean user_watch_stats"),
        ("user_watch_stats.v9", ["1"], "v9 was never published"),
        ("user_watch_stats", ["1", "2"], "user_id: give a value for each"),
        ("user_item_progress", ["1"], "user_id, item_id"),
        ("user_watch_stats", ["<script>"], "a whole number"),
        ("user_watch_stats", ["007"], "a whole number"),
        ("user_watch_stats", [str(2**63)], "a whole number"),
        ("ranking_signals", ["1"], "is a transform"),
    ],
)
def test_what_cannot_be_explained_is_refused_and_not_repeated(
    world: World, name: str, keys: list[str], told: str
) -> None:
    with pytest.raises(InputError, match=told) as refused:
        of(world, name, *keys)
    assert "<script>" not in str(refused.value)
    assert looks(world) == []


def test_a_time_ahead_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="ahead"):
        of(world, "user_watch_stats", "5", at=datetime.now(UTC) + DAY)


def looks(world: World) -> list[tuple[Any, ...]]:
    return world.conn.execute(
        "SELECT looked_by, view_name, version, key_hash, as_of FROM entity_looks ORDER BY id"
    ).fetchall()


def test_each_look_is_recorded_without_the_key(world: World) -> None:
    at = datetime.now(UTC) - DAY
    of(world, "user_watch_stats", "5", at=at)
    of(world, "user_habits.v1", "5")
    of(world, "user_habits.v1", "6")
    of(world, "user_item_progress", "5", "6")
    found = looks(world)
    assert [row[:3] for row in found] == [
        ("a test", "user_watch_stats", 1), ("a test", "user_habits", 1),
        ("a test", "user_habits", 1), ("a test", "user_item_progress", 1),
    ]  # fmt: skip
    assert [row[4] for row in found] == [at, None, None, None]
    hashes = [row[3] for row in found]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    [wanted] = world.conn.execute('SELECT entity_look_hash(\'{"user_id": "5"}\')').fetchall()
    assert wanted == (hashes[0],)
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        world.conn.execute("DELETE FROM entity_looks")


def test_whoever_may_look_cannot_read_the_record(world: World) -> None:
    """By the rights of a role that everybody has, and that owns nothing."""
    look = "record_entity_look(text, text, integer, jsonb, timestamptz)"
    [rights] = world.conn.execute(
        "SELECT has_function_privilege('pg_monitor', %s, 'EXECUTE'), "
        "has_table_privilege('pg_monitor', 'entity_looks', 'SELECT, INSERT, UPDATE, DELETE'), "
        "has_table_privilege('pg_monitor', 'entity_look_secret', 'SELECT, UPDATE, DELETE'), "
        "(SELECT prosecdef FROM pg_proc WHERE oid = %s::regprocedure), "
        "(SELECT prosecdef FROM pg_proc WHERE proname = 'entity_look_hash')",
        [look, look],
    ).fetchall()
    assert rights == (True, False, False, True, False)


def test_without_the_record_nobody_looks(world: World) -> None:
    world.conn.execute("DROP FUNCTION record_entity_look")
    with pytest.raises(ConfigurationError, match="skewless migrate"):
        of(world, "user_watch_stats", "5")


def test_nothing_else_is_written(world: World) -> None:
    def sizes() -> list[tuple[Any, ...]]:
        return [
            world.conn.execute(f"SELECT count(*), max(xmin::text::bigint) FROM {table}").fetchall()[
                0
            ]  # type: ignore[arg-type]
            for table in ("watch_events", "items", "user_preferences_v1", "watermarks")
        ]

    before, keys = sizes(), {key: world.redis.dump(key) for key in world.redis.scan_iter()}
    of(world, "user_preferences", "5")
    assert sizes() == before
    assert {key: world.redis.dump(key) for key in world.redis.scan_iter()} == keys


def test_json_is_plain(world: World) -> None:
    told = json.loads(json.dumps(of(world, "user_preferences", "5").to_json(), allow_nan=False))
    assert told["equal"] is True
    assert told["entity"] == {"user_id": 5}
    assert {each["how"] for each in told["sources"]} == {"own", "through", "whole"}
    assert told["sources"][0]["events"][0]["effects"]["user_genre_preferences"]["changed"]
    assert datetime.fromisoformat(told["as_of"]).tzinfo is not None


@pytest.fixture
def arrow(world: World) -> Iterator[dbapi.Connection]:
    with connect_arrow(world.url) as conn:
        yield conn


def left_out(
    arrow: dbapi.Connection, counts: Computation, text: str, seconds: float = 60.0
) -> Contributions:
    computation = replace(counts, sql=text)
    at, key = datetime.now(UTC), (5,)
    value = compute(arrow, computation, Spine.of([(*key, at)], computation))
    rows = source_rows(computation, {"user_id": 5})
    sources = [read_events(arrow, each, at, None, 200) for each in rows]
    work = LeaveOneOut(arrow, computation, key, at, rows, time.monotonic() + seconds)
    return work.run(value.select(["user_watch_count_7d"]), sources)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("FROM watch_events", "FROM public.watch_events", "does not give the declared defaults"),
        ("e.user_id = s.user_id", "TRUE", "Over the entity's rows alone"),
    ],
)
def test_a_text_that_cannot_be_asked_so_is_said_to(
    arrow: dbapi.Connection, counts: Computation, old: str, new: str, told: str
) -> None:
    found = left_out(arrow, counts, counts.sql.replace(old, new))
    assert told in " ".join(found.notes)
    assert found.additive == {"user_watch_count_7d": None}
    assert not any(event.effects for event in found.sources[0].events)


def test_time_that_is_over_leaves_events(arrow: dbapi.Connection, counts: Computation) -> None:
    found = left_out(arrow, counts, counts.sql, seconds=0)
    assert "did not suffice" in " ".join(found.notes)
    assert found.additive == {"user_watch_count_7d": None}
    assert left_out(arrow, counts, counts.sql).additive == {"user_watch_count_7d": True}

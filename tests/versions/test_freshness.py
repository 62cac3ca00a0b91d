"""All live versions are kept fresh, each at the cost of its own computation, by tick and stream."""

import json
import time
import uuid
from datetime import UTC, datetime

import pytest
from kafka import KafkaProducer

from extensions.asof import Computation, Spine, compute
from extensions.database import connect_arrow
from extensions.operations.refresh import Refresher
from extensions.versions import retirement
from extensions.versions.promotion import promote, rollback
from extensions.versions.retirement import retire
from streaming.processing import realtime_views
from streaming.processing.realtime_views import LiveViews
from streaming.settings import Settings
from tests.streaming.fleet import Fleet, wait_until
from tests.versions.conftest import World
from tests.versions.repositories import REPO_ROOT

COUNT = "user_watch_count_7d"


def watch(world: World, user: int, seconds: float = 600.0) -> None:
    world.conn.execute(
        "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, ingested_at, "
        "duration_ms, progress) VALUES (%s, %s, 7, now(), now(), %s, 0.5)",
        [uuid.uuid4().hex, user, int(seconds * 1000)],
    )


def served(world: World, version: int | None = None, user: int = 1) -> int:
    view = "user_watch_stats" if version is None else f"user_watch_stats@v{version}"
    value = world.online(f"{view}:{COUNT}", user_id=user)[COUNT]
    assert isinstance(value, int)
    return value


def test_a_rolled_back_view_serves_what_it_would_have_had_it_never_been_replaced(
    world: World, computations: dict[str, Computation]
) -> None:
    world.repository.second_version("user_watch_stats")
    world.repository.second_version("item_stats")
    world.apply()
    promote(world.conn, "skewless", "user_watch_stats", 2)
    promote(world.conn, "skewless", "item_stats", 2)
    for user in (1, 2, 404):
        watch(world, user)
    watch(world, 1, seconds=5)
    world.refresh()
    rollback(world.conn, "skewless", "user_watch_stats")
    rollback(world.conn, "skewless", "item_stats")
    # The computation of the files that were never edited, asked as of the last tick.
    for view, key, feature, ids in (
        ("user_watch_stats", "user_id", COUNT, [1, 2, 3, 8, 404]),
        ("item_stats", "item_id", "item_popularity_score", [1, 7, 24]),
    ):
        [(at,)] = world.conn.execute(
            "SELECT processed_through FROM watermarks WHERE view_name = %s AND version = 1", [view]
        ).fetchall()
        computation = computations[f"{view}.v1"]
        with connect_arrow(world.database) as arrow:
            table = compute(arrow, computation, Spine.of([(i, at) for i in ids], computation))
        expected = {row[key]: row[feature] for row in table.to_pylist()}
        for i in ids:
            assert world.online(f"{view}:{feature}", **{key: i})[feature] == expected[i]
    assert served(world, user=404) == 1


def test_a_tick_computes_every_live_version_as_it_was_published(world: World) -> None:
    world.repository.second_version("user_watch_stats")
    world.apply()
    before = {version: served(world, version) for version in (1, 2)}
    watch(world, 1, seconds=5)
    watch(world, 1)
    with Refresher.open(online=True) as refresher:
        done = refresher.refresh(refresher.choose("user_watch_stats"), None)
    # Two versions, one entity each: no version pays for another one.
    assert [(one.version, one.logged) for one in done] == [(1, 1), (2, 1)]
    assert served(world, 1) == before[1] + 2
    assert served(world, 2) == before[2] + 1


def test_a_running_worker_notices_what_is_published_and_what_is_retired(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(realtime_views, "LOOK_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(retirement, "NOTICED_AFTER_SECONDS", 0.0)
    live = LiveViews(Settings(postgres_url=world.database, kafka_bootstrap=""), world.store(), {})
    first = {"user_item_progress.v1", "user_watch_stats.v1"}
    assert {view.computation.name for view in live} == first
    world.repository.second_version("user_watch_stats")
    world.apply()
    time.sleep(0.15)
    assert {view.computation.name for view in live} == first | {"user_watch_stats.v2"}
    promote(world.conn, "skewless", "user_watch_stats", 2)
    retire(world.store(), world.conn, "user_watch_stats", 1)
    time.sleep(0.15)
    assert {view.computation.name for view in live} == {
        "user_item_progress.v1", "user_watch_stats.v2"
    }  # fmt: skip


@pytest.fixture
def stream(world: World, kafka_server: str) -> Settings:
    name = f"versions-{uuid.uuid4().hex[:8]}"
    return Settings(
        postgres_url=world.database, kafka_bootstrap=kafka_server, topic=name, group=name,
        repo_root=REPO_ROOT, session_timeout=1.0, sweep_every=0.5, idle_every=0.3,
    )  # fmt: skip


def test_the_stream_computes_a_version_that_was_published_while_it_ran(
    world: World, stream: Settings
) -> None:
    with Fleet(stream) as fleet:
        fleet.start()
        producer = KafkaProducer(bootstrap_servers=stream.kafka_bootstrap)

        def produce(seconds: float) -> None:
            event = {
                "eventId": uuid.uuid4().hex, "userId": 3, "itemId": 7, "progress": 0.5,
                "watchDurationMin": seconds / 60, "watchedAt": datetime.now(UTC).isoformat(),
            }  # fmt: skip
            producer.send(stream.topic, key=b"3", value=json.dumps(event).encode()).get(30)

        before = served(world, 1, user=3)
        produce(600)
        wait_until(lambda: served(world, 1, user=3) == before + 1, 60, "the first event")
        world.repository.second_version("user_watch_stats")
        world.apply()
        second = served(world, 2, user=3)
        time.sleep(1.5)
        produce(5)
        produce(600)
        wait_until(lambda: served(world, 1, user=3) == before + 3, 30, "the old version")
        wait_until(lambda: served(world, 2, user=3) == second + 1, 30, "the new version")
        producer.close()

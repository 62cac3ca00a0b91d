"""The worker from end to end, on real servers, when nothing or one thing fails."""

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
import redis
from kafka import KafkaProducer

from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.history.simulate import simulate
from extensions.stores.rebuild import rebuild_online
from feature_repo.simulator import Simulation
from streaming.kafka import dead_letters
from streaming.kafka.event_replay import replay
from streaming.settings import Settings
from streaming.stream_status import status
from tests.asof.loading import media_sources
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.test_decode import mutated
from tests.streaming.truth import Stream

Value = bytes | None


def event(user: int, item: int = 1, **fields: object) -> bytes:
    return orjson.dumps(
        {"userId": user, "itemId": item, "watchDurationMin": 3, "progress": 0.5} | fields
    )


def send(settings: Settings, values: list[Value]) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap, linger_ms=2)
    futures = [
        producer.send(settings.topic, key=b"%d" % number, value=value)
        for number, value in enumerate(values)
    ]
    for future in futures:
        future.get(timeout=20)
    producer.close()


@pytest.fixture
def stream(settings: Settings) -> Stream:
    return Stream(settings)


@pytest.fixture
def count(stream: Stream) -> Callable[[int], int]:
    """A user's count as Redis has it."""
    [view] = [v for v in stream.views if v.computation.view == "user_watch_stats"]
    return lambda user: int(stream.online(view, [(user,)])[(user,)][1])


def test_events_become_features_and_bad_ones_letters(
    settings: Settings, fleet: Fleet, stream: Stream, count: Callable[[int], int]
) -> None:
    worker = fleet.start()
    wait_until(stream.at_rest, 30, "a worker has every partition")
    now = datetime.now(UTC)
    leaves = (now - timedelta(days=7) + timedelta(seconds=5)).isoformat()
    send(
        settings,
        [
            event(1, eventId="a"),
            event(1, eventId="a"),
            event(1),
            event(2, progress=0.75, eventId="b"),
            event(2, watchedAt=leaves),
            event(3, watchedAt=(now + timedelta(seconds=4)).isoformat()),
            b"{",
            None,
            event(1, progress=7),
        ],
    )
    wait_until(lambda: count(1) == 2 and count(2) == 2, 20, "counts follow their events")
    assert count(3) == 0
    letters = dead_letters.list_(settings)
    assert sorted(letter.reason for letter in letters) == ["not-json", "out-of-range", "tombstone"]
    [bad] = dead_letters.list_(settings, reason="out-of-range")
    assert dead_letters.show(settings, bad.position).value == event(1, progress=7)
    with pytest.raises(SkewlessError, match="no dead letter"):
        dead_letters.show(settings, "nowhere/0/0")

    # Time alone: an event leaves user 2's week, and user 3's moment comes.
    wait_until(lambda: count(2) == 1 and count(3) == 1, 15, "the sweep sees to the rest")

    assert dead_letters.replay(settings, position=bad.position) == 1
    wait_until(lambda: len(dead_letters.list_(settings)) == 4, 20, "still bad: another letter")

    def counted() -> tuple[int, int, int]:
        [row] = status(settings).workers
        assert row.freshness_p50_ms is not None
        return row.events, row.duplicates, row.dead_letters

    wait_until(lambda: counted() == (5, 1, 4), 10, "the worker says what it did")
    assert fleet.stop(worker) == 0
    assert status(settings).workers == []
    stream.assert_logged()


def test_what_comes_while_no_worker_runs_is_not_lost(
    settings: Settings, fleet: Fleet, stream: Stream, count: Callable[[int], int], tmp_path: Path
) -> None:
    recorded = tmp_path / "events.jsonl"
    recorded.write_bytes(b"\n".join(event(5, eventId=f"r{i}") for i in range(300)))
    assert replay(settings, recorded, rate=2_000).messages == 300
    first = fleet.start()
    wait_until(lambda: count(5) == 300, 30, "the backlog is read from its beginning")
    assert fleet.stop(first) == 0
    send(settings, [event(5) for _ in range(10)])
    fleet.start()
    wait_until(lambda: count(5) == 310, 30, "and so is what came meanwhile")

    # A replay of stored events stores nothing and publishes their users anew.
    redis.Redis.from_url(os.environ["SKEWLESS_REDIS_URL"]).flushall()
    replay(settings, datetime.now(UTC) - timedelta(minutes=5))
    wait_until(lambda: count(5) == 310, 30, "values are published")
    assert stream.stored() == 310


def test_an_emptied_redis_fills_again(
    settings: Settings, fleet: Fleet, stream: Stream, count: Callable[[int], int]
) -> None:
    fleet.start()
    wait_until(stream.at_rest, 40, "a worker has every partition")
    send(settings, [event(1), event(1), event(2), event(3)])
    wait_until(lambda: [count(u) for u in (1, 2, 3)] == [2, 1, 1], 40, "the worker reads")
    wait_until(stream.at_rest, 30, "at rest")
    redis.Redis.from_url(os.environ["SKEWLESS_REDIS_URL"]).flushall()
    send(settings, [event(1)])
    wait_until(lambda: count(1) == 3, 20, "who is touched comes back by itself")
    assert [count(2), count(3)] == [0, 0]
    rebuild_online(stream.store, "user_watch_stats")
    assert [count(u) for u in (1, 2, 3)] == [3, 1, 1]


def test_windows_move_by_time_alone_within_five_seconds(
    settings: Settings, fleet: Fleet, stream: Stream, count: Callable[[int], int]
) -> None:
    fleet.start(sweep_every=Settings.sweep_every, idle_every=Settings.idle_every)
    wait_until(stream.at_rest, 40, "a worker has every partition")
    comes = datetime.now(UTC) + timedelta(seconds=4)
    leaves = comes - timedelta(days=7)
    send(settings, [event(1), event(1, watchedAt=leaves.isoformat())])
    send(settings, [event(2, watchedAt=comes.isoformat())])
    wait_until(lambda: count(1) == 2 and count(2) == 0, 4, "an event leaves, another is to come")
    left = (comes - datetime.now(UTC)).total_seconds() + 5
    wait_until(lambda: count(1) == 1 and count(2) == 1, left, "the sweep is in time")
    assert datetime.now(UTC) >= comes


def test_an_import_beside_the_stream_is_swept_up(
    settings: Settings, fleet: Fleet, stream: Stream, count: Callable[[int], int]
) -> None:
    with connect(settings.postgres_url) as conn:
        conn.execute(
            "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, duration_ms, "
            "progress) VALUES ('old', 8, 1, now() - interval '1 day', 1, 0.5)"
        )
    fleet.start()
    wait_until(lambda: count(8) == 1, 30, "the first sweep computes all active entities")
    with connect(settings.postgres_url) as conn:
        conn.execute(
            "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, duration_ms, "
            "progress) VALUES ('new', 8, 1, now() - interval '1 hour', 1, 0.5)"
        )
    wait_until(lambda: count(8) == 2, 15, "later ones too")


def test_history_that_claims_to_be_old_is_served_beside_a_running_stream(
    settings: Settings, fleet: Fleet, stream: Stream, count: Callable[[int], int]
) -> None:
    fleet.start()
    wait_until(stream.at_rest, 30, "a worker has every partition")
    send(settings, [event(8, eventId="live")])
    wait_until(lambda: count(8) == 1, 20, "the stream computes")
    history = Simulation(users=40, items=5, days=10, events=400, seed=3)
    simulate(settings.postgres_url, history, media_sources(settings.postgres_url))
    with connect(settings.postgres_url) as conn:
        counts = dict(
            conn.execute(
                "SELECT user_id, count(*) FROM watch_events "
                "WHERE watched_at > now() - interval '7 days' GROUP BY 1"
            ).fetchall()
        )
    assert len(counts) > 20
    wait_until(
        lambda: all(count(user) == events for user, events in counts.items()),
        20,
        "every loaded user is served",
    )
    with connect(settings.postgres_url) as conn:
        conn.execute("DELETE FROM watch_events WHERE user_id = 8")
    wait_until(lambda: count(8) == 0, 20, "what was taken away is not served")
    stream.assert_served()


@pytest.mark.timeout(300)
def test_a_hundred_thousand_mutated_messages_are_all_accounted_for(
    settings: Settings, fleet: Fleet, stream: Stream, count: Callable[[int], int]
) -> None:
    rng = random.Random(7)
    good = event(6, eventId="g")
    fleet.start()
    wait_until(stream.at_rest, 30, "a worker has every partition")
    values = [mutated(rng, good) for _ in range(100_000)]
    send(settings, [*values, event(9, eventId="after")])
    wait_until(lambda: count(9) == 1, 120, "good messages come through")
    wait_until(stream.at_rest, 60, "all is read")
    [worker] = status(settings).workers

    def accounted() -> int:
        [row] = status(settings).workers
        return row.events + row.duplicates + row.dead_letters

    wait_until(lambda: accounted() == len(values) + 1, 10, "stored, a duplicate, or a letter")
    letters = dead_letters.list_(settings)
    assert len(letters) == status(settings).workers[0].dead_letters > 50_000
    # Each is kept as it came.
    assert {letter.value for letter in letters} <= set(values)
    assert stream.stored() == status(settings).workers[0].events
    assert worker.retries == 0

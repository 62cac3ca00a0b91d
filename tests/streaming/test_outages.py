"""Servers that go away under load and come back; `make test-crash` has the minute-long form."""

import time
from datetime import timedelta
from pathlib import Path

import pytest

from streaming.kafka.subscription import Placed, Subscription
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from streaming.stream_status import status
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.load import Producer
from tests.streaming.outages import Killed, connections_cut, under_load
from tests.streaming.test_worker import event, send
from tests.streaming.truth import Reader, Stream

AWAY = 4.0


def test_postgres_away_and_back(settings: Settings, postgres_server: str) -> None:
    cut = [connections_cut(postgres_server, settings.postgres_url) for _ in range(2)]
    under_load(settings, [*cut], AWAY / 2)


def test_redis_away_and_back(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = Killed("redis", tmp_path)
    monkeypatch.setenv("SKEWLESS_REDIS_URL", redis.server.url)
    stream = Stream(settings)
    try:
        with Fleet(settings) as fleet:
            worker = fleet.start()
            wait_until(stream.at_rest, 30, "a worker has every partition")
            producer, reader = Producer(settings, seed=4), Reader(stream)
            producer.start()
            time.sleep(1)
            with redis.away():
                behind = time.monotonic()
                time.sleep(AWAY)
                [view, *_] = status(settings).views
                # The watermark stands still: what it covers is readable, always.
                assert view.behind_seconds > 0.5 * (time.monotonic() - behind)
            reader.start()
            load = producer.stop()
            wait_until(stream.at_rest, 40, "at rest")
            time.sleep(4)
            wait_until(stream.at_rest, 20, "at rest")
            assert worker.is_alive()
            stream.assert_served()
            reader.stop()
        stream.assert_events(load)
        stream.assert_logged()
    finally:
        redis.server.stop()


def test_while_a_server_is_away_the_partitions_are_paused(settings: Settings) -> None:
    """Nothing is fetched into memory, and the member stays in its group."""
    ensure_topics(settings)
    subscription = Subscription(settings)
    try:
        # The embedded broker lets a member that polls this briefly join again and again.
        wait_until(lambda: _assigned(subscription), 150, "assigned")
        partitions = subscription.unplaced()
        assert set(subscription.consumer.paused()) == set(partitions)
        send(settings, [event(1, eventId=f"{number}") for number in range(30)])
        for partition in partitions:
            subscription.place(partition, Placed(0, 0))
        assert not subscription.consumer.paused()
        got = wait_until(lambda: subscription.poll(0.2, 10).messages, 20, "messages")
        assert sum(map(len, got.values())) <= 10

        subscription.unplace()
        send(settings, [event(1, eventId=f"later-{number}") for number in range(30)])
        until = time.monotonic() + 3 * settings.session_timeout
        positions = {p: subscription.consumer.position(p) for p in partitions}
        while time.monotonic() < until:
            subscription.keep_alive(0.1)
        assert set(subscription.consumer.paused()) == set(partitions)
        assert {p: subscription.consumer.position(p) for p in partitions} == positions
        assert subscription.unplaced() == sorted(partitions)  # still this member's

        for partition in partitions:
            subscription.place(partition, Placed(0, 0))
        seen: dict[int, int] = {}
        wait_until(lambda: _read(subscription, seen) == 60, 20, "all of them, from the beginning")
    finally:
        subscription.close()


def test_an_idle_topics_watermark_moves_on(settings: Settings) -> None:
    stream = Stream(settings)
    with Fleet(settings) as fleet:
        worker = fleet.start()
        wait_until(stream.at_rest, 30, "a worker has every partition")
        first = status(settings)
        time.sleep(2)
        second = status(settings)
        assert fleet.stop(worker) == 0
    for now, then in zip(second.partitions, first.partitions, strict=True):
        assert now.next_offset == then.next_offset == 0
        assert now.processed_through is not None
        assert then.processed_through is not None
        assert now.processed_through - then.processed_through > timedelta(seconds=1)
    for view, before in zip(second.views, first.views, strict=True):
        assert view.processed_through - before.processed_through > timedelta(seconds=1)


def _assigned(subscription: Subscription) -> bool:
    subscription.keep_alive(0.1)
    return bool(subscription.unplaced())


def _read(subscription: Subscription, seen: dict[int, int]) -> int:
    for number, messages in subscription.poll(0.2, 100).messages.items():
        seen[number] = messages[-1].offset + 1
    return sum(seen.values())

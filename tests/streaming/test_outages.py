"""Servers that go away under load and come back: nothing lost, nothing double, values true."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from extensions.local import valkey
from streaming.settings import Settings
from streaming.status import status
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.load import Producer
from tests.streaming.truth import Reader, Stream

AWAY = 4.0


@contextmanager
def database_away(server: str, url: str) -> Iterator[None]:
    """Every connection is cut and none is let in, as when the server restarts."""
    name = url.rpartition("/")[2]
    allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        try:
            yield
        finally:
            conn.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


def test_postgres_away_and_back(settings: Settings, fleet: Fleet, postgres_server: str) -> None:
    stream = Stream(settings)
    worker = fleet.start()
    wait_until(stream.at_rest, 30, "a worker has every partition")
    producer = Producer(settings, seed=3)
    producer.start()
    time.sleep(1)
    for _ in range(2):
        with database_away(postgres_server, settings.postgres_url):
            time.sleep(AWAY / 2)
        time.sleep(1)
    load = producer.stop()
    wait_until(
        lambda: stream.stored() == len(load.events) and stream.at_rest(), 40, "all is stored"
    )
    assert worker.is_alive()
    wait_until(lambda: status(settings).workers[0].retries > 0, 10, "it says that it had to wait")
    stream.assert_events(load)
    stream.assert_dead_letters(load)
    stream.assert_logged()


def test_redis_away_and_back(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = valkey.start(tmp_path)
    monkeypatch.setenv("SKEWLESS_REDIS_URL", server.url)
    stream = Stream(settings)
    try:
        with Fleet(settings) as fleet:
            worker = fleet.start()
            wait_until(stream.at_rest, 30, "a worker has every partition")
            producer, reader = Producer(settings, seed=4), Reader(stream)
            producer.start()
            time.sleep(1)
            server.stop()
            behind = time.monotonic()
            time.sleep(AWAY)
            [view, *_] = status(settings).views
            # The watermark stands still: what it covers is readable, always.
            assert view.behind_seconds > 0.5 * (time.monotonic() - behind)
            server = valkey.start(tmp_path, server.port)
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
        server.stop()

"""Servers away under load: what is taken away, for how long, and what must hold afterwards."""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from extensions.local import apache_kafka, postgres, valkey
from extensions.local.server_process import Server
from streaming.settings import Settings
from streaming.stream_status import status
from tests.databases import cut
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.load import Load, Producer
from tests.streaming.truth import Stream

# What a worker may grow by while it waits: the client's fetch buffers, and what Python keeps.
MOST_MEGABYTES = 200
# Kafka is away last, and its producers wait with their messages.
_PATIENCE = 120.0


@contextmanager
def connections_cut(server: str, url: str) -> Iterator[None]:
    """Every connection is cut and none is let in, as when the server restarts."""
    name = url.rpartition("/")[2]
    allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
        cut(conn, name)
        try:
            yield
        finally:
            conn.execute(allow.format(sql.Identifier(name), sql.SQL("true")))


class Killed:
    """A server that dies without a farewell, and starts again on its data and port."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._start = {"postgres": postgres, "redis": valkey, "kafka": apache_kafka}[kind].start
        self._folder = folder
        self.server: Server = self._start(folder)
        self.revived = 0

    def revive(self) -> None:
        """Start it again where it has died or is about to, as its supervisor does."""
        wait_until(lambda: not self.server.alive or _answers(self.server), 60, "it answers or dies")
        if self.server.alive:
            return
        self.server = self._start(self._folder, self.server.port)
        self.revived += 1

    @contextmanager
    def away(self) -> Iterator[None]:
        """Dead until the block ends."""
        self.server.process.kill()
        self.server.process.wait(20)
        try:
            yield
        finally:
            self.server = self._start(self._folder, self.server.port)


def under_load(
    settings: Settings,
    outages: list[AbstractContextManager[None]],
    seconds: float,
    *,
    rate: float = 150,
) -> Load:
    """One worker and a steady load while servers go away, one after the other, and come back.

    Returns what was produced, once the worker is at rest: nothing of it lost, double or changed,
    every value the oracle's, and the worker the same process, hardly larger than before.
    """
    stream = Stream(settings)
    with Fleet(settings) as fleet:
        worker = fleet.start()
        wait_until(stream.at_rest, 60, "a worker has every partition")
        producer = Producer(settings, seed=3, rate=rate)
        producer.start()
        time.sleep(1)
        before = megabytes(worker.pid)
        for outage in outages:
            with outage:
                time.sleep(seconds)
            time.sleep(1)
        most = peak_megabytes(worker.pid)
        load = producer.stop()
        wait_until(
            lambda: stream.stored() >= len(load.events) and stream.at_rest(),
            _PATIENCE,
            "all is stored",
        )
        # The last events of the near future, and the last that leave the week, have had their time.
        time.sleep(4)
        wait_until(stream.at_rest, 30, "at rest")
        assert worker.is_alive()
        assert most - before < MOST_MEGABYTES
        wait_until(
            lambda: status(settings).workers[0].retries > 0, 10, "it says that it had to wait"
        )
        stream.assert_served()
    stream.assert_events(load)
    stream.assert_dead_letters(load)
    assert stream.assert_logged() > 0
    return load


def _answers(server: Server) -> bool:
    try:
        return server.probe()
    except (OSError, ValueError):
        return False


def megabytes(pid: int | None) -> float:
    return _memory(pid, "VmRSS")


def peak_megabytes(pid: int | None) -> float:
    return _memory(pid, "VmHWM")


def _memory(pid: int | None, name: str) -> float:
    for line in Path(f"/proc/{pid or os.getpid()}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise AssertionError(name)

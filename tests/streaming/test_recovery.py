"""Rows that reached a log and not the online store: whoever takes the partition over writes them.

Whether a row is missing online cannot be seen in the log: the sweep takes an entity that has one
for answered.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from time import sleep
from typing import Any

import psycopg
import pytest
from pyarrow import Table

from extensions.asof import Computation, Spine
from extensions.errors import DefinitionError
from streaming.processing import step
from streaming.processing.offsets import FencedError, Position, read_position
from streaming.processing.online_writer import Publisher
from streaming.processing.realtime_views import LiveView
from streaming.settings import Settings
from tests.streaming.test_step import OneWorker, served, sweep_all, view_of
from tests.streaming.test_worker import event
from tests.streaming.truth import Stream

WEEK = timedelta(days=7)


class DyingPublisher(Publisher):
    """Of a worker that is killed between the log and the online store, while ``dying``."""

    dying = False

    def publish(self, view: LiveView, rows: Table) -> None:
        if self.dying:
            raise psycopg.OperationalError("killed")
        super().publish(view, rows)


@pytest.fixture
def stream(settings: Settings) -> Stream:
    return Stream(settings)


@pytest.fixture
def publisher(stream: Stream) -> DyingPublisher:
    return DyingPublisher(stream.store)


@pytest.fixture
def worker(settings: Settings, stream: Stream, publisher: DyingPublisher) -> Iterator[OneWorker]:
    made = OneWorker(settings, list(stream.views), publisher)
    yield made
    made.conn.close()


@pytest.fixture
def counts(stream: Stream) -> LiveView:
    """The number of a user's events in a week."""
    return view_of(stream, "user_watch_stats")


def killed_step(worker: OneWorker, publisher: DyingPublisher, *messages: bytes) -> Position:
    """A step that has logged its values; returns what it leaves behind."""
    publisher.dying = True
    with pytest.raises(psycopg.OperationalError):
        worker.step(*messages)
    publisher.dying = False
    return position(worker)


def position(worker: OneWorker) -> Position:
    held = read_position(worker.conn, worker.settings, 0)
    assert held is not None
    worker.next_offset = held.next_offset
    return held


def logged_since(worker: OneWorker, view: LiveView, at: datetime) -> int:
    query = f"SELECT FROM {view.computation.log_table} WHERE event_timestamp > %s"
    return worker.conn.execute(query, [at]).rowcount


def leaving_soon(worker: OneWorker, stream: Stream, user: int) -> tuple[bytes, datetime]:
    """An event, counted and online, that leaves the week in a moment, and when."""
    leaves = datetime.now(UTC) + timedelta(seconds=3)
    message = event(user, eventId="twice", watchedAt=(leaves - WEEK).isoformat())
    worker.step(message)
    sweep_all(worker, stream.views)
    assert served(stream, view_of(stream, "user_watch_stats"), user) == 1
    return message, leaves


def wait_until_after(moment: datetime) -> None:
    sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()) + 0.1)


def test_an_event_that_comes_twice_to_a_worker_that_is_killed(
    worker: OneWorker, stream: Stream, publisher: DyingPublisher, counts: LiveView
) -> None:
    """Nothing arrives by it, so nothing is computed again; its logged row is the newest."""
    message, leaves = leaving_soon(worker, stream, 9)
    wait_until_after(leaves)
    held = killed_step(worker, publisher, message)
    assert logged_since(worker, counts, leaves) == 1
    worker.stepper.recover(worker.conn, [held])
    sweep_all(worker, stream.views)
    assert served(stream, counts, 9) == 0


def test_a_view_that_fails_when_a_partition_is_taken_over(
    worker: OneWorker,
    stream: Stream,
    publisher: DyingPublisher,
    counts: LiveView,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is left to the sweep, which finds a row in the log."""
    sweep_all(worker, stream.views)
    held = killed_step(worker, publisher, event(9))

    def failing(
        conn: psycopg.Connection, computation: Computation, spine: Spine, *more: Any
    ) -> Table:
        if computation == counts.computation:
            raise DefinitionError("fails for now")
        return log_values(conn, computation, spine, *more)

    log_values = step.log_values
    monkeypatch.setattr(step, "log_values", failing)
    worker.stepper.recover(worker.conn, [held])
    monkeypatch.undo()
    sweep_all(worker, stream.views)
    assert served(stream, counts, 9) == 1


def test_a_worker_that_lost_its_partition_is_killed_later_than_its_successor_computed(
    worker: OneWorker,
    stream: Stream,
    settings: Settings,
    publisher: DyingPublisher,
    counts: LiveView,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it still logs would be newer than anything that its successor wrote online."""
    message, leaves = leaving_soon(worker, stream, 9)
    successor = OneWorker(settings, list(stream.views), Publisher(stream.store))
    moment_of = worker.stepper._moment

    def late(conn: psycopg.Connection) -> datetime:
        held = read_position(successor.conn, settings, 0)
        assert held is not None
        assert held.pending is not None
        successor.stepper.recover(successor.conn, [held])
        wait_until_after(leaves)
        return moment_of(conn)

    monkeypatch.setattr(worker.stepper, "_moment", late)
    publisher.dying = True
    with pytest.raises((FencedError, psycopg.OperationalError)):
        worker.step(message)
    publisher.dying = False
    sweep_all(successor, stream.views)
    assert served(stream, counts, 9) == 0
    successor.conn.close()

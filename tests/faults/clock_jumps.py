"""Clocks of the worker's machine that jump an hour forwards and back: the database's decides.

libfaketime sets the worker's wall clock while it runs. PostgreSQL's stays: what is known since
when is its to say (see docs/streaming.md for what happens when that one is set back).
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from extensions.addresses import KAFKA_VARIABLE
from streaming.settings import Settings
from tests.faults.faketime import Clock, library
from tests.faults.report import record
from tests.streaming.fleet import wait_until
from tests.streaming.load import Producer
from tests.streaming.test_worker import event, send
from tests.streaming.truth import Stream

HOUR = 3_600
# libfaketime 0.9.10 refuses Python's way to sleep (clock_nanosleep until a monotonic time).
_PROGRAM = (
    "import select, time; time.sleep = lambda seconds: select.select([], [], [], seconds)\n"
    "from extensions.cli import main; main()"
)


@contextlib.contextmanager
def settable_clock() -> Iterator[Clock]:
    """A clock for workers; the test is skipped where there is no libfaketime."""
    preload = library()
    if isinstance(preload, str):
        pytest.skip(f"Clock jumps need libfaketime. {preload}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Clock(preload, Path(folder))


@contextlib.contextmanager
def ingest(settings: Settings, clock: Clock, log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """`skewless ingest` under the clock."""
    environment = os.environ | clock.environment | {KAFKA_VARIABLE: settings.kafka_bootstrap}
    command = [
        *(sys.executable, "-c", _PROGRAM, "ingest"),
        *("--topic", settings.topic, "--group", settings.group),
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def assert_changes_no_value(
    settings: Settings, jumps: Sequence[int], log: Path, *, pause: float, rate: int
) -> None:
    """Let a worker's clock jump under load; all that is stored, logged and served is right.

    Args:
        settings: of the stream.
        jumps: seconds that the clock is ahead, one after the other.
        log: where the worker's output goes.
        pause: seconds for which the clock stays so.
        rate: events a second.
    """
    stream = Stream(settings)
    with settable_clock() as clock, ingest(settings, clock, log) as worker:
        wait_until(stream.at_rest, 240, "a worker has every partition")
        producer = Producer(settings, seed=7, rate=rate)
        producer.start()
        for jump in jumps:
            clock.set(jump)
            time.sleep(pause)
            ahead = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
            send(settings, [event(1, eventId=f"ahead{jump}", watchedAt=ahead)])
            producer.load.bad += 1
            assert worker.poll() is None, log.read_text()[-2_000:]
        load = producer.stop()
        wait_until(
            lambda: stream.stored() >= len(load.events) and stream.at_rest(), 120, "all is stored"
        )
        time.sleep(4)  # events are up to 3 s ahead
        wait_until(stream.at_rest, 30, "at rest")
        stream.assert_served()
        assert worker.poll() is None
    stream.assert_events(load)
    stream.assert_dead_letters(load)
    record("a worker's clock jumps", jumps=tuple(jumps), events=len(load.events),
           letters=load.bad, values_compared=stream.assert_logged())  # fmt: skip

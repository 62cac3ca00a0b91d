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
from collections.abc import Iterator
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
JUMPS = (HOUR, 0, -HOUR, HOUR, -HOUR, 0)


@pytest.fixture
def clock() -> Iterator[Clock]:
    preload = library()
    if preload is None:
        pytest.skip("Clock jumps need libfaketime (Debian: apt-get install libfaketime).")
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


@pytest.mark.timeout(600)
def test_a_workers_clock_that_jumps_changes_no_value(
    settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    stream, log = Stream(settings), tmp_path / "worker.log"
    with ingest(settings, clock, log) as worker:
        wait_until(stream.at_rest, 240, "a worker has every partition")
        producer = Producer(settings, seed=7, rate=100)
        producer.start()
        for jump in JUMPS:
            clock.set(jump)
            time.sleep(3)
            ahead = (datetime.now(UTC) + timedelta(minutes=30)).isoformat()
            send(settings, [event(1, eventId=f"ahead{jump}", watchedAt=ahead)])
            producer.load.bad += 1
            assert worker.poll() is None, log.read_text()[-2_000:]
        load = producer.stop()
        wait_until(
            lambda: stream.stored() >= len(load.events) and stream.at_rest(), 120, "all is stored"
        )
        time.sleep(4)
        wait_until(stream.at_rest, 30, "at rest")
        stream.assert_served()
        assert worker.poll() is None
    stream.assert_events(load)
    stream.assert_dead_letters(load)
    record("a worker's clock jumps", jumps=JUMPS, events=len(load.events), letters=load.bad,
           values_compared=stream.assert_logged())  # fmt: skip

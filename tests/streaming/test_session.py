"""A worker past its session on genuine Kafka: another takes over, its late step is fenced."""

import os
import signal
import time
from pathlib import Path

import pytest

from streaming.failpoints import Fault
from streaming.settings import Settings
from streaming.stream_status import status
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.test_worker import event, send
from tests.streaming.truth import Stream

pytestmark = [pytest.mark.apache_kafka, pytest.mark.timeout(300)]


@pytest.mark.parametrize("place", [Fault.DECODED, Fault.EVENTS_COMMITTED, Fault.VALUES_LOGGED])
def test_the_late_step_of_a_worker_past_its_session_changes_nothing(
    genuine: Settings, place: Fault
) -> None:
    """It freezes in the middle of a step, with messages in hand that another one stores."""
    stream = Stream(genuine)
    with Fleet(genuine) as fleet:
        late = fleet.start(f"{place.value}:2:freeze")
        wait_until(stream.at_rest, 60, "a worker has every partition")
        send(genuine, [event(user, eventId=f"a{user}") for user in range(9)])
        wait_until(lambda: stream.stored() == 9 and stream.at_rest(), 30, "its first step")
        send(genuine, [event(user, eventId=f"b{user}") for user in range(9)])
        wait_until(lambda: _frozen(late.pid), 30, "it freezes in its second")
        fleet.start()
        wait_until(lambda: stream.stored() == 18 and stream.at_rest(), 60, "another takes over")
        assert late.pid is not None
        before = [p.next_offset for p in status(genuine).partitions]
        os.kill(late.pid, signal.SIGCONT)
        send(genuine, [event(user, eventId=f"c{user}") for user in range(9)])
        wait_until(lambda: stream.stored() == 27 and stream.at_rest(), 60, "both go on")
        time.sleep(1)
        assert late.is_alive()
        assert all(
            now.next_offset >= then
            for now, then in zip(status(genuine).partitions, before, strict=True)
        )
        if place is Fault.DECODED:
            # The fence, or the group's word that it is out; its next report says so.
            wait_until(lambda: _retries(genuine, "worker-0") > 0, 30, "it noticed")
        stream.assert_served()
        assert stream.stored() == 27
    stream.assert_logged()


def test_a_worker_frozen_at_rest_comes_back_to_a_group_that_went_on(genuine: Settings) -> None:
    stream = Stream(genuine)
    with Fleet(genuine) as fleet:
        frozen = fleet.start()
        wait_until(stream.at_rest, 40, "a worker has every partition")
        send(genuine, [event(4) for _ in range(20)])
        wait_until(lambda: stream.stored() == 20 and stream.at_rest(), 20, "it works")
        assert frozen.pid is not None
        os.kill(frozen.pid, signal.SIGSTOP)
        send(genuine, [event(4) for _ in range(20)])
        fleet.start()
        wait_until(lambda: stream.stored() == 40, 30, "another takes over")
        os.kill(frozen.pid, signal.SIGCONT)
        send(genuine, [event(4) for _ in range(20)])
        wait_until(lambda: stream.stored() == 60, 30, "both go on")
        time.sleep(1)
        assert stream.stored() == 60
        assert frozen.is_alive()
        wait_until(stream.at_rest, 20, "at rest")
        stream.assert_logged()


def _retries(settings: Settings, worker: str) -> int:
    return sum(row.retries for row in status(settings).workers if row.worker == worker)


def _frozen(pid: int | None) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

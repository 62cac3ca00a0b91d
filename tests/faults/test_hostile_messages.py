"""A worker fed with what nobody should send: ``HOSTILE_MESSAGES`` says how many messages.

`make test` sends some thousands to the embedded broker; `make test-faults` 100,000 to Apache Kafka,
too. Each message's fate is known by how it was made (`hostile_messages`).
"""

import os
import time
from collections import Counter

import pytest

from streaming.kafka import dead_letters
from streaming.kafka.stopped_partitions import skip
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from streaming.stream_status import status
from tests.faults.hostile_messages import Hostile, messages, repeated
from tests.faults.hostile_topic import (
    HostileStream,
    Landed,
    assert_events,
    assert_letters,
    send,
    send_damaged,
)
from tests.faults.report import record
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.outages import MOST_MEGABYTES, megabytes, peak_megabytes

NOT_JSON = frozenset({"not-json"})
COUNT = int(os.environ.get("HOSTILE_MESSAGES", "5000"))


@pytest.fixture(
    params=[
        "embedded",
        # Minutes of a JVM: in the long form (`make test-faults`) only.
        *([pytest.param("apache", marks=pytest.mark.apache_kafka)] if COUNT > 5_000 else []),
    ]
)
def any_broker(request: pytest.FixtureRequest) -> Settings:
    return request.getfixturevalue("settings" if request.param == "embedded" else "genuine")


@pytest.mark.timeout(3600)
def test_each_hostile_message_is_one_letter_and_each_event_is_stored_once(
    any_broker: Settings, request: pytest.FixtureRequest
) -> None:
    settings = any_broker
    ensure_topics(settings)
    stream, landed = HostileStream(settings), Landed()
    made = messages(seed=13, count=COUNT)
    with Fleet(settings) as fleet:
        worker = fleet.start()
        wait_until(stream.at_rest, 60, "a worker has every partition")
        send(settings, made[: COUNT // 10], landed)
        wait_until(stream.at_rest, 60, "its caches and clients are there")
        before, began = megabytes(worker.pid), time.monotonic()
        send(settings, made[COUNT // 10 : COUNT // 2], landed)
        damaged = send_damaged(settings, partition=0)
        send(settings, made[COUNT // 2 :] + repeated(14, made, COUNT // 100), landed)
        stops: dict[int, str] = {}
        wait_until(
            lambda: _skipped(settings, stops) or (_passed(settings, landed) and stream.at_rest()),
            900, "all is read",
        )  # fmt: skip
        assert stops.keys() <= damaged.keys()
        assert len(stops) >= len(damaged) - 1
        for offset in damaged.keys() - stops.keys():
            # The broker or the client put it right: then its messages are no events.
            for number in range(3):
                landed.at[0, offset + number] = Hostile("damaged", b"damaged", NOT_JSON)
        seconds = time.monotonic() - began
        grown = peak_megabytes(worker.pid) - before
        time.sleep(4)  # what leaves a window meanwhile is swept
        wait_until(stream.at_rest, 60, "at rest")
        now = status(settings)
        assert [part.lag_records for part in now.partitions] == [0] * settings.partitions
        [row] = now.workers
        assert row.retries == 0
        assert worker.is_alive()
        stream.assert_served()
        assert fleet.stop(worker) == 0
    events, letters = assert_events(settings, landed), assert_letters(settings, landed)
    values = stream.assert_logged()
    assert grown < MOST_MEGABYTES
    assert events > COUNT // 40
    assert sum(letters.values()) == len(landed.no_events) > COUNT // 2
    kinds = Counter(one.kind for one in landed.no_events.values())
    assert len(kinds) > 15
    record(
        f"{len(landed.at):,} messages to one worker, {request.node.callspec.id}",
        messages=len(landed.at), refused_by_the_broker=dict(landed.refused), events=events,
        letters=dict(letters), values_compared=values,
        damaged={damaged[at]: why for at, why in stops.items()},
        seconds=round(seconds, 1), megabytes_grown=round(grown), rest=round(before),
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_messages_that_unfold_to_a_megabyte_each_are_taken_a_few_at_a_time(
    settings: Settings,
) -> None:
    """Three thousand are three megabytes on the wire, and a step would take them all."""
    ensure_topics(settings)
    stream, landed = HostileStream(settings), Landed()
    event = [one for one in messages(seed=15, count=40, events=1) if one.timestamp_ms is None]
    large = Hostile("large", b" " * (1 << 20), frozenset({"oversized"}), key=b"k", packs=True)
    with Fleet(settings) as fleet:
        worker = fleet.start()
        wait_until(stream.at_rest, 60, "a worker has every partition")
        send(settings, event[:5], landed)
        wait_until(lambda: stream.stored() >= 5, 60, "its clients are there")
        before = megabytes(worker.pid)
        assert fleet.stop(worker) == 0
        send(settings, [large] * 3_000 + event[5:], landed)
        worker = fleet.start()
        wait_until(lambda: stream.stored() == len(event) and stream.at_rest(), 300, "all is read")
        grown = peak_megabytes(worker.pid) - before
        assert fleet.stop(worker) == 0
    letters = sum(1 for _ in dead_letters.each(settings, reason="oversized"))
    assert letters == len(landed.no_events) == 3_000
    record("3,000 messages that unfold to 1 MiB each", megabytes_grown=round(grown))
    assert grown < MOST_MEGABYTES


def _passed(settings: Settings, landed: Landed) -> bool:
    """Whether the worker has come past all that landed; what it says of its lag is a second old."""
    last: dict[int, int] = {}
    for partition, offset in landed.at:
        last[partition] = max(offset, last.get(partition, 0))
    now = {part.partition: part.next_offset for part in status(settings).partitions}
    return all(now.get(partition, 0) > offset for partition, offset in last.items())


def _skipped(settings: Settings, stops: dict[int, str]) -> None:
    """An operator lets the partition go on wherever it stands still, and notes the sentence."""
    for part in status(settings).partitions:
        if part.stopped and part.next_offset not in stops:
            assert part.partition == 0, part
            skip(settings, f"{settings.topic}/0/{part.next_offset}", "sent by the test")
            stops[part.next_offset] = part.stopped

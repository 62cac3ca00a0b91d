"""The crash loop: two workers under load, each killed at every boundary and at random moments."""

import random
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from streaming.failpoints import Fault
from streaming.settings import Settings
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.load import Producer
from tests.streaming.truth import Reader, Stream

RANDOM = "at a random moment"
# How long a worker may take to pass the place at which it is to end.
_PATIENCE = 15.0


@dataclass(frozen=True)
class Report:
    """What a crash loop did. ``hit``: workers that ended at the place they were armed with."""

    kills: int
    hit: int
    events: int
    values: int


def schedule(seed: int, kills: int) -> list[str]:
    """Where to kill, in order: every place in turn, shuffled, and a quarter at random moments."""
    rng = random.Random(seed)
    plan: list[str] = []
    while len(plan) < kills:
        places = [
            f"{fault.value}:{rng.randint(1, 2)}" for fault in Fault if fault is not Fault.RECOVERED
        ]
        places += [RANDOM] * 4
        rng.shuffle(places)
        # A takeover has something to recover after an end between commit and watermark.
        at = places.index(next(p for p in places if p.startswith(Fault.VALUES_LOGGED.value)))
        places.insert(at + 1, f"{Fault.RECOVERED.value}:1")
        plan += places
    return plan[:kills]


def crash_loop(settings: Settings, seed: int, kills: int, slots: int = 2) -> Report:
    """Run the schedule of ``seed``; the stream must be whole afterwards."""
    print(f"crash loop: seed {seed}, {kills} kills")  # noqa: T201
    rng = random.Random(seed)
    stream = Stream(settings)
    plan = schedule(seed, kills)
    with Fleet(settings) as fleet:
        producer, reader = Producer(settings, seed), Reader(stream)
        first = fleet.start()
        wait_until(stream.at_rest, 60, "the first worker has every partition")
        assert fleet.stop(first) == 0
        producer.start()
        reader.start()
        running: list[tuple[BaseProcess, float, str]] = []
        began = time.monotonic()
        killed = hit = 0
        while plan or running:
            while plan and len(running) < slots:
                place = plan.pop(0)
                fault = "" if place == RANDOM else place
                patience = rng.uniform(0.5, 2.0) if place == RANDOM else _PATIENCE
                running.append((fleet.start(fault), time.monotonic() + patience, place))
            time.sleep(0.02)
            for process, deadline, place in list(running):
                if process.is_alive() and time.monotonic() < deadline:
                    continue
                hit += process.exitcode == -signal.SIGKILL
                process.kill()
                process.join()
                assert process.exitcode == -signal.SIGKILL
                running.remove((process, deadline, place))
                killed += 1
                print(f"{time.monotonic() - began:6.1f} s  {place}")  # noqa: T201
        load = producer.stop()
        fleet.start()
        wait_until(
            lambda: stream.at_rest() and stream.stored() >= len(load.events), 60, "all is read"
        )
        # The last events of the near future, and the last that leave the week, have had their time.
        time.sleep(4)
        wait_until(stream.at_rest, 30, "at rest")
        stream.assert_served()
        reader.stop()
    stream.assert_events(load)
    stream.assert_dead_letters(load)
    return Report(killed, hit, len(load.events), stream.assert_logged())

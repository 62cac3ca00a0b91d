"""Servers follow the pointer within a second, without a failed or a mixed answer."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from benchmarks.switching import Asked, Load, State
from extensions.local.ports import free_port
from extensions.versions.promotion import promote, rollback
from tests.versions.conftest import World

ITEMS = list(range(1, 25))
SWITCHES = int(os.environ.get("SKEWLESS_SWITCHES", "50"))
SERVER = """
import sys
from pathlib import Path
from extensions.serving.server import run
from extensions.serving.settings import Settings
run(Settings(repo=Path.cwd(), port=int(sys.argv[1]), workers=2, redis_deadline_ms=2000))
"""


@pytest.fixture
def server(world: World) -> Iterator[tuple[int, int]]:
    """A server of two workers over the world's repository, with both second versions published;
    its port and its process's id.
    """
    world.repository.second_version("user_watch_stats")
    world.repository.second_version("item_stats")
    world.apply()
    number = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(number)], cwd=world.root)
    try:
        deadline = time.monotonic() + 120
        while not ready(number):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield number, process.pid
    finally:
        process.terminate()
        process.wait(30)


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def asked(world: World) -> Asked:
    count, score = "user_watch_count_7d", "item_popularity_score"
    store = world.store()

    def scores(version: int) -> list[float]:
        reply = store.get_online_features(
            features=[f"item_stats@v{version}:{score}"],
            entity_rows=[{"item_id": item} for item in ITEMS],
        ).to_dict()[score]
        # As the server writes them: the shortest text that is the same float32.
        return [float(str(np.float32(value))) for value in reply]

    return Asked(
        user=1,
        items=ITEMS,
        user_view="user_watch_stats",
        user_feature=count,
        user_values={
            v: world.online(f"user_watch_stats@v{v}:{count}", user_id=1)[count] for v in (1, 2)
        },
        item_view="item_stats",
        item_feature=score,
        item_values={v: scores(v) for v in (1, 2)},
    )


def test_many_switches_under_load(world: World, server: tuple[int, int]) -> None:
    what = asked(world)
    assert what.user_values[1] != what.user_values[2]
    assert what.item_values[1] != what.item_values[2]
    moves = [
        (promote, "item_stats", 2, (1, 2)),
        (promote, "user_watch_stats", 2, (2, 2)),
        (rollback, "item_stats", 1, (2, 1)),
        (rollback, "user_watch_stats", 1, (1, 1)),
    ]
    port, process = server
    states: list[State] = [(1, 1)]
    seen: list[float] = []
    # Before, between and after the switches, once every connection is answered by the new state.
    moments: list[datetime] = []
    with Load(port, what, connections=8) as load:
        load.until((1, 1))
        by_worker = load.cover(process)
        moments.append(datetime.now(UTC))
        for i in range(SWITCHES):
            move, view, version, to = moves[i % len(moves)]
            switch = load.switch(lambda m=move, v=view, n=version: m(world.conn, "skewless", v, n),
                                 to)  # fmt: skip
            states.append(to)
            moments.append(datetime.now(UTC))
            seen += switch.seen
    assert load.failed == []
    assert load.mixed == 0
    # Of each connection's first new answer after each commit; both workers have connections.
    assert len(by_worker) == 2
    assert np.percentile(seen, 99) < 1.0
    for connection in load.connections:
        # No answer is of versions that were never the default together, and none goes back.
        at = 0
        for reply in connection.replies:
            while reply.state != states[at]:
                at += 1
                assert at < len(states)
    assert joined(world, moments) == [
        ([what.user_values[user]] * len(ITEMS), what.item_values[item]) for user, item in states
    ]


def joined(world: World, moments: list[datetime]) -> list[tuple[list[int], list[float]]]:
    """What the training join gives at each moment: with each item the user's value, and its own."""
    labels = pd.DataFrame(
        [
            {"user_id": 1, "item_id": item, "event_timestamp": at, "moment": i}
            for i, at in enumerate(moments)
            for item in ITEMS
        ]
    )
    count, score = "user_watch_count_7d", "item_popularity_score"
    rows = (
        world.store()
        .get_historical_features(
            entity_df=labels, features=[f"user_watch_stats:{count}", f"item_stats:{score}"]
        )
        .to_df()
    )
    return [
        (own[count].tolist(), [float(str(np.float32(value))) for value in own[score]])
        for _, own in rows.groupby("moment")
    ]

"""The long crash loop, run by `make test-crash`: `pytest tests/streaming/crash_long.py -s`.

``SKEWLESS_SEED`` replays a schedule; ``SKEWLESS_KILLS`` changes the number of kills (200).
"""

import os
import random

import pytest

from streaming.settings import Settings
from tests.streaming.conftest import stream_settings
from tests.streaming.crashes import crash_loop

ROUND = 25


@pytest.mark.timeout(3600)
def test_the_long_crash_loop(request: pytest.FixtureRequest) -> None:
    kills = int(os.environ.get("SKEWLESS_KILLS", "200"))
    seed = int(os.environ.get("SKEWLESS_SEED", random.randrange(1_000_000)))
    servers = ("postgres_server", "applied_database", "redis_server", "apache_kafka_server")
    for number, _ in enumerate(range(0, kills, ROUND)):
        made = stream_settings(*map(request.getfixturevalue, servers), session_timeout=1.5)
        settings: Settings = next(made)
        report = crash_loop(settings, seed + number, min(ROUND, kills - number * ROUND))
        print(report)  # noqa: T201
        next(made, None)

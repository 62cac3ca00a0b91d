"""Twenty kills; `make test-crash` runs the long form (crash_long.py)."""

import os

import pytest

from streaming.settings import Settings
from tests.streaming.crashes import crash_loop

pytestmark = pytest.mark.apache_kafka


@pytest.mark.timeout(240)
def test_a_killed_worker_loses_doubles_and_regresses_nothing(genuine: Settings) -> None:
    seed = int(os.environ.get("SKEWLESS_SEED", "1"))
    report = crash_loop(genuine, seed, kills=20)

    assert report.kills == 20
    assert report.hit >= 10

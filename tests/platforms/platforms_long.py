"""The long form, run by `make test-platforms`: many kills, more rows, and each platform's demo.

``KILLS`` (25) workers die in each of ``ROUNDS`` (2); ``SEED`` replays a round.
"""

import os
import random
from pathlib import Path

import pytest

from tests.platforms.named import NAMES, platform
from tests.platforms.test_platforms import SUITES, run_suites
from tests.repositories.places import run

ROUNDS = int(os.environ.get("ROUNDS", "2"))
# The demo makes its figures of some thousand rows.
DEMO = {
    "media": ["--users", "300", "--items", "100", "--days", "20", "--events", "20000"],
    "media_text": ["--users", "300", "--items", "100", "--days", "20", "--events", "20000"],
    "shop": ["--visitors", "300", "--products", "100", "--days", "20", "--views", "20000"],
}


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(3600)
def test_many_workers_are_killed(name: str, number: int, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", random.randrange(1_000_000))) + number
    print(f"{name}: seed {seed}")  # noqa: T201
    kills = os.environ.get("KILLS", "25")
    run_suites(name, tmp_path / name, SUITES, KILLS=kills, SEED=str(seed), SAMPLE="1000")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(600)
def test_the_demo_of_a_platform(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    platform(name).copy(folder)
    done = run("skewless", "demo", *DEMO[name], cwd=folder, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "served = trained = recomputed: 0 differences" in " ".join(done.stdout.split())

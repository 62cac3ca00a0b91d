"""Runs the suites for each platform in a process of its own: a process works for one repository.

``make test-platforms`` runs the long form (`platforms_long.py`).
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from extensions.local import apache_kafka
from extensions.repository import REPO_VARIABLE
from tests.platforms.named import NAMES, platform

HERE = Path(__file__).parent
SUITES = ("contract_suite.py", "decoding_suite.py", "life_suite.py")
# What the contract suite shows of the media platform's views, `tests.asof` shows at more length.
SHORT = {"media": SUITES[1:], "media_text": SUITES, "shop": SUITES}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(900)
def test_a_platform_passes_the_suites(name: str, tmp_path: Path) -> None:
    run_suites(name, tmp_path / name, SHORT[name])


def run_suites(name: str, folder: Path, suites: Sequence[str], **environment: str) -> None:
    """The suites over a copy of the platform's repository; none may fail or be left out.

    Without Java nobody is killed, and this says so.
    """
    folder.mkdir()
    platform(name).copy(folder)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--durations=8",
         *(HERE / suite for suite in suites)],
        env=os.environ | environment | {
            "SKEWLESS_TEST_PLATFORM": name,
            "SKEWLESS_TESTED_REPOSITORY": str(folder),
            REPO_VARIABLE: str(folder),
        },
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    print(done.stdout)  # noqa: T201 - how long each took
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    reason = apache_kafka.available()
    left_out = r", 1 skipped" if reason else ""
    assert re.search(rf"^\d+ passed{left_out} in", done.stdout, re.MULTILINE), done.stdout[-2_000:]
    if reason:
        pytest.skip(f"all but killed workers passed: {reason}")

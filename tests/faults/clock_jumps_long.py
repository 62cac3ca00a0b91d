"""A worker's clock that jumps an hour, forwards and back: the long form of `make test-faults`."""

from pathlib import Path

import pytest

from streaming.settings import Settings
from tests.faults.clock_jumps import HOUR, assert_changes_no_value

JUMPS = (HOUR, 0, -HOUR, HOUR, -HOUR, 0)


@pytest.mark.timeout(600)
def test_a_workers_clock_that_jumps_changes_no_value(settings: Settings, tmp_path: Path) -> None:
    assert_changes_no_value(settings, JUMPS, tmp_path / "worker.log", pause=3, rate=100)

"""A worker's clock that jumps an hour forwards and an hour back: the database's decides."""

from pathlib import Path

import pytest

from streaming.settings import Settings
from tests.faults.clock_jumps import HOUR, assert_changes_no_value


@pytest.mark.timeout(300)
def test_a_workers_clock_that_jumps_changes_no_value(settings: Settings, tmp_path: Path) -> None:
    assert_changes_no_value(settings, (HOUR, -HOUR), tmp_path / "worker.log", pause=1, rate=50)

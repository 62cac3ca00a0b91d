"""Failpoints: armed by the environment, the n-th time, to end, freeze or fail a process."""

import os
import signal
import subprocess
import sys

import pytest

from extensions.failpoints import VARIABLE, UnforeseenError, point
from extensions.versions.failpoints import Fault as VersionFault
from monitoring.failpoints import Fault as MonitoringFault
from streaming.failpoints import Fault

PASSES = (
    "from extensions.failpoints import point; from streaming.failpoints import Fault\n"
    "for n in range(1, 5):\n    print(n, flush=True); point(Fault.POLLED)\n"
)


@pytest.mark.parametrize(("armed", "printed"), [("polled", 1), ("polled:3", 3), ("placed", 4)])
def test_a_process_is_killed_at_the_armed_place(armed: str, printed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PASSES], env=os.environ | {VARIABLE: armed},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert len(done.stdout.split()) == printed
    assert done.returncode == (0 if printed == 4 else -signal.SIGKILL)


def test_a_place_fails_once_and_can_be_armed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        monkeypatch.setenv(VARIABLE, "sweep-logged:2:raise")
        point(Fault.SWEEP_LOGGED)
        point(Fault.SWEEP_PUBLISHED)
        with pytest.raises(UnforeseenError):
            point(Fault.SWEEP_LOGGED)
        point(Fault.SWEEP_LOGGED)
        monkeypatch.delenv(VARIABLE)
        point(Fault.SWEEP_LOGGED)


def test_names_are_one_place_each() -> None:
    names = [fault.value for faults in (Fault, VersionFault, MonitoringFault) for fault in faults]
    assert len(names) == len(set(names))

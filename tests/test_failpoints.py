"""Failpoints: armed by the environment, the n-th time, to end, freeze or fail a process."""

import importlib
import os
import random
import re
import signal
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from extensions.failpoints import VARIABLE, UnforeseenError, point
from streaming.failpoints import Fault
from tests.conftest import REPO_ROOT
from tests.faults.kill_matrix import all_operations
from tests.lake import test_cut, test_export, test_upkeep
from tests.streaming.crashes import schedule

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


def declared() -> dict[str, type[Enum]]:
    """By module, every enumeration of failpoints in the code."""
    found = {}
    for path in code():
        if re.search(r"^class Fault\(Enum\)", path.read_text(), re.MULTILINE):
            module = ".".join(path.relative_to(REPO_ROOT).with_suffix("").parts)
            found[module] = importlib.import_module(module).Fault
    return found


def code() -> list[Path]:
    rooms = ("extensions", "streaming", "monitoring")
    return sorted(path for room in rooms for path in (REPO_ROOT / room).rglob("*.py"))


def parametrized(test: Any) -> set[str]:
    """The failpoints over which a test is run."""
    marks = [mark for mark in test.pytestmark if mark.name == "parametrize"]
    return {one.value for mark in marks for one in mark.args[1] if isinstance(one, Enum)}


def test_names_are_one_place_each() -> None:
    names = [fault.value for faults in declared().values() for fault in faults]
    assert len(names) == len(set(names)) > 50


def test_every_failpoint_is_a_cell() -> None:
    """The kill matrix's, those at which workers are killed, or the lake's own tests; none new."""
    nothing: Any = None  # operations are prepared when they begin
    cells = {
        at
        for operation in all_operations(nothing, random.Random(1), nothing).values()
        for at in operation.failpoints
    }
    cells |= {at.partition(":")[0] for at in schedule(seed=1, kills=100)}
    cells |= parametrized(test_export.test_an_export_killed_anywhere_is_made_good_by_the_next)
    cells |= parametrized(test_cut.test_a_cut_killed_anywhere_is_made_good_by_the_next)
    cells |= parametrized(test_upkeep.test_an_upkeep_killed_anywhere_is_made_good_by_the_next)
    faults = {fault.value for faults in declared().values() for fault in faults}
    assert faults - cells == set()


def test_every_failpoint_is_passed_somewhere() -> None:
    passed = set()
    for path in code():
        text = path.read_text()
        if not re.search(r"import .*\bpoint\b", text):
            continue
        names = re.findall(r"\bpoint\((.*?)\)", text)
        assert names, path
        assert all(re.fullmatch(r"Fault\.[A-Z_]+", name) for name in names), path
        passed |= {name.removeprefix("Fault.") for name in names}
    assert {fault.name for faults in declared().values() for fault in faults} == passed

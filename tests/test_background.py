"""The tests themselves run in the background of a script, where SIGINT is ignored."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
INTERRUPTING = "tests/local/test_stack.py::test_asked_to_end_it_leaves_nothing[2]"


@pytest.mark.timeout(200)
def test_a_test_that_interrupts_a_program_passes_in_the_background(tmp_path: Path) -> None:
    # `&` in a shell without job control is what ignores the signal, so a shell starts it.
    script = '"$@" & wait $!'
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    ended = subprocess.run(
        [
            "sh",
            "-c",
            script,
            "sh",
            *pytest_command,
            f"--basetemp={tmp_path / 'inner'}",
            INTERRUPTING,
        ],
        cwd=REPO,
        env=outside,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "1 passed" in ended.stdout

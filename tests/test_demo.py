"""`skewless demo` from outside: it ends by itself with its figures, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(sys.executable).parent / "skewless"
SMALL = ("--users", "300", "--items", "100", "--days", "20", "--events", "20000")


def start(folder: Path) -> subprocess.Popen[str]:
    # All that the demo makes lies in its temporary folder, which is how its processes are known.
    return subprocess.Popen(
        [PROGRAM, "demo", *SMALL],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_behind(folder: Path) -> list[str]:
    """Files in the folder, and processes that were started with it."""
    found = [str(path) for path in folder.iterdir() if path.name.startswith("skewless-demo-")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in environment + command and int(process.name) != os.getpid():
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.timeout(400)
def test_the_demo_shows_a_value_change_and_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path)
    output, _ = process.communicate(timeout=350)
    assert process.returncode == 0, output
    last = output.rstrip().splitlines()[-1]
    assert last.startswith("demo: ")
    figures = json.loads(last.removeprefix("demo: "))
    assert figures["events"] == 20_000
    assert figures["training_rows"] > 0
    assert figures["count_after"] > figures["count_before"] >= 0
    # The promise, on what the demo made, and after an import beside the running stream.
    assert figures["imported"] == 400
    for audit in ("audit", "audit_again"):
        assert figures[f"{audit}_entities"] > 100
        assert figures[f"{audit}_differences"] == 0
    assert "served = trained = recomputed: 0 differences" in " ".join(output.split())
    assert left_behind(tmp_path) == []


@pytest.mark.timeout(200)
def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    process = start(tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("skewless-demo-*/stack.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)
    assert left_behind(tmp_path)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None), output
    assert "Traceback" not in output
    assert left_behind(tmp_path) == []

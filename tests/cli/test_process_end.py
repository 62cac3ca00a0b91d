"""How the program's process ends, seen from outside."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

# A thread of Arrow's is in the midst of reading from a file object of Python's when it ends.
BUSY_ARROW = """
    import io, threading, time
    import pyarrow as pa
    import pyarrow.csv

    class Slow(io.RawIOBase):
        def __init__(self):
            self.reads = 0
        def readable(self):
            return True
        def readinto(self, buffer):
            self.reads += 1
            reading.set()
            time.sleep(0.02)
            buffer[:2] = b"1" + bytes([10])
            return 2

    reading = threading.Event()
    def read():
        pa.csv.read_csv(pa.PythonFile(Slow(), mode="r"))
    threading.Thread(target=read, daemon=True).start()
    assert reading.wait(30)
"""
OURS = "from extensions.cli.process_end import run_program\n"


def ended(code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=folder,
        check=False,
    )  # fmt: skip


def body(text: str) -> str:
    indented = dedent(text).replace("\n", "\n    ")
    return f"{OURS}def command():\n    {indented}\nrun_program(command)\n"


def test_a_native_thread_that_is_still_at_work_does_not_abort_the_end() -> None:
    for _ in range(5):
        done = ended(body(BUSY_ARROW + "\n    print('done')\n    raise SystemExit(3)"))
        assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("pass", 0, ""),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(130)", 130, ""),
        ("raise SystemExit('why')", 1, "why\n"),
    ],
)
def test_exit_codes_are_pythons(statement: str, code: int, said: str) -> None:
    done = ended(body(statement))
    assert (done.returncode, done.stderr) == (code, said)
    alone = ended(statement)
    assert (alone.returncode, alone.stderr) == (code, said)


def test_an_exception_is_shown() -> None:
    done = ended(body("1 / 0"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_what_is_registered_for_the_end_runs_and_threads_are_waited_for(tmp_path: Path) -> None:
    done = ended(
        body(
            """
            import atexit, concurrent.futures, tempfile, threading, time
            from pathlib import Path
            def later(name):
                time.sleep(0.2)
                Path(name).touch()
            atexit.register(Path("registered").touch)
            kept = tempfile.TemporaryDirectory(dir=".")
            threading.Thread(target=later, args=["thread"]).start()
            concurrent.futures.ThreadPoolExecutor(1).submit(later, "pool")
            print("no newline", end="")
            """
        ),
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "no newline", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pool", "registered", "thread"]


def test_what_nobody_reads_is_not_success() -> None:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    print_late = "import time\ntime.sleep(0.5)\nprint('x')"
    for code in (print_late, body(print_late)):
        done = subprocess.run(
            ["bash", "-c", '"$0" -c "$1" | true; echo ${PIPESTATUS[0]}', sys.executable, code],
            capture_output=True, text=True, timeout=60, check=True, env=kept,
        )  # fmt: skip
        assert done.stdout == "120\n"


def test_a_first_process_heeds_sigterm() -> None:
    """As a container's first process, to which the kernel passes only signals with handlers."""
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
    if (
        why := subprocess.run([*apart, "true"], capture_output=True, text=True, check=False)
    ).returncode:
        pytest.skip(f"No process namespaces here: {why.stderr.strip()}")
    code = (
        "import os, time\n" + OURS + "def command():\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(20)\n"
        "run_program(command)\n"
    )
    with subprocess.Popen(
        [*apart, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "1\n"
        [inner] = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        os.kill(int(inner), signal.SIGTERM)
        assert outer.wait(10) == 128 + signal.SIGTERM

"""Children: spawned from the main thread, stopped by pid, dead when their parent is."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from extensions.errors import SkewlessError
from extensions.local.child_process import hold_folder, run, spawn, stop_all, wait_any
from extensions.local.ports import free_port, is_free
from tests.local.conftest import end, eventually, run_python, said

COUNTING = """
import itertools, time
for number in itertools.count():
    print(number, flush=True)
    time.sleep(0.01)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def test_output_and_exit_code(tmp_path: Path) -> None:
    child = spawn([sys.executable, "-c", "print('hi'); exit(3)"], "greeter", tmp_path / "log")
    assert child.wait(20) == 3
    assert not child.alive
    assert child.exit_code == 3
    assert child.last_words() == "hi"


def test_last_words_are_of_this_run(tmp_path: Path) -> None:
    for word in ("one", "two"):
        child = spawn([sys.executable, "-c", f"print({word!r})"], "speaker", tmp_path / "log")
        child.wait(20)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert child.last_words() == "two"


def test_a_full_log_begins_anew_while_its_program_writes(tmp_path: Path) -> None:
    script = (
        "import itertools, time\nfor n in itertools.count(): print(n, flush=True); time.sleep(.01)"
    )
    child = spawn([sys.executable, "-c", script], "talker", tmp_path / "talk.log")
    try:
        assert eventually(lambda: child.log_path.stat().st_size > 50)
        child.rotate_log(limit=1_000_000)
        assert not (tmp_path / "talk.old.log").exists()
        child.rotate_log(limit=50)
        before = (tmp_path / "talk.old.log").read_text()
        assert before.startswith("0\n1\n")
        # The program goes on at the beginning of the file: no hole, nothing twice.
        assert eventually(lambda: child.log_path.stat().st_size > 20)
        after = child.log_path.read_text()
        assert "\0" not in after
        assert int(after.split()[0]) > int(before.split()[-1])
        assert child.last_words()
    finally:
        child.stop()


def test_stop_is_idempotent(tmp_path: Path) -> None:
    child = spawn(["sleep", "60"], "sleeper", tmp_path / "log")
    child.stop()
    child.stop()
    assert child.exit_code == -signal.SIGTERM


def test_stop_kills_the_deaf(tmp_path: Path) -> None:
    child = spawn([sys.executable, "-c", STUBBORN], "deaf", tmp_path / "log")
    assert eventually(lambda: child.last_words() == "deaf")
    started = time.monotonic()
    child.stop(timeout=0.5)
    assert child.exit_code == -signal.SIGKILL
    assert time.monotonic() - started < 5


def test_many_stop_side_by_side(tmp_path: Path) -> None:
    deaf = [
        spawn([sys.executable, "-c", STUBBORN], f"deaf{n}", tmp_path / f"log{n}") for n in range(3)
    ]
    for child in deaf:
        assert eventually(lambda child=child: child.last_words() == "deaf")  # type: ignore[misc]
    started = time.monotonic()
    stop_all(deaf, timeout=1.0)
    assert time.monotonic() - started < 2.5
    assert not any(child.alive for child in deaf)


def test_wait_any_names_the_dead(tmp_path: Path) -> None:
    long = spawn(["sleep", "60"], "long", tmp_path / "long")
    short = spawn(["sleep", "0.3"], "short", tmp_path / "short")
    assert wait_any([long, short], timeout=20) is short
    assert wait_any([long], timeout=0.1) is None
    long.stop()


def test_only_from_the_main_thread(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def attempt() -> None:
        try:
            spawn(["sleep", "60"], "sleeper", tmp_path / "log")
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_missing_program_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SkewlessError, match="ghost cannot be started with /no/such/program"):
        spawn(["/no/such/program"], "ghost", tmp_path / "log")


def test_run_tells_why_it_failed(tmp_path: Path) -> None:
    with pytest.raises(SkewlessError, match=r"setup failed: first \| second\."):
        run(["sh", "-c", "echo first; echo second; exit 1"], "setup", tmp_path / "log", 20)
    with pytest.raises(SkewlessError, match="setup did not finish within 0 s"):
        run(["sleep", "60"], "setup", tmp_path / "log", 0.2)


def test_standard_input(tmp_path: Path) -> None:
    run(["cat"], "cat", tmp_path / "log", 20, stdin=b"line\n")
    assert (tmp_path / "log").read_text() == "line\n"


@pytest.mark.parametrize("as_nobody", [False, True])
def test_dies_with_a_killed_parent(tmp_path: Path, as_nobody: bool) -> None:
    if as_nobody and os.geteuid() != 0:
        pytest.skip("only root can spawn as another user")
    parent = run_python(
        """
        import pwd, sys, time
        from pathlib import Path
        from extensions.local.child_process import Account, spawn
        nobody = pwd.getpwnam("nobody")
        account = Account(nobody.pw_uid, nobody.pw_gid) if sys.argv[2] == "True" else None
        child = spawn(["sleep", "60"], "sleeper", Path(sys.argv[1]), cwd="/", account=account)
        print(child.pid, flush=True)
        time.sleep(60)
        """,
        tmp_path / "log",
        as_nobody,
    )
    pid = int(said(parent)[0])
    owner = Path(f"/proc/{pid}").stat().st_uid
    assert (owner != os.geteuid()) == as_nobody
    end(parent, signal.SIGKILL)
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_folder_is_held_by_the_child_and_its_children(tmp_path: Path) -> None:
    lock = hold_folder(tmp_path, "shell")
    # The shell ends at once; what it left in the background holds on.
    child = spawn(["sh", "-c", "sleep 60 & echo $!"], "shell", tmp_path / "log", lock=lock)
    os.close(lock)
    assert child.wait(20) == 0
    with pytest.raises(SkewlessError, match="Another shell is using"):
        hold_folder(tmp_path, "shell", timeout=0.2)
    os.kill(int(child.last_words()), signal.SIGKILL)
    os.close(hold_folder(tmp_path, "shell"))


def test_logs_do_not_grow_for_ever(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"x" * 10_000_001)
    run(["echo", "fresh"], "echo", log, 20)
    assert log.read_text() == "fresh\n"
    assert (tmp_path / "server.old.log").stat().st_size == 10_000_001


def test_free_port_prefers_the_one_asked_for() -> None:
    port = free_port()
    assert is_free(port)
    assert free_port(port) == port
    assert free_port(port, taken=frozenset({port})) != port

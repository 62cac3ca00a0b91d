"""`skewless up` from outside: it comes up, serves, survives a restart, and leaves nothing."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest

from extensions import addresses
from extensions.local.ports import free_port, is_free

PROGRAM = Path(sys.executable).parent / "skewless"


def start(home: Path, port: int) -> subprocess.Popen[bytes]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SKEWLESS_")}
    with (home / "up.log").open("ab") as log:
        return subprocess.Popen(
            [PROGRAM, "up", "--port", str(port)],
            env={**kept, addresses.HOME_VARIABLE: str(home)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_ready(process: subprocess.Popen[bytes], port: int, home: Path) -> dict[str, str]:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        assert process.poll() is None, (home / "up.log").read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2):
                state: dict[str, str] = json.loads((home / "stack.json").read_text())
                return state
        except OSError:
            time.sleep(0.5)
    pytest.fail((home / "up.log").read_text())


def ports_of(state: dict[str, str]) -> list[int]:
    urls = (state["postgres"], state["redis"], state["kafka"], state["http"])
    return [int(url.rpartition(":")[2].partition("/")[0]) for url in urls]


@pytest.mark.timeout(400)
def test_up_serves_keeps_its_data_and_leaves_no_port_behind(tmp_path: Path) -> None:
    port = free_port()
    process = start(tmp_path, port)
    try:
        state = wait_ready(process, port, tmp_path)
        with psycopg.connect(state["postgres"]) as conn:
            conn.execute(
                "INSERT INTO items (item_id, genre, valid_from) VALUES (7, 'drama', now())"
            )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, (tmp_path / "up.log").read_text()
        assert all(is_free(each) for each in ports_of(state))
        assert not (tmp_path / "stack.json").exists()

        process = start(tmp_path, port)
        state = wait_ready(process, port, tmp_path)
        with psycopg.connect(state["postgres"]) as conn:
            assert conn.execute("SELECT genre FROM items").fetchall() == [("drama",)]
        down = subprocess.run(
            [PROGRAM, "down"],
            env={**os.environ, addresses.HOME_VARIABLE: str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert down.returncode == 0
        process.wait(60)
        assert all(is_free(each) for each in ports_of(state))
        # Passwords stay in files that only their owner reads.
        assert (
            psycopg.conninfo.conninfo_to_dict(state["postgres"])["password"]
            not in (tmp_path / "up.log").read_text()
        )
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()

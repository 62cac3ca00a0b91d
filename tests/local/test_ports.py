"""Ports: one that browsers open, and one sentence about one that is taken."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from extensions import addresses
from extensions.errors import SkewlessError
from extensions.local.ports import BLOCKED_BY_BROWSERS, LOOPBACK, free_port, require_free
from extensions.local.stack import Stack
from extensions.serving.settings import DEFAULT_PORT

PROGRAM = Path(sys.executable).parent / "skewless"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as listening:
        listening.bind((LOOPBACK, free_port()))
        listening.listen()
        yield listening.getsockname()[1]


def test_the_default_opens_in_a_browser() -> None:
    # From the Fetch standard's table, the ports that programs like this one choose.
    assert {6000, 6566, 6667, 10080} <= BLOCKED_BY_BROWSERS
    assert DEFAULT_PORT not in BLOCKED_BY_BROWSERS
    # Below what Linux gives to outgoing connections, above what only root may use.
    assert 1024 <= DEFAULT_PORT < 32_768


def test_a_taken_port_names_itself_and_who_has_it(taken: int) -> None:
    with pytest.raises(SkewlessError) as caught:
        require_free(taken, "The server")
    assert f"port {taken}, which is in use by process {os.getpid()} (" in caught.value.message
    assert "--port" in caught.value.message
    require_free(0, "The server")


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_command_on_a_taken_port_ends_with_that_sentence(
    command: str, taken: int, tmp_path: Path
) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SKEWLESS_")}
    done = subprocess.run(
        [PROGRAM, command, "--port", str(taken)],
        env={**kept, addresses.HOME_VARIABLE: str(tmp_path / "home")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"port {taken}, which is in use by process {os.getpid()} (" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "http://" not in done.stdout + done.stderr
    # Nothing was started for it.
    assert not list(tmp_path.rglob("server.log"))


def test_a_port_that_browsers_refuse_is_said() -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SKEWLESS_")}
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, 6566))
            listening.listen()
        except OSError:
            pass  # somebody else has it: it is taken all the same
        done = subprocess.run(
            [PROGRAM, "serve", "--port", "6566"],
            env=kept, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert re.search("6566 is on the list of ports that browsers refuse", done.stderr)


def test_a_server_that_moved_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in addresses.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    with Stack(tmp_path, durable=False) as stack:
        before = stack.servers["redis"].port
        assert stack.moved == []
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, before))
        listening.listen()
        with Stack(tmp_path, durable=False) as stack:
            assert stack.servers["redis"].port != before
            [sentence] = stack.moved
    assert str(before) in sentence
    assert f"process {os.getpid()}" in sentence

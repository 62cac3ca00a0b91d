"""What holds for every server: it starts, stops, tells why it cannot, and leaves nothing."""

import signal
import socket
import stat
from pathlib import Path

import pytest

from extensions.errors import SkewlessError
from extensions.local.ports import free_port
from extensions.local.server_process import Server, ready_or_again
from tests.local.conftest import (
    KINDS,
    Kind,
    end,
    eventually,
    nothing_left,
    run_python,
    said,
)

every_kind = pytest.mark.parametrize("kind", KINDS)

PARENT = """
import importlib, sys, time
from pathlib import Path
module = importlib.import_module("extensions.local." + sys.argv[1])
server = module.start(Path(sys.argv[2]))
print(server.pid, server.port, flush=True)
time.sleep(300)
"""


@every_kind
def test_start_stop_start(kind: Kind, tmp_path: Path, kept: list[Server]) -> None:
    server = kind.module.start(tmp_path / "data")
    kept.append(server)
    assert server.alive
    assert f"127.0.0.1:{server.port}" in server.url
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    with socket.create_connection(("127.0.0.1", server.port), timeout=5):
        pass
    pid, port = server.pid, server.port
    server.stop()
    server.stop()
    assert not server.alive
    assert nothing_left(tmp_path / "data", pid, port)

    again = kind.module.start(tmp_path / "data", port)
    kept.append(again)
    assert again.port == port
    again.stop()
    assert nothing_left(tmp_path / "data", again.pid, port)


@every_kind
def test_killed_parent_leaves_nothing(kind: Kind, tmp_path: Path, kept: list[Server]) -> None:
    data_dir = tmp_path / "data"
    parent = run_python(PARENT, kind.name, data_dir)
    pid, port = map(int, said(parent))
    assert not nothing_left(data_dir, pid, port)
    end(parent, signal.SIGKILL)
    # A successor that comes at once waits for the last of them, and gets the folder.
    successor = kind.module.start(data_dir)
    kept.append(successor)
    successor.stop()
    assert eventually(lambda: nothing_left(data_dir, pid, port))


@every_kind
def test_a_port_in_use_is_refused(kind: Kind, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SkewlessError, match=f"cannot listen on port {port}, which is in use"):
            kind.module.start(tmp_path / "data", port)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_port_lost_to_another_program_is_replaced(
    kind: Kind, tmp_path: Path, kept: list[Server]
) -> None:
    module = __import__(f"extensions.local.{kind.name}", fromlist=["launch"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        server = ready_or_again(
            module.launch(tmp_path / "data", port),
            lambda chosen: module.launch(tmp_path / "data", chosen),
        )
        kept.append(server)
        assert server.port != port
        assert server.alive


@every_kind
def test_death_at_start_is_one_sentence_with_the_reason(kind: Kind, tmp_path: Path) -> None:
    module = __import__(f"extensions.local.{kind.name}", fromlist=["launch"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server: Server = module.launch(tmp_path / "data", port)
        with pytest.raises(SkewlessError) as error:
            server.ready()
    assert f"{module.NAME} did not start on port {port}: " in error.value.message
    assert "in use" in error.value.message
    assert "\n" not in error.value.message
    assert nothing_left_of(server)


def nothing_left_of(server: Server) -> bool:
    return not server.alive and not Path(f"/proc/{server.pid}").exists()

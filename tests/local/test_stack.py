"""The stack: all or nothing, one for each folder, and nothing left after it."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from extensions import addresses
from extensions.errors import SkewlessError
from extensions.local import apache_kafka, valkey
from extensions.local.ports import is_free
from extensions.local.server_process import Server
from extensions.local.stack import Stack, stop_running
from tests.local.conftest import end, eventually, nothing_left, run_python, said

VARIABLES = (
    addresses.POSTGRES_VARIABLE,
    addresses.REDIS_VARIABLE,
    addresses.KAFKA_VARIABLE,
)

RUN = """
import sys, time
from pathlib import Path
from extensions.local.stack import Stack
print("imported", flush=True)
with Stack(Path(sys.argv[1]), durable=False) as stack:
    program = stack.spawn(["sleep", "300"], "worker")
    running = [*stack.servers.values()]
    print(*(f"{s.pid}:{s.port}" for s in running), f"{program.pid}:0", flush=True)
    time.sleep(300)
"""


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server's address is set in the environment."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder for a stack, which is stopped after the test if it runs in another process."""
    yield tmp_path / "home"
    stop_running(tmp_path / "home")


def starting(home: Path) -> "subprocess.Popen[str]":
    """A process that begins to start a stack in ``home``."""
    process = run_python(RUN, home)
    assert said(process) == ["imported"]
    return process


def running(home: Path) -> "tuple[subprocess.Popen[str], list[tuple[int, int]]]":
    """A process that runs a stack in ``home``, and (pid, port) of its programs; 0 is no port."""
    process = starting(home)
    pairs = [word.split(":") for word in said(process)]
    assert len(pairs) == 4
    return process, [(int(pid), int(port)) for pid, port in pairs]


def all_gone(programs: list[tuple[int, int]]) -> bool:
    return all(
        not Path(f"/proc/{pid}").exists() and (port == 0 or is_free(port)) for pid, port in programs
    )


def test_three_servers_and_their_addresses(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(addresses.HOME_VARIABLE, str(home))
    with Stack(durable=False) as stack:
        assert set(stack.servers) == {"postgres", "redis", "kafka"}
        assert addresses.postgres_url() == stack.addresses.postgres
        assert addresses.redis_url() == stack.addresses.redis
        assert addresses.kafka_bootstrap() == stack.addresses.kafka
        with psycopg.connect(stack.addresses.postgres) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        stack.publish(http="http://127.0.0.1:1")
        state = json.loads((home / "stack.json").read_text())
        assert state == {
            "pid": os.getpid(),
            "postgres": stack.addresses.postgres,
            "redis": stack.addresses.redis,
            "kafka": stack.addresses.kafka,
            "http": "http://127.0.0.1:1",
        }
        assert stat.S_IMODE((home / "stack.json").stat().st_mode) == 0o600
        ports = {key: server.port for key, server in stack.servers.items()}
        servers = list(stack.servers.values())
    assert not any(server.alive for server in servers)
    assert not (home / "stack.json").exists()

    with Stack(durable=False) as stack:
        assert {key: server.port for key, server in stack.servers.items()} == ports


def test_a_remembered_port_that_is_taken_is_replaced(home: Path) -> None:
    with Stack(home, durable=False) as stack:
        port = stack.servers["redis"].port
    other = valkey.start(home / "other", port, durable=False)
    with Stack(home, durable=False) as stack:
        assert stack.servers["redis"].port != port
    other.stop()


def test_what_the_environment_names_is_used_and_not_started(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: list[Server]
) -> None:
    own = valkey.start(tmp_path / "own", durable=False)
    kept.append(own)
    monkeypatch.setenv(addresses.REDIS_VARIABLE, own.url)
    monkeypatch.setenv(addresses.KAFKA_VARIABLE, "kafka.example:9092")
    with Stack(home, durable=False) as stack:
        assert set(stack.servers) == {"postgres"}
        assert stack.addresses.redis == own.url
        assert stack.addresses.kafka == "kafka.example:9092"
        assert stack.environ()[addresses.POSTGRES_VARIABLE] == stack.addresses.postgres
    assert own.alive


def test_a_second_stack_is_refused(home: Path) -> None:
    process, _ = running(home)
    with (
        pytest.raises(SkewlessError, match=rf"running in .* already \(process {process.pid}\)"),
        Stack(home),
    ):
        pass
    end(process, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_asked_to_end_it_leaves_nothing(home: Path, number: signal.Signals) -> None:
    process, programs = running(home)
    end(process, number)
    assert all_gone(programs)
    assert not (home / "stack.json").exists()


def test_interrupted_twice_it_still_leaves_nothing(home: Path) -> None:
    process, programs = running(home)
    process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    end(process, signal.SIGINT)
    assert all_gone(programs)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_interrupted_while_starting_it_leaves_nothing(home: Path, delay: float) -> None:
    process = starting(home)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    # Python drops one now and then that comes within an import; whoever waits presses again.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    end(process, signal.SIGINT)
    for name in ("postgres", "valkey", "tansu"):
        if (home / name / "server.lock").exists():
            assert eventually(lambda name=name: nothing_left(home / name, 2**22, 1))  # type: ignore[misc]
    assert not (home / "stack.json").exists()


def test_killed_it_leaves_nothing_and_can_be_started_again(home: Path) -> None:
    process, programs = running(home)
    end(process, signal.SIGKILL)
    assert eventually(lambda: all_gone(programs))
    with Stack(home, durable=False) as stack:
        assert all(server.alive for server in stack.servers.values())


def test_an_exception_stops_everything(home: Path) -> None:
    servers: list[Server] = []
    with pytest.raises(ZeroDivisionError), Stack(home, durable=False) as stack:
        servers += stack.servers.values()
        raise ZeroDivisionError
    assert len(servers) == 3
    assert not any(server.alive for server in servers)


def test_a_server_that_does_not_start_stops_the_others(home: Path) -> None:
    (home / "postgres" / "pgdata").mkdir(parents=True)
    with pytest.raises(SkewlessError, match="is not a data folder"), Stack(home):
        pass
    for name in ("valkey", "tansu"):
        assert nothing_left(home / name, 2**22, 1)
    assert not (home / "stack.json").exists()


def test_an_unknown_broker_is_one_sentence(home: Path) -> None:
    with pytest.raises(SkewlessError, match="say `tansu` or `apache`"), Stack(home, kafka="x"):  # type: ignore[arg-type]
        pass


def test_deaths_are_reported_once_by_name(home: Path) -> None:
    with Stack(home, durable=False) as stack:
        assert stack.wait_any(timeout=0.1) is None
        stack.spawn(["sh", "-c", "echo tired; exit 7"], "worker")
        dead = stack.wait_any(timeout=20)
        assert dead is not None
        assert (dead.name, dead.exit_code, dead.last_words()) == ("worker", 7, "tired")
        assert stack.wait_any(timeout=0.1) is None
        os.kill(stack.servers["redis"].pid, signal.SIGKILL)
        dead = stack.wait_any(timeout=20)
        assert dead is not None
        assert dead.name == "Valkey"
        assert "redis" not in stack.servers


def test_programs_are_given_the_addresses(home: Path) -> None:
    with Stack(home, durable=False) as stack:
        stack.spawn(["sh", "-c", "echo $SKEWLESS_REDIS_URL"], "printer")
        dead = stack.wait_any(timeout=20)
        assert dead is not None
        assert dead.last_words() == stack.addresses.redis


def test_stop_running(home: Path) -> None:
    assert stop_running(home) is None
    process, programs = running(home)
    assert stop_running(home) == process.pid
    assert all_gone(programs)
    assert stop_running(home) is None
    process.wait(timeout=20)


def test_stop_running_kills_what_does_not_listen(home: Path) -> None:
    process, programs = running(home)
    process.send_signal(signal.SIGSTOP)
    assert stop_running(home, timeout=0.5) == process.pid
    assert eventually(lambda: all_gone(programs))
    assert not (home / "stack.json").exists()
    process.wait(timeout=20)


def test_a_stale_pid_is_never_signalled(home: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    home.mkdir()
    (home / "stack.lock").write_text(str(bystander.pid))
    assert stop_running(home) is None
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_data_is_there_after_a_restart(home: Path) -> None:
    with Stack(home) as stack:
        with psycopg.connect(stack.addresses.postgres) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        with redis.Redis.from_url(stack.addresses.redis) as client:
            client.set("kept", 1)
    with Stack(home) as stack:
        with psycopg.connect(stack.addresses.postgres) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
        with redis.Redis.from_url(stack.addresses.redis) as client:
            assert client.get("kept") == b"1"


@pytest.mark.apache_kafka
@pytest.mark.skipif(
    apache_kafka.available() is not None, reason=apache_kafka.available() or "available"
)
def test_with_apache_kafka(home: Path) -> None:
    with Stack(home, kafka="apache", durable=False) as stack:
        servers = list(stack.servers.values())
        assert {server.name for server in servers} == {"PostgreSQL", "Valkey", "Apache Kafka"}
        assert len({port for server in servers for port in server.ports}) == 4
    assert not any(server.alive for server in servers)

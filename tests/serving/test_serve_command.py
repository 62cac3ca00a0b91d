"""`skewless serve` itself: TLS, workers, and the loopback interface only."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from feast import FeatureStore

from extensions import addresses
from extensions.errors import SkewlessError
from extensions.local.ports import free_port
from extensions.serving.settings import Settings
from tests.serving.redis_nodes import until

COMMAND = [sys.executable, "-c", "from extensions.cli import main; main()", "serve"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = trustme.CA()
    folder = tmp_path_factory.mktemp("tls")
    server = made.issue_cert("127.0.0.1", "localhost")
    server.cert_chain_pems[0].write_to_path(folder / "server.pem")
    server.private_key_pem.write_to_path(folder / "server.key")
    made.cert_pem.write_to_path(folder / "ca.pem")
    return folder


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def process(
    feast_store: FeatureStore, database: str, redis_url: str, authority: Path, port: int
) -> Iterator["subprocess.Popen[str]"]:
    # Where Feast is imported it makes a folder for figures; the server gets one of its own.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PROMETHEUS_")}
    variables = {addresses.POSTGRES_VARIABLE: database, addresses.REDIS_VARIABLE: redis_url}
    options = ["--port", str(port), "--workers", "2", "--api-key", "secret"]
    options += ["--tls-certificate", str(authority / "server.pem")]
    options += ["--tls-key", str(authority / "server.key")]
    running = subprocess.Popen(
        COMMAND + options, env={**inherited, **variables}, stderr=subprocess.PIPE, text=True
    )
    yield running
    running.kill()
    running.wait()


@pytest.fixture(scope="module")
def http(process: Any, authority: Path, port: int) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=authority / "ca.pem")
    with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, timeout=5) as client:
        until(lambda: ready(client, process), 90)
        yield client


def ready(client: httpx.Client, process: Any) -> bool:
    assert process.poll() is None, process.stderr.read()
    try:
        return client.get("/ready", headers={"connection": "close"}).status_code == 200
    except httpx.TransportError:
        return False


def ask(client: httpx.Client) -> int:
    headers = {"x-api-key": "secret", "connection": "close"}
    return client.get("/v1/features/user/1", headers=headers).status_code


def test_nothing_of_the_warm_up_is_counted(http: httpx.Client) -> None:
    names = ("request_seconds", "request_items", "answers", "rows_served")
    for name in names:
        assert f"skewless_{name}_" not in samples(http)
    assert ask(http) == 200
    assert 'skewless_request_seconds_count{route="/v1/features/user/"} 1.0' in samples(http)
    assert 'skewless_answers_total{route="/v1/features/user/",status="200"} 1.0' in samples(http)


def samples(http: httpx.Client) -> str:
    lines = http.get("/metrics", headers={"connection": "close"}).text.splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def test_over_tls_with_the_key(http: httpx.Client, port: int) -> None:
    assert ask(http) == 200
    assert http.get("/v1/features/user/1").status_code == 401
    assert http.post("/push", json={"push_source_name": "x", "df": {}}).status_code == 401
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://127.0.0.1:{port}/health")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/health")


def test_a_tls_handshake_has_seconds(http: httpx.Client, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
        began = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - began < 15
    assert ask(http) == 200


def test_on_loopback_only(http: httpx.Client, port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=2)


def test_a_worker_that_dies_is_replaced(http: httpx.Client, process: Any) -> None:
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: len(set(children(process.pid)) - {workers[0]}) == 2, 60)
    until(lambda: all(ask(http) == 200 for _ in range(10)), 60)
    text = http.get("/metrics").text
    assert 'skewless_request_seconds_count{route="/v1/features/user/"}' in text


def test_the_signal_to_stop_stops_all(http: httpx.Client, process: Any) -> None:
    workers = children(process.pid)
    http.close()  # or its idle connections are waited for, and the end of their TLS
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert process.returncode == 0
    began = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() - began < 10
        time.sleep(0.05)


def test_settings_that_cannot_be(repo_root: Path, authority: Path, tmp_path: Path) -> None:
    good = {"tls_certificate": authority / "server.pem", "tls_key": authority / "server.key"}
    for wrong, says in (
        ({"tls_key": None}, "needs both"),
        ({"tls_key": tmp_path / "nothing"}, "no file"),
        ({"workers": 0}, "at least one worker"),
        ({"port": 70_000}, "port"),
        ({"redis_deadline_ms": 0}, "deadline"),
        ({"max_items": -1}, "max-items"),
        ({"max_body": 0}, "max-body"),
        ({"max_connections": 0}, "max-connections"),
        ({"api_key": ""}, "empty"),
    ):
        with pytest.raises(SkewlessError, match=says):
            Settings(repo=repo_root, **(good | wrong))


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in found]

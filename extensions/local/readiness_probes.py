"""Is it ready? Raw questions on the wire, without the seconds that clients' retries hide."""

import socket
import struct

from extensions.local.ports import LOOPBACK

_TIMEOUT_SECONDS = 1.0
_METADATA_KEY = 3
_METADATA_VERSION = 4  # the oldest that Kafka 4 answers; its cluster id names the broker


def valkey_answers(port: int, pid: int) -> bool:
    """Whether the Valkey (or Redis) of process ``pid`` has loaded its data and serves ``port``."""
    with _connect(port) as connection:
        connection.sendall(b"PING\r\nINFO server\r\n")
        answer = b""
        while b"process_id:" not in answer or not answer.endswith(b"\r\n"):
            if not (part := connection.recv(65_536)):
                return False
            answer += part
    # While the append-only file is being read, PING is answered with -LOADING.
    return answer.startswith(b"+PONG") and b"process_id:%d\r\n" % pid in answer


def kafka_answers(port: int, cluster_id: str) -> bool:
    """Whether a broker of cluster ``cluster_id`` serves ``port`` and lists itself in metadata."""
    client_id = b"skewless"
    request = struct.pack(">hhih", _METADATA_KEY, _METADATA_VERSION, 1, len(client_id)) + client_id
    request += struct.pack(">ib", 0, 0)  # no topics, and create none
    with _connect(port) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _read(connection, 4))
        if not 0 < size < 1_000_000:
            return False
        answer = _read(connection, size)
    _correlation, _throttle_ms, brokers = struct.unpack_from(">iii", answer)
    return bool(brokers > 0 and cluster_id.encode() in answer)


def _connect(port: int) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), timeout=_TIMEOUT_SECONDS)


def _read(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        if not (part := connection.recv(size - len(received))):
            raise ConnectionError("the broker closed the connection")
        received += part
    return received

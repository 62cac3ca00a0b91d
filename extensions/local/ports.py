"""Free TCP ports on the loopback interface."""

import random
import socket

from extensions.errors import ConflictError

LOOPBACK = "127.0.0.1"

# Below the range from which systems take the ports of outgoing connections (32768 and up on
# Linux, 49152 and up elsewhere), so that no client's connection can take a port between the
# look and the server's own bind.
_CANDIDATES = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: without it, a port is refused for a minute after its last connection.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(preferred: int | None = None, taken: frozenset[int] = frozenset()) -> int:
    """``preferred`` if it is free, else any free port outside ``taken``.

    Nothing is reserved: another program may take the port before the server binds it.
    ``server.start`` tries again with another port when that happens.
    """
    if preferred is not None and preferred not in taken and is_free(preferred):
        return preferred
    for port in random.sample(_CANDIDATES, 200):
        if port not in taken and is_free(port):
            return port
    raise ConflictError("No free port on 127.0.0.1: close what is listening there, and try again.")

"""Free TCP ports on the loopback interface, and who holds one that is taken."""

import errno
import random
import socket

from extensions.errors import ConfigurationError, ConflictError

LOOPBACK = "127.0.0.1"

# Below the range from which systems take the ports of outgoing connections (32768 and up on
# Linux, 49152 and up elsewhere), so that no client's connection can take a port between the
# look and the server's own bind.
_CANDIDATES = range(20_000, 32_000)

# "Bad ports" of the Fetch standard (fetch.spec.whatwg.org, Port blocking) from 1024 on: a browser
# refuses a URL that names one.
BLOCKED_BY_BROWSERS = frozenset(
    {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566}
    | {6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080}
)


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


def require_free(port: int, what: str, host: str = LOOPBACK, option: str = "--port") -> None:
    """Check that ``what`` could listen on ``port`` of ``host`` now; port 0 always can.

    Raises:
        SkewlessError: another program listens there, or the port may not be used; the sentence
            names the port and, where the system tells, the process.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigurationError(
                    f"{what} cannot listen on {host}:{port} ({error.strerror}): choose another "
                    f"port with {option}."
                ) from error
            raise ConflictError(
                f"{what} cannot listen on port {port}, which is in use by {holder_of(port)}: stop "
                f"that, or choose another port with {option}."
            ) from error


def holder_of(port: int) -> str:
    """The program that listens on ``port``, as ``process 123 (name)``, for a message."""
    import psutil  # noqa: PLC0415 - needed in one sentence only

    try:
        listening = psutil.net_connections(kind="tcp")
        pids = [
            found.pid
            for found in listening
            if found.status == psutil.CONN_LISTEN and found.laddr[1:] == (port,) and found.pid
        ]
        if pids:
            # The parent of forked workers, which share the socket, is the one to stop.
            return f"process {min(pids)} ({psutil.Process(min(pids)).name()})"
    except (psutil.Error, OSError):
        pass
    return "another program"


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

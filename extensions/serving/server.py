"""Workers: forked after the imports, each with its own connections, replaced when they die."""

import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from feast import FeatureStore

from extensions.errors import SkewlessError
from extensions.serving.settings import Settings

if TYPE_CHECKING:
    from extensions.serving.application import Application

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
# A worker that dies sooner than this is not replaced at once, lest a mistake burn the machine.
_TOO_SOON = 1.0


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Call it in the main thread.

    Raises:
        SkewlessError: the port is taken, or the repository cannot be read.
    """
    if settings.workers > 1:
        # Read when prometheus_client is imported: figures of all workers are added up there.
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="skewless-"))
    _warn(settings)
    import extensions.serving.application  # noqa: F401, PLC0415 - forked workers share it

    listening = _listen(settings)
    if settings.workers == 1:
        _serve(settings, listening)
        return
    gc.collect()
    gc.freeze()
    _supervise(settings, listening)


def _warn(settings: Settings) -> None:
    local = settings.host in ("localhost", "::1") or settings.host.startswith("127.")
    if not local and settings.tls_certificate is None:
        logger.warning("Beyond this machine without TLS: put a proxy before it, or give --tls-….")


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        raise SkewlessError(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}): choose "
            "another --port, or stop what runs there."
        ) from error
    listening.listen(2048)
    listening.set_inheritable(True)
    return listening


def _serve(settings: Settings, listening: socket.socket) -> None:
    from extensions.serving.application import Application  # noqa: PLC0415 - after the fork

    application = Application(settings, FeatureStore(repo_path=str(settings.repo)))
    server = http_server(application, settings)
    server.run(sockets=[listening])
    if not server.started:
        raise SkewlessError("The server could not start: its log says why.")


def http_server(application: "Application", settings: Settings) -> uvicorn.Server:
    """The HTTP server around the application, which sees the requests that it has in hand."""
    config = uvicorn.Config(
        application,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=10,
        ssl_certfile=settings.tls_certificate and str(settings.tls_certificate),
        ssl_keyfile=settings.tls_key and str(settings.tls_key),
    )
    server = uvicorn.Server(config)
    application.in_hand = server.server_state.tasks
    return server


def _supervise(settings: Settings, listening: socket.socket) -> None:  # noqa: C901
    stopping = False
    workers: dict[int, float] = {}

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for pid in workers:
            os.kill(pid, signal.SIGTERM)

    def start() -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            workers[pid] = time.monotonic()
            return
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() == parent:
                _serve(settings, listening)
            code = 0
        except SkewlessError as error:
            sys.stderr.write(f"{error.message}\n")
        finally:
            os._exit(code)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for _ in range(settings.workers):
        start()
    while workers:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        began = workers.pop(pid, None)
        if began is None or stopping:
            continue
        logger.warning("Worker %s ended (%s): starting another.", pid, status)
        if time.monotonic() - began < _TOO_SOON:
            time.sleep(_TOO_SOON)
        start()

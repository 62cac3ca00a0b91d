"""The HTTP server's processes: one worker, or several under a supervisor that replaces them.

Workers are forked after the imports, each with its own connections.
"""

import gc
import logging
import resource
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn
import uvloop
from feast import FeatureStore
from starlette.middleware.cors import CORSMiddleware
from uvicorn.config import LOGGING_CONFIG

from extensions.errors import ConflictError, SkewlessError
from extensions.repository import import_definitions
from extensions.serving.http.bounded_http_protocol import (
    ConnectionLimits,
    ConnectionSweep,
    bounded_protocol,
)
from extensions.serving.observability.multiprocess_metric_files import metric_files
from extensions.serving.observability.request_tracing import traced_application
from extensions.serving.settings import Settings
from extensions.serving.supervisor import supervise
from extensions.structured_logs import switched_on

if TYPE_CHECKING:
    from extensions.serving.application import Application

logger = logging.getLogger(__name__)

# Files that a worker may open, where the system allows it, and those not used for connections
# (Redis, PostgreSQL, metrics, late imports).
_MOST_FILES, _OTHER_FILES = 65_536, 256
# Seconds for a TLS handshake: until then a connection is not counted.
_HANDSHAKE_SECONDS = 5.0
# What pages of other origins may send and read. Tokens and keys are headers: no cookies.
_CORS_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_CORS_HEADERS = ("Accept", "Authorization", "Content-Type", "X-Api-Key")
_CORS_EXPOSED = ("Allow", "Retry-After", "X-Feature-Latency-Ms")


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Call it in the main thread.

    Raises:
        SkewlessError: the port is taken, or the repository cannot be read.
    """
    _warn(settings)
    # What transforms import when they run, before anything else of that name is found.
    import_definitions(settings.repo)
    _raise_file_limit()
    with metric_files(several=settings.workers > 1) as files:
        import extensions.serving.application  # noqa: F401, PLC0415 - forked workers share it

        listening = _listen(settings)
        if settings.workers == 1:
            # uvicorn sends itself the signal once more when it has stopped: end as usual then.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            _serve(settings, listening)
            return
        gc.collect()
        gc.freeze()
        supervise(settings.workers, lambda: _serve(settings, listening), files)


def _raise_file_limit() -> int:
    """Raise the limit of open files as far as allowed; returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MOST_FILES if soft == resource.RLIM_INFINITY else soft


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
        raise ConflictError(
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
    """The HTTP server around the application, with limits on its connections."""
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = _MOST_FILES if room == resource.RLIM_INFINITY else room
    limits = ConnectionLimits(
        # A quarter at least is for connections, however few files there may be.
        connections=min(settings.max_connections, max(room - _OTHER_FILES, room // 4)),
        headers=settings.max_header,
        header_seconds=settings.header_seconds,
        body_seconds=settings.body_seconds,
        keep_alive=settings.keep_alive,
    )
    app = traced_application(application)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=_CORS_METHODS,
            allow_headers=_CORS_HEADERS,
            expose_headers=_CORS_EXPOSED,
        )
    config = uvicorn.Config(
        app,
        loop=f"{__name__}:Loop",
        http=bounded_protocol(limits),
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        # uvicorn's loggers have handlers of their own, where JSON is not wanted.
        log_config=None if switched_on() else LOGGING_CONFIG,
        server_header=False,
        date_header=False,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=10,
        ssl_certfile=settings.tls_certificate and str(settings.tls_certificate),
        ssl_keyfile=settings.tls_key and str(settings.tls_key),
    )
    server = uvicorn.Server(config)
    application.sweep = ConnectionSweep(server.server_state.connections)
    return server


class Loop(uvloop.Loop):
    """uvloop's event loop with a short deadline for TLS handshakes."""

    def create_server(self, *arguments: Any, **named: Any) -> Any:
        """As uvloop's."""
        if named.get("ssl") is not None:
            named.setdefault("ssl_handshake_timeout", _HANDSHAKE_SECONDS)
        return super().create_server(*arguments, **named)

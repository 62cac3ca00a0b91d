"""HTTP/1.1 connections with limits: uvicorn's protocol, bounded in number, size and time.

The limits hold for every route. A periodic sweep closes overdue connections (slow headers, slow
bodies, idle connections, clients that do not read), so that no request needs a timer of its own.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from extensions.thread_supervision import LastingTask, Living

logger = logging.getLogger(__name__)

# Seconds between two sweeps; connections checked in one step (a fraction of a millisecond), and the
# seconds between two steps.
SWEEP_SECONDS, SWEEP_AT_ONCE, SWEEP_PAUSE = 0.5, 200, 0.005
# Seconds that a refused client is still read from (and ignored), so that it reads the response.
LINGER_SECONDS = 2.0
# Seconds that a client may leave a response unread once the buffers are full.
WRITE_SECONDS = 20.0
# Bytes of unread responses of all connections; beyond it those unread longest are closed.
MOST_UNREAD = 256_000_000
# Requests that a connection may pipeline.
MOST_PIPELINED = 64
# Up to this share of the limit, excess connections get a 503; further ones are just closed.
TOLD_SHARE = 1.1

# The phase of a connection: idle, reading headers, reading a body, closing.
_IDLE, _HEADERS, _BODY, _CLOSING = range(4)


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of one worker's connections; sizes in bytes, times in seconds.

    ``headers``: request line and headers of one request (431). ``header_seconds``: from the first
    byte to the last header, and from the connection to the first byte (408). ``body_seconds``:
    from the last header to the end of the body (408). ``connections``: further ones get 503.
    ``keep_alive``: how long a connection may be idle between requests.
    """

    connections: int
    headers: int
    header_seconds: float
    body_seconds: float
    keep_alive: float


class _RefusedError(Exception):
    """Raised in a parser callback to stop parsing; the response is in ``_answer``."""


class JoinedReply:
    """A reply's transport: its head goes with the first piece of its body, in one write.

    ASGI wants the head held back until there is a body; uvicorn writes it at once.
    """

    __slots__ = ("_cycle", "_head", "_held", "_transport", "close", "is_closing")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport, self._cycle = transport, cycle
        self._head, self._held = b"", False
        self.close, self.is_closing = transport.close, transport.is_closing

    def write(self, data: bytes) -> None:
        """Write, or keep what is the head of a reply with a body."""
        if self._head:
            data, self._head = self._head + data, b""
        elif not self._held and self._cycle.response_started:
            self._held = True
            if self._cycle.scope["method"] != "HEAD":
                self._head = data
                return
        self._transport.write(data)


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Subclasses made by `bounded_protocol` carry the ``limits``."""

    limits: ConnectionLimits

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._phase = _IDLE
        # When the phase began (loop time); 0: within the data that is being parsed.
        self._since = 0.0
        # Bytes received since the request began, or since the last piece of its body. Where it
        # began behind another one, in the same piece of data, nobody says at which byte:
        # ``_unspent`` leaves that piece out, ``_received`` counts all of it.
        self._unspent = self._received = self._chunk = 0
        # Whether the data that is being parsed holds nothing of an earlier request so far.
        self._unshared = True
        self._answer: tuple[int, str] | None = None
        self._requests = 0
        self._write_paused_at = 0.0

    # Called by asyncio (asyncio.Protocol).

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it with 503 where there are too many."""
        super().connection_made(transport)
        self._since = self.loop.time()
        most = self.limits.connections
        if len(self.connections) > most * TOLD_SHARE + 1:
            transport.abort()
        elif len(self.connections) > most:
            self._refuse(503, "The server has too many connections.")

    def data_received(self, data: bytes) -> None:
        """Parse received data, within the limits."""
        if self._phase == _CLOSING:
            return
        self._chunk = len(data)
        self._unspent += self._chunk
        self._received += self._chunk
        self._unshared = self._phase == _IDLE
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # Upgrades are ignored: what follows is the next request.
                read = upgrade.args[0]
                data = data[read:]
                if read and data:
                    continue
            except httptools.HttpParserError:
                self._refuse(*(self._answer or (400, "The request is not HTTP/1.1.")))
                return
            break
        if self._phase in (_HEADERS, _BODY):
            if not self._since:
                self._since = self.loop.time()
            if self._unspent > self.limits.headers:
                self._refuse(*self._too_large())

    def pause_writing(self) -> None:
        """The client reads more slowly than replies are made."""
        self._write_paused_at = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._write_paused_at = 0.0
        super().resume_writing()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._phase, self._since = _HEADERS, 0.0
        self._unspent = self._chunk if self._unshared else 0
        self._received, self._unshared = self._chunk, False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what trails a body says nothing of a request that was admitted before."""
        if self._phase == _HEADERS:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, if its headers are within the limits."""
        if self._received > self.limits.headers:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self.limits.headers:
                self._answer = self._too_large()
                raise _RefusedError
        if len(self.pipeline) >= MOST_PIPELINED:
            self._answer = 503, f"At most {MOST_PIPELINED} requests may be sent ahead."
            raise _RefusedError
        self._phase, self._since, self._unspent = _BODY, 0.0, 0
        self._requests += 1
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.transport = JoinedReply(self.transport, self.cycle)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._unspent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: from here on it is the application's time."""
        self._phase, self._unspent = _IDLE, 0
        super().on_message_complete()

    # What the application's reply calls.

    def on_response_complete(self) -> None:
        """Go on with the next request. As uvicorn's, with the sweep in place of a timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._phase in (_IDLE, _BODY):
            self._since = self.loop.time()

    # Called by the sweep.

    def sweep(self, now: float) -> None:
        """End the connection if it is overdue."""
        if self._write_paused_at and now - self._write_paused_at > WRITE_SECONDS:
            self.transport.abort()
            return
        waited, limits = now - self._since, self.limits
        if self._phase == _CLOSING:
            if waited > LINGER_SECONDS and not self._busy:
                self.transport.abort()
        elif self._phase == _HEADERS:
            if waited > limits.header_seconds:
                self._refuse(408, f"The headers took more than {limits.header_seconds:g} seconds.")
        elif self._phase == _BODY:
            allowed = LINGER_SECONDS if self.cycle.response_complete else limits.body_seconds
            if waited > allowed:
                self._refuse(408, f"The body took more than {limits.body_seconds:g} seconds.")
        elif not self._busy and waited > (
            limits.keep_alive if self._requests else limits.header_seconds
        ):
            if self.transport.is_closing() or self.transport.get_write_buffer_size():
                self.transport.abort()  # close() would wait for a client that does not read
            else:
                self.transport.close()

    @property
    def unread(self) -> tuple[float, int]:
        """Since when responses are unread, and how many bytes of them."""
        return self._write_paused_at, self.transport.get_write_buffer_size()

    @property
    def keeps_up(self) -> bool:
        """Whether the client reads its responses."""
        return not self._write_paused_at

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abort()

    @property
    def _busy(self) -> bool:
        """Whether a complete request waits for its response."""
        return self.cycle is not None and not self.cycle.response_complete

    def _too_large(self) -> tuple[int, str]:
        return 431, f"Request line and headers may have at most {self.limits.headers} bytes."

    def _refuse(self, status: int, message: str) -> None:
        """Send an error response without the application, stop reading, and close soon."""
        reading, self._phase, self._since = self._phase, _CLOSING, self.loop.time()
        if self.transport.is_closing():
            return
        if self._busy and reading != _BODY:
            # Requests that came before are still answered; the last one closes the connection.
            self.cycle.keep_alive = False
            return
        if reading == _BODY:
            # The application waits for the rest of this body, or has answered without it.
            answered = self.cycle.response_started or bool(self.pipeline)
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if answered:
                self.transport.abort()
                return
        self.transport.write(_reply(status, message))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


def _reply(status: int, message: str) -> bytes:
    body = orjson.dumps({"error": {"message": message}})
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    return b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n" % (
        status, HTTPStatus(status).phrase.encode(), retry, len(body),
    ) + b"connection: close\r\n\r\n" + body  # fmt: skip


def bounded_protocol(limits: ConnectionLimits) -> type[BoundedProtocol]:
    """Make the protocol class of one server, with its limits."""
    return type("BoundedProtocol", (BoundedProtocol,), {"limits": limits})


class ConnectionSweep:
    """Closes overdue connections periodically. ``connections``: those of one server."""

    def __init__(self, connections: Iterable[Any]) -> None:
        self._connections = connections
        self._left: list[Any] = []
        self._task: LastingTask | None = None

    @property
    def threads(self) -> list[Living]:
        """What does the work, for liveness."""
        return [self._task] if self._task else []

    def start(self) -> None:
        """Begin, in the running loop."""
        self._task = LastingTask("connections", self._run)

    def stop(self) -> None:
        """End."""
        if self._task:
            self._task.cancel()

    async def _run(self) -> None:
        pause = SWEEP_SECONDS
        while True:
            await asyncio.sleep(pause)
            self._look()
            pause = SWEEP_PAUSE if self._left else SWEEP_SECONDS

    def _look(self) -> None:
        """At the next connections; one that cannot be looked at is ended, and no other."""
        if not self._left:
            self._left = list(self._connections)
            self._end_unread()
        now = asyncio.get_running_loop().time()
        part = self._left[-SWEEP_AT_ONCE:]
        del self._left[-SWEEP_AT_ONCE:]
        for connection in part:
            try:
                connection.sweep(now)
            except Exception:
                logger.exception("A connection could not be swept; it is ended.")
                connection.abort()

    def _end_unread(self) -> None:
        """Close connections with unread responses until these fit their memory limit."""
        slow = [connection for connection in self._left if not connection.keeps_up]
        held = sorted(((*connection.unread, i) for i, connection in enumerate(slow)), reverse=True)
        total = sum(size for _, size, _ in held)
        while held and total > MOST_UNREAD:
            _, size, i = held.pop()
            total -= size
            slow[i].abort()

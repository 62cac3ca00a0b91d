"""The worker's connection to Redis: one socket, pipelined commands, a deadline for each request.

The commands of all requests that one turn of the event loop takes on are written together. A reply
after the deadline fails its own request and no other. A lost connection fails all pending requests
at once and is made again in the background. Nothing is queued: without a connection, or with too
many outstanding commands, a request is refused immediately.

A server nearby answers faster than the kernel puts a process to sleep and wakes it: the only
request in a worker busy-polls for its reply for a moment (`PipelinedConnection.busy_poll`).
"""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import hiredis
from feast.infra.online_stores.redis import RedisOnlineStore, RedisType
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from extensions.addresses import redis_parts
from extensions.errors import ConfigurationError
from extensions.feast_internals import redis_client_async
from extensions.stores.online.redis_io import is_foreign, none_if_foreign
from extensions.thread_supervision import LastingTask

logger = logging.getLogger(__name__)

Command = Sequence[bytes | str | int]

# After this long without a reply the connection counts as dead, and is made again.
DEAD_AFTER = 1.0
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.05, 0.5
# A timer can fire before a reply that is already in the socket buffer was read: wait once more.
TIMER_GRACE = 0.002
MAX_OUTSTANDING = 2_048
# Seconds to busy-poll before sleeping, and the longest average reply time for which it is done;
# the weight of one reply in that moving average.
BUSY_POLL_SECONDS, AVERAGE_WEIGHT = 300e-6, 0.125
READ_BYTES = 1 << 18


class UnavailableError(Exception):
    """Redis did not answer: it is gone, slow, loading or out of memory."""


class RedisConnection(Protocol):
    """A connection that runs commands in one round trip."""

    connected: bool

    @property
    def answers_quickly(self) -> bool:
        """Whether replies usually arrive sooner than a sleeping process would wake up."""

    async def start(self) -> None:
        """Connect. An unreachable server is not an error: it is retried in the background."""

    def run(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        """Send commands; the replies in order.

        Raises:
            UnavailableError: no reply in time, or an error reply.
        """

    def flush(self) -> None:
        """Write the commands of this turn of the event loop now, not at its end."""

    def busy_poll(self) -> bool:
        """Write and poll for replies for a moment without sleeping; whether all have arrived."""

    async def close(self) -> None:
        """Close the connection."""


@dataclass(slots=True)
class _PendingCommands:
    future: asyncio.Future[list[Any]]
    left: int
    replies: list[Any]
    sent: float
    timer: asyncio.TimerHandle | None = None


class PipelinedConnection(asyncio.Protocol):
    """A connection to a single server over TCP or TLS, from Feast's connection string."""

    def __init__(self, connection_string: str, deadline: float) -> None:
        nodes, self._options = redis_parts(connection_string)
        self._host, self._port = nodes[0]["host"], int(nodes[0]["port"])
        self._tls = _tls(self._options)
        self._deadline = deadline
        self._transport: asyncio.Transport | None = None
        self._pending: deque[_PendingCommands] = deque()
        self._outstanding = 0
        # Commands that the end of this turn of the event loop writes.
        self._unwritten: list[bytes] = []
        self._reader = hiredis.Reader()
        self._closed = False
        self._reconnecting: LastingTask | None = None
        self._liveness_timer: asyncio.TimerHandle | None = None
        self._last_data = 0.0
        # A duplicate of the socket, for busy-polling outside the event loop; None with TLS.
        self._socket: socket.socket | None = None
        self._usual_seconds = 0.0
        self.connected = False
        self.round_trips = 0

    async def start(self) -> None:
        """Connect, and keep on trying in the background if that fails."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect()
        except (OSError, UnavailableError, TimeoutError) as error:
            self._connection_failed(error)
        self._check_liveness()

    def run(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """Send commands; the replies in order, within the deadline."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if not self.connected or self._outstanding > MAX_OUTSTANDING:
            future.set_exception(UnavailableError("Redis is not connected."))
            return future
        waiting = self._send(commands, future)
        waiting.timer = self._loop.call_later(self._deadline, self._timed_out, waiting, False)
        return future

    @property
    def answers_quickly(self) -> bool:
        """Whether replies usually arrive within the time that `busy_poll` polls."""
        return self._socket is not None and self._usual_seconds <= BUSY_POLL_SECONDS

    def flush(self) -> None:
        """Write what `run` was given since the last time."""
        written, self._unwritten = self._unwritten, []
        if written and self._transport is not None:
            self._transport.write(b"".join(written))

    def busy_poll(self) -> bool:
        """Write, and poll for replies for a moment; whether all have arrived."""
        self.flush()
        until = time.perf_counter() + BUSY_POLL_SECONDS
        while self._pending and self._socket is not None:
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                if time.perf_counter() > until:
                    break
            except OSError:
                break  # the event loop sees the same error and handles it
            else:
                if not data:
                    break
                try:
                    self.data_received(data)
                except hiredis.ProtocolError:  # the loop would end the connection, too
                    if self._transport:
                        self._transport.abort()
                    break
        return not self._pending

    async def close(self) -> None:
        """Close the connection and stop reconnecting."""
        self._closed = True
        if self._liveness_timer:
            self._liveness_timer.cancel()
        if self._reconnecting:
            self._reconnecting.cancel()
        if self._transport:
            self._transport.abort()

    # Called by asyncio (asyncio.Protocol).

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new connection begins with nothing outstanding."""
        self._transport = transport  # type: ignore[assignment]
        self._reader = hiredis.Reader()
        self._pending.clear()
        self._unwritten.clear()
        self._outstanding = 0
        self._last_data = self._loop.time()
        if self._tls is None:
            self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            self._socket.setblocking(False)

    def data_received(self, data: bytes) -> None:
        """Resolve pending requests with replies, in the order of their commands."""
        self._last_data = self._loop.time()
        self._reader.feed(data)
        while self._pending:
            reply = self._reader.gets()
            if reply is False:
                return
            first = self._pending[0]
            first.replies.append(reply)
            first.left -= 1
            if not first.left:
                self._pending.popleft()
                self._outstanding -= len(first.replies)
                self._usual_seconds += AVERAGE_WEIGHT * (
                    time.perf_counter() - first.sent - self._usual_seconds
                )
                _resolve(first)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all pending requests and reconnect."""
        self._connection_failed(exc or ConnectionError("closed"))

    def _send(
        self, commands: Sequence[Command], future: asyncio.Future[list[Any]]
    ) -> _PendingCommands:
        waiting = _PendingCommands(future, len(commands), [], time.perf_counter())
        self._pending.append(waiting)
        self._outstanding += len(commands)
        self.round_trips += 1
        if not self._unwritten:
            self._loop.call_soon(self.flush)
        self._unwritten += [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]
        return waiting

    def _timed_out(self, waiting: _PendingCommands, final: bool) -> None:
        if waiting.future.done():
            return
        if not final:
            waiting.timer = self._loop.call_later(TIMER_GRACE, self._timed_out, waiting, True)
            return
        waiting.future.set_exception(UnavailableError("Redis did not answer in time."))

    def _check_liveness(self) -> None:
        """Periodic timer: drop a connection whose replies are overdue; ping an idle one."""
        self._liveness_timer = self._loop.call_later(DEAD_AFTER / 4, self._check_liveness)
        if not self.connected:
            return
        if self._replies_overdue():
            self._loop.call_later(TIMER_GRACE, self._drop_overdue)
        elif not self._pending and self._loop.time() - self._last_data > DEAD_AFTER:
            self.run([("PING",)]).add_done_callback(lambda done: done.exception())

    def _replies_overdue(self) -> bool:
        """Whether nothing has come for too long since the server owes a reply."""
        if not self._pending:
            return False
        silent = min(
            self._loop.time() - self._last_data, time.perf_counter() - self._pending[0].sent
        )
        return silent > DEAD_AFTER

    def _drop_overdue(self) -> None:
        if self._transport and self._replies_overdue():
            self._transport.abort()

    def _connection_failed(self, error: Exception) -> None:
        if self.connected:
            logger.warning("Redis at %s:%s is gone (%s).", self._host, self._port, error)
        self.connected = False
        self._transport = None
        if self._socket:
            self._socket.close()
            self._socket = None
        for waiting in self._pending:
            if waiting.timer:
                waiting.timer.cancel()
            if not waiting.future.done():
                waiting.future.set_exception(UnavailableError("The connection to Redis was lost."))
        self._pending.clear()
        self._unwritten.clear()
        if not self._closed and (self._reconnecting is None or not self._reconnecting.is_alive()):
            self._reconnecting = LastingTask("link", self._reconnect)

    async def _reconnect(self) -> None:
        pause = FIRST_RETRY_SECONDS
        while not self._closed:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_RETRY_SECONDS)
            with contextlib.suppress(OSError, UnavailableError, TimeoutError):
                await self._connect()
                logger.warning("Redis at %s:%s is back.", self._host, self._port)
                return

    async def _connect(self) -> None:
        async with asyncio.timeout(LONGEST_RETRY_SECONDS * 2):
            await self._loop.create_connection(lambda: self, self._host, self._port, ssl=self._tls)
            greeting: list[Command] = []
            if password := self._options.get("password"):
                user = self._options.get("username")
                greeting.append(("AUTH", *([user] if user else []), str(password)))
            if database := self._options.get("db"):
                greeting.append(("SELECT", int(database)))
            greeting.append(("PING",))
            future: asyncio.Future[list[Any]] = self._loop.create_future()
            self._send(greeting, future)
            try:
                await future
            except UnavailableError:
                if self._transport:
                    self._transport.abort()
                raise
        self.connected = True


class ClientConnection:
    """A connection for Sentinel and Cluster: redis-py's client, which locates the keys."""

    def __init__(self, store: RedisOnlineStore, config: Any, deadline: float) -> None:
        self._store, self._config, self._deadline = store, config, deadline
        self._probing: LastingTask | None = None
        self.connected = False
        self.round_trips = 0

    async def start(self) -> None:
        """Create the client; it connects on first use."""
        self._client = await redis_client_async(self._store, self._config)
        # The first connection discovers the nodes, and may take longer than a request's deadline.
        with contextlib.suppress(UnavailableError):
            await self._run([("PING",)], LONGEST_RETRY_SECONDS * 2)
        self._probing = LastingTask("link", self._probe)

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands; the replies in order. In a cluster, an MGET is split by node."""
        return await self._run(commands, self._deadline)

    @property
    def answers_quickly(self) -> bool:
        """False: the client's connections cannot be polled."""
        return False

    def flush(self) -> None:
        """Do nothing: the client writes at once."""

    def busy_poll(self) -> bool:
        """Do nothing; False."""
        return False

    async def _run(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        self.round_trips += 1
        cluster = self._config.redis_type == RedisType.redis_cluster
        try:
            async with asyncio.timeout(deadline):
                if cluster:
                    replies = await self._in_cluster(commands)
                else:
                    async with self._client.pipeline(transaction=False) as pipe:
                        for command in commands:
                            pipe.execute_command(*command)
                        replies = await pipe.execute(raise_on_error=False)
                replies = [none_if_foreign(reply) for reply in replies]
        except (RedisError, RedisClusterException, AttributeError, OSError, TimeoutError) as error:
            # AttributeError: redis-py raises it while it discovers a new node.
            self.connected = False
            raise UnavailableError(f"Redis did not answer: {type(error).__name__}.") from error
        self.connected = True
        return list(replies)

    async def _in_cluster(self, commands: Sequence[Command]) -> list[Any]:
        replies_to_come = [
            self._client.mget_nonatomic(command[1:])
            if command[0] == "MGET"
            else self._client.execute_command(*command)
            for command in commands
        ]
        return list(await asyncio.gather(*map(_answer, replies_to_come)))

    async def _probe(self) -> None:
        """Ping periodically, so that an outage or a failover is noticed without requests."""
        while True:
            await asyncio.sleep(DEAD_AFTER / 4)
            # More time than a request has: the client may have to find the new master or nodes.
            deadline = self._deadline if self.connected else LONGEST_RETRY_SECONDS
            with contextlib.suppress(UnavailableError):
                await self._run([("PING",)], deadline)

    async def close(self) -> None:
        """Close the client's connections."""
        if self._probing:
            self._probing.cancel()
        await self._client.aclose()


async def _answer(replies_to_come: Awaitable[Any]) -> Any:
    try:
        return await replies_to_come
    except ResponseError as error:
        return error


def redis_connection(store: RedisOnlineStore, config: Any, deadline: float) -> RedisConnection:
    """The connection for the online store's settings.

    Args:
        store: the online store, whose client serves Sentinel and Cluster.
        config: its settings.
        deadline: seconds for each request.
    """
    if config.redis_type == RedisType.redis:
        return PipelinedConnection(config.connection_string, deadline)
    return ClientConnection(store, config, deadline)


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext | None:
    """The TLS context for redis-py's options; None without TLS.

    Raises:
        ConfigurationError: a file is not there, or not what it should be.
    """
    if not options.get("ssl"):
        return None
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if certificate := options.get("ssl_certfile"):
            context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    except OSError as error:
        raise ConfigurationError(
            f"Redis's TLS files cannot be read ({error.strerror or error}): see ssl_ca_certs, "
            "ssl_certfile and ssl_keyfile in its connection string."
        ) from error
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _resolve(waiting: _PendingCommands) -> None:
    if waiting.timer:
        waiting.timer.cancel()
    if waiting.future.done():
        return
    for i, reply in enumerate(waiting.replies):
        if isinstance(reply, hiredis.ReplyError):
            if is_foreign(reply):
                waiting.replies[i] = None
                continue
            waiting.future.set_exception(UnavailableError(str(reply)))
            return
    waiting.future.set_result(waiting.replies)

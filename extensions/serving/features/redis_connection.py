"""One connection to Redis for all requests of a worker: commands are pipelined as they come.

A reply that does not come in time fails its request and no other; a connection that is lost
fails what waits on it at once and is made again in the background. Nothing queues: without a
connection, or with too much outstanding on it, a request is refused immediately.

A server nearby answers in less time than it takes to put a process to sleep and to wake it: a
request that is alone in its worker looks for its reply before it sleeps (`PipelinedLink.hurry`).
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
from extensions.stores.online.redis_io import is_foreign, unless_foreign
from extensions.thread_supervision import LastingTask

logger = logging.getLogger(__name__)

Command = Sequence[bytes | str | int]

# After this long without a reply the connection counts as dead, and is made again.
DEAD_AFTER = 1.0
RETRY_FIRST, RETRY_LONGEST = 0.05, 0.5
# A timer may fire before a reply that lies in the socket already was read: look again.
GRACE = 0.002
MAX_OUTSTANDING = 2_048
# Seconds to look for a reply before sleeping, and how long replies may usually take for it to be
# worth while; how much a single reply weighs in what is usual.
LOOK, WEIGHT = 300e-6, 0.125
MOST_AT_ONCE = 1 << 18


class UnavailableError(Exception):
    """Redis did not answer: it is gone, slow, loading or out of memory."""


class Link(Protocol):
    """Runs commands in one round trip."""

    connected: bool

    @property
    def quick(self) -> bool:
        """Whether replies usually come sooner than a process that sleeps wakes up."""

    async def start(self) -> None:
        """Connect; a server that is away is no error here."""

    def run(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        """The replies, in order. Raises UnavailableError."""

    def hurry(self) -> bool:
        """Look for replies for a moment without sleeping; whether all have come."""

    async def close(self) -> None:
        """Let go."""


@dataclass(slots=True)
class _Waiting:
    future: asyncio.Future[list[Any]]
    left: int
    replies: list[Any]
    sent: float
    timer: asyncio.TimerHandle | None = None


class PipelinedLink(asyncio.Protocol):
    """A single server, over TCP or TLS, from Feast's connection string."""

    def __init__(self, connection_string: str, deadline: float) -> None:
        nodes, self._options = redis_parts(connection_string)
        self._host, self._port = nodes[0]["host"], int(nodes[0]["port"])
        self._tls = _tls(self._options)
        self._deadline = deadline
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[_Waiting] = deque()
        self._outstanding = 0
        self._reader = hiredis.Reader()
        self._closed = False
        self._maker: LastingTask | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._last_data = 0.0
        # The connection's own socket once more, to look at without the loop; not with TLS.
        self._socket: socket.socket | None = None
        self._usual = 0.0
        self.connected = False
        self.round_trips = 0

    async def start(self) -> None:
        """Connect, and keep on trying in the background if that fails."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._connect()
        except (OSError, UnavailableError, TimeoutError) as error:
            self._lost(error)
        self._check()

    def run(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """The replies, in order, within the deadline."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if not self.connected or self._outstanding > MAX_OUTSTANDING:
            future.set_exception(UnavailableError("Redis is not connected."))
            return future
        waiting = self._send(commands, future)
        waiting.timer = self._loop.call_later(self._deadline, self._late, waiting, False)
        return future

    @property
    def quick(self) -> bool:
        """Whether replies usually come within the moment that `hurry` looks."""
        return self._socket is not None and self._usual <= LOOK

    def hurry(self) -> bool:
        """Look for replies for a moment; whether all have come."""
        until = time.perf_counter() + LOOK
        while self._waiting and self._socket is not None:
            try:
                data = self._socket.recv(MOST_AT_ONCE)
            except BlockingIOError:
                if time.perf_counter() > until:
                    break
            except OSError:
                break  # the loop finds it, too, and knows what to do
            else:
                if not data:
                    break
                try:
                    self.data_received(data)
                except hiredis.ProtocolError:  # the loop would end the connection, too
                    if self._transport:
                        self._transport.abort()
                    break
        return not self._waiting

    async def close(self) -> None:
        """End the connection and the attempts to make it."""
        self._closed = True
        if self._watch:
            self._watch.cancel()
        if self._maker:
            self._maker.cancel()
        if self._transport:
            self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new connection begins with nothing outstanding."""
        self._transport = transport  # type: ignore[assignment]
        self._reader = hiredis.Reader()
        self._waiting.clear()
        self._outstanding = 0
        self._last_data = self._loop.time()
        if self._tls is None:
            self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            self._socket.setblocking(False)

    def data_received(self, data: bytes) -> None:
        """Hand out replies in the order of the commands."""
        self._last_data = self._loop.time()
        self._reader.feed(data)
        while self._waiting:
            reply = self._reader.gets()
            if reply is False:
                return
            first = self._waiting[0]
            first.replies.append(reply)
            first.left -= 1
            if not first.left:
                self._waiting.popleft()
                self._outstanding -= len(first.replies)
                self._usual += WEIGHT * (time.perf_counter() - first.sent - self._usual)
                _settle(first)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits, and begin again."""
        self._lost(exc or ConnectionError("closed"))

    def _send(self, commands: Sequence[Command], future: asyncio.Future[list[Any]]) -> _Waiting:
        assert self._transport is not None  # connected
        waiting = _Waiting(future, len(commands), [], time.perf_counter())
        self._waiting.append(waiting)
        self._outstanding += len(commands)
        self.round_trips += 1
        packed = [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]
        self._transport.write(b"".join(packed))
        return waiting

    def _late(self, waiting: _Waiting, final: bool) -> None:
        if waiting.future.done():
            return
        if not final:
            waiting.timer = self._loop.call_later(GRACE, self._late, waiting, True)
            return
        waiting.future.set_exception(UnavailableError("Redis did not answer in time."))

    def _check(self) -> None:
        """Once in a while: a connection on which replies are overdue is given up."""
        self._watch = self._loop.call_later(DEAD_AFTER / 4, self._check)
        stalled = self._loop.time() - self._last_data > DEAD_AFTER
        if self.connected and self._transport:
            if self._waiting and stalled:
                self._transport.abort()
            elif stalled:  # idle: make sure that somebody is there
                self.run([("PING",)]).add_done_callback(lambda done: done.exception())

    def _lost(self, error: Exception) -> None:
        if self.connected:
            logger.warning("Redis at %s:%s is gone (%s).", self._host, self._port, error)
        self.connected = False
        self._transport = None
        if self._socket:
            self._socket.close()
            self._socket = None
        for waiting in self._waiting:
            if waiting.timer:
                waiting.timer.cancel()
            if not waiting.future.done():
                waiting.future.set_exception(UnavailableError("The connection to Redis was lost."))
        self._waiting.clear()
        if not self._closed and (self._maker is None or not self._maker.is_alive()):
            self._maker = LastingTask("link", self._make)

    async def _make(self) -> None:
        pause = RETRY_FIRST
        while not self._closed:
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_LONGEST)
            with contextlib.suppress(OSError, UnavailableError, TimeoutError):
                await self._connect()
                logger.warning("Redis at %s:%s is back.", self._host, self._port)
                return

    async def _connect(self) -> None:
        async with asyncio.timeout(RETRY_LONGEST * 2):
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


class ClientLink:
    """Sentinel and Cluster: redis-py's own client knows where the keys are."""

    def __init__(self, store: RedisOnlineStore, config: Any, deadline: float) -> None:
        self._store, self._config, self._deadline = store, config, deadline
        self._prober: LastingTask | None = None
        self.connected = False
        self.round_trips = 0

    async def start(self) -> None:
        """Make the client; it connects when it is used."""
        self._client = await redis_client_async(self._store, self._config)
        # The first connection finds the nodes out, and may take longer than a request may.
        with contextlib.suppress(UnavailableError):
            await self._run([("PING",)], RETRY_LONGEST * 2)
        self._prober = LastingTask("link", self._probe)

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, in order; in a cluster the keys of an MGET are asked one by one."""
        return await self._run(commands, self._deadline)

    @property
    def quick(self) -> bool:
        """Its connections are the client's own: there is nothing to look at."""
        return False

    def hurry(self) -> bool:
        """Nothing to look at."""
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
                replies = [unless_foreign(reply) for reply in replies]
        except (RedisError, RedisClusterException, AttributeError, OSError, TimeoutError) as error:
            # AttributeError: redis-py trips over a node that it is just learning of.
            self.connected = False
            raise UnavailableError(f"Redis did not answer: {type(error).__name__}.") from error
        self.connected = True
        return list(replies)

    async def _in_cluster(self, commands: Sequence[Command]) -> list[Any]:
        asked = [
            self._client.mget_nonatomic(command[1:])
            if command[0] == "MGET"
            else self._client.execute_command(*command)
            for command in commands
        ]
        return list(await asyncio.gather(*map(_answer, asked)))

    async def _probe(self) -> None:
        """Find out, also while nobody asks, whether it is away or back (a node, a failover)."""
        while True:
            await asyncio.sleep(DEAD_AFTER / 4)
            # What is away is given more time than a request: to find the new master, or nodes.
            deadline = self._deadline if self.connected else RETRY_LONGEST
            with contextlib.suppress(UnavailableError):
                await self._run([("PING",)], deadline)

    async def close(self) -> None:
        """Close the client's connections."""
        if self._prober:
            self._prober.cancel()
        await self._client.aclose()


async def _answer(asked: Awaitable[Any]) -> Any:
    try:
        return await asked
    except ResponseError as error:
        return error


def link_to(store: RedisOnlineStore, config: Any, deadline: float) -> Link:
    """The link that the online store's settings ask for."""
    if config.redis_type == RedisType.redis:
        return PipelinedLink(config.connection_string, deadline)
    return ClientLink(store, config, deadline)


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext | None:
    """As redis-py reads its options; None: over TCP.

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


def _settle(waiting: _Waiting) -> None:
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

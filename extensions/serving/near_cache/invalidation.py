"""Loads the near cache and keeps it current, in a thread, by Redis' client-side caching.

CLIENT TRACKING in broadcasting mode (BCAST): Redis pushes an invalidation for every changed key
under a prefix (written by any client, deleted, expired, evicted), in order, on the connection that
enabled it. A connection that stays up has missed nothing; after one broke, everything is loaded
again. A reply to PING proves that all invalidations before it have been received. A value is read
after its invalidation, so that the newest row is cached.
"""

import asyncio
import contextlib
import logging
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from feast.infra.online_stores.redis import RedisOnlineStore
from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from extensions.feast_internals import redis_client
from extensions.serving.near_cache.cached_views import EntityCache, EntityCacheSpec, NearCache
from extensions.stores.online.redis_io import literal
from extensions.thread_supervision import Lasting, Living

logger = logging.getLogger(__name__)

KEYS_PER_SCAN = 1_000
# Keys decoded at a time: bounds how long the event loop and the interpreter lock are held.
KEYS_PER_READ = 256
PING_EVERY = 0.1
# Seconds without a reply after which the connection counts as dead.
DEAD_AFTER = 2.0
RETRY_FIRST, RETRY_LONGEST = 0.05, 2.0
# Seconds after which a cache is loaded again from scratch, in any case.
RELOAD_EVERY = 900.0
# Python's thread switch interval; its default of 5 ms is longer than a whole request.
THREAD_SWITCH_SECONDS = 0.0005


class ConnectionLostError(Exception):
    """The connection broke, or Redis refused a command."""


class TrackingConnection:
    """A connection to one server with client tracking.

    ``invalidated``: keys to read again, and when they were invalidated at the
    latest (monotonic seconds). ``connection``: redis-py's, which
    knows addresses, passwords and TLS; RESP3.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.invalidated: dict[bytes, float] = {}
        self.sequence = 0
        self.flushed = False
        self.confirmed = time.monotonic()
        self._reader = hiredis.Reader()
        self._replies: deque[Any] = deque()
        self._asked = 0.0
        connection.connect()
        self._socket = connection._sock  # noqa: SLF001
        # poll, since select() takes no descriptor above 1,023.
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def close(self) -> None:
        """Close the connection."""
        self.connection.disconnect()

    def ask(self, *command: Any) -> Any:
        """Run a command; invalidations that arrive meanwhile are recorded."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run commands in one round trip.

        Raises:
            ConnectionLostError: an error reply, or none in time.
        """
        replies = self.ask_all_or_errors(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise ConnectionLostError(str(reply))
        return replies

    def ask_all_or_errors(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run commands in one round trip; error replies are returned.

        Raises:
            ConnectionLostError: no reply in time.
        """
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(command)) for command in commands))
        until = time.monotonic() + DEAD_AFTER
        while len(self._replies) < len(commands):
            if time.monotonic() > until:
                raise ConnectionLostError("Redis does not answer.")
            self.pump(0.1)
        return [self._replies.popleft() for _ in commands]

    def ping(self) -> None:
        """Wait until all invalidations up to now have been received."""
        sent = time.monotonic()
        self.ask("PING")
        self.confirmed = sent

    def pump(self, seconds: float) -> None:
        """Receive what arrives within this time."""
        pending = getattr(self._socket, "pending", None)
        if not (pending and pending()) and not self._poll.poll(seconds * 1000):
            return
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionLostError("Redis closed the connection.")
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if not isinstance(reply, hiredis.PushNotification):
                self._replies.append(reply)
            elif reply[0] == b"invalidate":
                self.sequence += 1
                if reply[1] is None:  # the database was emptied
                    self.flushed = True
                    continue
                # The key was written after the last PING that was answered.
                for key in reply[1]:
                    self.invalidated.setdefault(key, self.confirmed)

    @property
    def exact(self) -> float:
        """The time up to which every change has been received and read (monotonic seconds)."""
        return min(self.confirmed, next(iter(self.invalidated.values()), self.confirmed))


class InvalidationListener:
    """The thread that loads caches and applies invalidations.

    ``connect``: makes a connection for each server, and says whether they are a cluster.
    """

    def __init__(
        self,
        caches: NearCache,
        connect: Callable[[], tuple[list[Any], bool]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._near, self._connect, self._loop = caches, connect, loop
        self._stop = threading.Event()
        self._nodes: list[TrackingConnection] = []
        self._tracked: set[bytes] = set()
        self._loading: EntityCache | None = None
        self._loaded: dict[bytes, tuple[EntityCacheSpec, float]] = {}
        self._cluster = False
        self._generation = 0
        self._thread = Lasting("near copies", self._run, self._stop)

    @property
    def threads(self) -> list[Living]:
        """The listener's thread."""
        return [self._thread]

    def start(self) -> None:
        """Start, with a shorter thread switch interval, so that a load does not delay responses."""
        sys.setswitchinterval(THREAD_SWITCH_SECONDS)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        pause, reported = RETRY_FIRST, ""
        while not self._stop.is_set():
            if not self._near.wanted:
                self._stop.wait(PING_EVERY)
                continue
            try:
                connections_made, self._cluster = self._connect()
                for connection in connections_made:
                    self._nodes.append(TrackingConnection(connection))
                self._follow()
            except (ConnectionLostError, RedisError, OSError, hiredis.HiredisError) as error:
                if str(error) != reported and not self._stop.is_set():
                    reported = str(error)
                    logger.warning("The near cache is off until Redis is back: %s", reported)
            except Exception:
                logger.exception("The near cache failed and is restarted.")
            if self._loaded:
                pause, reported = RETRY_FIRST, ""
            self._forget()
            self._stop.wait(pause)
            pause = min(pause * 2, RETRY_LONGEST)

    def _forget(self) -> None:
        """Drop all caches: they are not kept current any more."""
        for node in self._nodes:
            node.close()
        self._nodes, self._loading = [], None
        self._loaded.clear()
        self._tracked.clear()
        if self._stop.is_set():
            return
        with contextlib.suppress(ConnectionLostError, RuntimeError):
            for prefix in list(self._near.wanted):
                self._in_event_loop(self._near.refuse, prefix, "no connection to follow")

    def _follow(self) -> None:
        topology: Any = None
        while not self._stop.is_set():
            for wanted in list(self._near.wanted.values()):
                self._load_if_due(wanted)
            for node in self._nodes:
                node.pump(0 if node.invalidated else PING_EVERY / len(self._nodes))
                self._apply_invalidations(node)
                if time.monotonic() - node.confirmed >= PING_EVERY:
                    node.ping()
            self._confirm()
            if self._cluster:
                slots = self._nodes[0].ask("CLUSTER", "SLOTS")
                if topology not in (None, slots):
                    raise ConnectionLostError("The cluster's slots moved.")
                topology = slots

    def _load_if_due(self, wanted: EntityCacheSpec) -> None:
        """Load a cache if it is missing, outdated by another specification, or due."""
        what, since = self._loaded.get(wanted.prefix, (None, 0.0))
        if what is wanted and time.monotonic() - since < RELOAD_EVERY:
            return
        if wanted.prefix not in self._tracked:
            for node in self._nodes:
                try:
                    node.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", wanted.prefix)
                except ConnectionLostError as error:
                    self._in_event_loop(
                        self._near.refuse, wanted.prefix, f"no notifications: {error}"
                    )
                    raise
            self._tracked.add(wanted.prefix)
        self._load(wanted)

    def _load(self, wanted: EntityCacheSpec) -> None:
        """Load all rows under the prefix; other caches are kept current meanwhile."""
        self._generation += 1
        cache = self._loading = EntityCache(wanted, self._generation)
        began = time.monotonic()
        for node in self._nodes:
            cursor: Any = b"0"
            while True:
                cursor, keys = node.ask(
                    "SCAN", cursor, "MATCH", literal(wanted.prefix) + b"*",
                    "COUNT", KEYS_PER_SCAN,
                )  # fmt: skip
                for at in range(0, len(keys), KEYS_PER_READ):
                    part = list(filter(cache.fits, dict.fromkeys(keys[at : at + KEYS_PER_READ])))
                    cache.assign(*cache.decode(part, self._values(node, part)))
                    if cache.size > self._near.max_bytes or self._stop.is_set():
                        break
                    self._apply_invalidations(node)
                if cache.size > self._near.max_bytes:
                    self._too_large(wanted)
                    return
                if int(cursor) == 0 or self._stop.is_set():
                    break
                if time.monotonic() - node.confirmed >= PING_EVERY:
                    node.ping()
                    self._confirm()
        for node in self._nodes:
            while node.invalidated or node.flushed:
                self._apply_invalidations(node)
            node.ping()
            self._apply_invalidations(node)
        self._loading = None
        cache.exact_at = min(node.exact for node in self._nodes)
        self._loaded[wanted.prefix] = wanted, time.monotonic()
        self._in_event_loop(self._near.use, cache)
        logger.info(
            "Near cache of %s: %d rows, %.1f MB, in %.2f s.",
            wanted.prefix.decode(errors="replace"),
            cache.count - 1, cache.size / 1e6, time.monotonic() - began,
        )  # fmt: skip

    def _too_large(self, wanted: EntityCacheSpec) -> None:
        self._loading = None
        self._loaded[wanted.prefix] = wanted, time.monotonic()
        max_bytes = f"larger than {self._near.max_bytes / 1e6:.0f} MB"
        logger.warning(
            "The views under %s are read from Redis: their cache would be %s. Allow more with "
            "near_megabytes, or take the tag `near` from them.",
            wanted.prefix.decode(errors="replace"), max_bytes,
        )  # fmt: skip
        self._in_event_loop(self._near.refuse, wanted.prefix, max_bytes)

    def _apply_invalidations(self, node: TrackingConnection) -> None:
        """Read a batch of invalidated keys and update the caches."""
        if node.flushed:
            raise ConnectionLostError("The database was emptied.")
        batch = list(node.invalidated)[:KEYS_PER_READ]
        if not batch:
            return
        # A key that changes while it is read is invalidated again.
        for key in batch:
            del node.invalidated[key]
        caches = [*self._near.caches.values(), *([self._loading] if self._loading else [])]
        for cache in caches:
            keys = [key for key in batch if key.startswith(cache.wanted.prefix) and cache.fits(key)]
            if not keys:
                continue
            rows = cache.decode(keys, self._values(node, keys))
            if cache is self._loading:
                cache.assign(*rows)
            else:
                self._in_event_loop(cache.assign, *rows)

    def _values(self, node: TrackingConnection, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        if self._cluster:  # keys lie in many slots
            replies = node.ask_all_or_errors([("GET", key) for key in keys])
            return [_row(reply) for reply in replies]
        values: list[bytes | None] = node.ask("MGET", *keys)
        return values

    def _confirm(self) -> None:
        """Update the time up to which the caches are exact."""
        exact = min(node.exact for node in self._nodes)
        sequence = sum(node.sequence for node in self._nodes)
        for cache in list(self._near.caches.values()):
            self._loop.call_soon_threadsafe(_set_exact, cache, exact, sequence)

    def _in_event_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a function in the event loop, where alone caches in use change, and wait for it."""
        done = threading.Event()

        def run() -> None:
            try:
                function(*arguments)
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        while not done.wait(0.05):
            if self._stop.is_set():
                raise ConnectionLostError("The server stops.")


def _row(reply: Any) -> bytes | None:
    """A reply to GET as MGET gives it: None for a key of another type."""
    if isinstance(reply, Exception):
        if str(reply).startswith("WRONGTYPE"):
            return None
        raise ConnectionLostError(str(reply))
    value: bytes | None = reply
    return value


def _set_exact(cache: EntityCache, confirmed_at: float, sequence: int) -> None:
    cache.exact_at = max(cache.exact_at, confirmed_at)
    cache.sequence = sequence


def connections(store: RedisOnlineStore, config: Any) -> tuple[list[Any], bool]:
    """Make a connection to each server that holds keys; also whether they are a cluster.

    ``store`` must be one of the caller's own: its client's protocol is changed.
    """
    client: Any = redis_client(store, config)
    if isinstance(client, RedisCluster):
        nodes: Any = client.get_primaries()  # type: ignore[no-untyped-call]
        pools = [node.redis_connection.connection_pool for node in nodes]
    else:
        pools = [client.connection_pool]
    for pool in pools:
        pool.connection_kwargs["protocol"] = 3
        pool.connection_kwargs["socket_connect_timeout"] = DEAD_AFTER
        pool.connection_kwargs["socket_timeout"] = DEAD_AFTER
    return [pool.make_connection() for pool in pools], isinstance(client, RedisCluster)

"""Following Redis: a thread that loads near copies and learns of every write to their keys.

Redis itself tells: CLIENT TRACKING in broadcasting mode sends the key of each change under a
prefix (written by whomever, deleted, expired, evicted), on the connection that asked, in order.
A connection that lives has missed nothing; one that broke, for whatever reason, may have, and
everything is loaded anew. A PING that is answered proves that all changes before it have been
told. Values are read again after each change, so that the newest row is what is found.
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
from extensions.serving.near_cache.cached_views import Copy, NearCopies, Wanted
from extensions.stores.online.redis_io import literal
from extensions.thread_supervision import Lasting, Living

logger = logging.getLogger(__name__)

KEYS_PER_SCAN = 1_000
# What the event loop and the interpreter are held for at a time.
KEYS_PER_READ = 256
PING_EVERY = 0.1
# After this long without an answer the connection counts as dead.
DEAD_AFTER = 2.0
RETRY_FIRST, RETRY_LONGEST = 0.05, 2.0
# A whole copy is compared with nothing and replaced by a new one this often, whatever was told.
RELOAD_EVERY = 900.0
# Seconds; Python's own 5 ms would be a request's whole time.
SWITCH_WITHIN = 0.0005


class LostError(Exception):
    """The connection broke, or the server said no."""


class Node:
    """One server's connection, on which it tells of changes. ``dirty``: keys to read again.

    ``connection``: redis-py's, which knows addresses, passwords and TLS; RESP3.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.dirty: dict[bytes, float] = {}
        self.sequence = 0
        self.flushed = False
        self.confirmed = time.monotonic()
        self._reader = hiredis.Reader()
        self._replies: deque[Any] = deque()
        self._asked = 0.0
        connection.connect()
        self._socket = connection._sock  # noqa: SLF001
        # select() takes no descriptor beyond 1,023, and a server has more connections than that.
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def close(self) -> None:
        """Let go."""
        self.connection.disconnect()

    def ask(self, *command: Any) -> Any:
        """One command's reply; changes that are told meanwhile are noted."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies to several commands, in one round trip; an error in any is a loss."""
        replies = self.try_all(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise LostError(str(reply))
        return replies

    def try_all(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The replies to several commands, errors among them, in one round trip."""
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(command)) for command in commands))
        until = time.monotonic() + DEAD_AFTER
        while len(self._replies) < len(commands):
            if time.monotonic() > until:
                raise LostError("Redis does not answer.")
            self.pump(0.1)
        return [self._replies.popleft() for _ in commands]

    def ping(self) -> None:
        """Wait until all changes up to now have been told."""
        sent = time.monotonic()
        self.ask("PING")
        self.confirmed = sent

    def pump(self, seconds: float) -> None:
        """Take what comes within this time."""
        pending = getattr(self._socket, "pending", None)
        if not (pending and pending()) and not self._poll.poll(seconds * 1000):
            return
        data = self._socket.recv(1 << 18)
        if not data:
            raise LostError("Redis closed the connection.")
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if not isinstance(reply, hiredis.PushNotification):
                self._replies.append(reply)
            elif reply[0] == b"invalidate":
                self.sequence += 1
                if reply[1] is None:  # the database was emptied
                    self.flushed = True
                    continue
                # Written after the last PING that was answered: this is told after its answer.
                for key in reply[1]:
                    self.dirty.setdefault(key, self.confirmed)

    @property
    def exact(self) -> float:
        """A moment up to which every change has been told and read."""
        return min(self.confirmed, next(iter(self.dirty.values()), self.confirmed))


class Follower:
    """The thread. ``connect`` makes a connection per server, and says if they are a cluster."""

    def __init__(
        self,
        copies: NearCopies,
        connect: Callable[[], tuple[list[Any], bool]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._copies, self._connect, self._loop = copies, connect, loop
        self._stop = threading.Event()
        self._nodes: list[Node] = []
        self._tracked: set[bytes] = set()
        self._loading: Copy | None = None
        self._loaded: dict[bytes, tuple[Wanted, float]] = {}
        self._cluster = False
        self._generation = 0
        self._thread = Lasting("near copies", self._run, self._stop)

    @property
    def threads(self) -> list[Living]:
        """The one that follows."""
        return [self._thread]

    def start(self) -> None:
        """Begin. The interpreter changes threads sooner: a load must not hold replies up."""
        sys.setswitchinterval(SWITCH_WITHIN)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        pause, said = RETRY_FIRST, ""
        while not self._stop.is_set():
            if not self._copies.wanted:
                self._stop.wait(PING_EVERY)
                continue
            try:
                made, self._cluster = self._connect()
                for connection in made:
                    self._nodes.append(Node(connection))
                self._follow()
            except (LostError, RedisError, OSError, hiredis.HiredisError) as error:
                if str(error) != said and not self._stop.is_set():
                    said = str(error)
                    logger.warning("Near copies are read from Redis until it is back: %s", said)
            except Exception:
                logger.exception("Near copies failed, and begin anew.")
            if self._loaded:
                pause, said = RETRY_FIRST, ""
            self._forget()
            self._stop.wait(pause)
            pause = min(pause * 2, RETRY_LONGEST)

    def _forget(self) -> None:
        """What is not followed any more is not read from either."""
        for node in self._nodes:
            node.close()
        self._nodes, self._loading = [], None
        self._loaded.clear()
        self._tracked.clear()
        if self._stop.is_set():
            return
        with contextlib.suppress(LostError, RuntimeError):
            for prefix in list(self._copies.wanted):
                self._do(self._copies.refuse, prefix, "no connection to follow")

    def _follow(self) -> None:
        topology: Any = None
        while not self._stop.is_set():
            for wanted in list(self._copies.wanted.values()):
                self._want(wanted)
            for node in self._nodes:
                node.pump(0 if node.dirty else PING_EVERY / len(self._nodes))
                self._drain(node)
                if time.monotonic() - node.confirmed >= PING_EVERY:
                    node.ping()
            self._confirm()
            if self._cluster:
                slots = self._nodes[0].ask("CLUSTER", "SLOTS")
                if topology not in (None, slots):
                    raise LostError("The cluster's slots moved.")
                topology = slots

    def _want(self, wanted: Wanted) -> None:
        """Load the copy where there is none, another is wanted, or it is time."""
        what, since = self._loaded.get(wanted.prefix, (None, 0.0))
        if what is wanted and time.monotonic() - since < RELOAD_EVERY:
            return
        if wanted.prefix not in self._tracked:
            for node in self._nodes:
                try:
                    node.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", wanted.prefix)
                except LostError as error:
                    self._do(self._copies.refuse, wanted.prefix, f"no notifications: {error}")
                    raise
            self._tracked.add(wanted.prefix)
        self._load(wanted)

    def _load(self, wanted: Wanted) -> None:
        """All rows under the prefix, from the beginning; other copies are followed meanwhile."""
        self._generation += 1
        copy = self._loading = Copy(wanted, self._generation)
        began = time.monotonic()
        for node in self._nodes:
            cursor: Any = b"0"
            while True:
                cursor, keys = node.ask(
                    "SCAN", cursor, "MATCH", literal(wanted.prefix) + b"*",
                    "COUNT", KEYS_PER_SCAN,
                )  # fmt: skip
                for at in range(0, len(keys), KEYS_PER_READ):
                    part = list(filter(copy.fits, dict.fromkeys(keys[at : at + KEYS_PER_READ])))
                    copy.assign(*copy.decode(part, self._values(node, part)))
                    if copy.size > self._copies.most or self._stop.is_set():
                        break
                    self._drain(node)
                if copy.size > self._copies.most:
                    self._too_large(wanted)
                    return
                if int(cursor) == 0 or self._stop.is_set():
                    break
                if time.monotonic() - node.confirmed >= PING_EVERY:
                    node.ping()
                    self._confirm()
        for node in self._nodes:
            while node.dirty or node.flushed:
                self._drain(node)
            node.ping()
            self._drain(node)
        self._loading = None
        copy.exact_at = min(node.exact for node in self._nodes)
        self._loaded[wanted.prefix] = wanted, time.monotonic()
        self._do(self._copies.use, copy)
        logger.info(
            "Near copy of %s: %d rows, %.1f MB, in %.2f s.", wanted.prefix.decode(errors="replace"),
            copy.count - 1, copy.size / 1e6, time.monotonic() - began,
        )  # fmt: skip

    def _too_large(self, wanted: Wanted) -> None:
        self._loading = None
        self._loaded[wanted.prefix] = wanted, time.monotonic()
        most = f"larger than {self._copies.most / 1e6:.0f} MB"
        logger.warning(
            "The views under %s are read from Redis: their copy would be %s. Allow more with "
            "near_megabytes, or take the tag `near` from them.",
            wanted.prefix.decode(errors="replace"), most,
        )  # fmt: skip
        self._do(self._copies.refuse, wanted.prefix, most)

    def _drain(self, node: Node) -> None:
        """Read some of the keys that changed, and put their rows into the copies."""
        if node.flushed:
            raise LostError("The database was emptied.")
        batch = list(node.dirty)[:KEYS_PER_READ]
        if not batch:
            return
        # One that changes while it is read is told of again.
        for key in batch:
            del node.dirty[key]
        copies = [*self._copies.copies.values(), *([self._loading] if self._loading else [])]
        for copy in copies:
            keys = [key for key in batch if key.startswith(copy.wanted.prefix) and copy.fits(key)]
            if not keys:
                continue
            rows = copy.decode(keys, self._values(node, keys))
            if copy is self._loading:
                copy.assign(*rows)
            else:
                self._do(copy.assign, *rows)

    def _values(self, node: Node, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        if self._cluster:  # keys lie in many slots
            replies = node.try_all([("GET", key) for key in keys])
            return [_row(reply) for reply in replies]
        values: list[bytes | None] = node.ask("MGET", *keys)
        return values

    def _confirm(self) -> None:
        """Say up to when the copies are exact."""
        exact = min(node.exact for node in self._nodes)
        sequence = sum(node.sequence for node in self._nodes)
        for copy in list(self._copies.copies.values()):
            self._loop.call_soon_threadsafe(_exact, copy, exact, sequence)

    def _do(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run in the event loop, and wait for it: the copies in use are changed there alone."""
        done = threading.Event()

        def run() -> None:
            try:
                function(*arguments)
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        while not done.wait(0.05):
            if self._stop.is_set():
                raise LostError("The server stops.")


def _row(reply: Any) -> bytes | None:
    """A value as MGET gives it: a key of another type, which is not ours, is no row."""
    if isinstance(reply, Exception):
        if str(reply).startswith("WRONGTYPE"):
            return None
        raise LostError(str(reply))
    value: bytes | None = reply
    return value


def _exact(copy: Copy, moment: float, sequence: int) -> None:
    copy.exact_at = max(copy.exact_at, moment)
    copy.sequence = sequence


def connections(store: RedisOnlineStore, config: Any) -> tuple[list[Any], bool]:
    """A new connection to each server that holds keys, and whether they are a cluster.

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

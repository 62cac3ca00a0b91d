"""Redis commands: batched reads of many views in one round trip, and writes by Lua scripts."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from hashlib import sha1
from typing import Any

from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster
from redis.crc import key_slot
from redis.exceptions import NoScriptError

from extensions.stores.online_codec import write_scripts
from extensions.stores.online_codec.redis_keys import KeyLayout
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.values.future_rows import ALLOWANCE

# Rows per script call: Redis answers nobody else meanwhile, here for about a millisecond.
ROWS_PER_CALL = 128
KEYS_PER_SCAN = 1000
MICROSECOND = timedelta(microseconds=1)

Address = tuple[bytes, bytes | None]
Reply = tuple[list[bytes | None], list[list[bytes | None]]]


@dataclass(frozen=True)
class Expiry:
    """Key expiry, counted from the event time (``event``) or from now (``age``); "": none."""

    since: str = ""
    milliseconds: int = 0


@dataclass(frozen=True)
class OverwritePolicy:
    """Which stored rows a write may replace although they are newer (see `write_scripts`).

    Attributes:
        layout: The format that a stored row must have to be kept; None: any.
        ahead: Microseconds that a stored row's times may be ahead of Redis' clock.
        before: Stored rows up to this event time (microseconds since 1970) are always replaced.
    """

    layout: Layout | None = None
    ahead: int = ALLOWANCE // MICROSECOND
    before: int | None = None

    def arguments(self) -> list[Any]:
        """The scripts' arguments."""
        layout = self.layout
        earlier = b"" if layout is None else b"".join(layout.earlier_marks)
        kinds = "" if layout is None else layout.kinds
        return [*high_and_low(self.before), self.ahead, earlier, kinds]


def high_and_low(micros: int | None) -> tuple[Any, Any]:
    """Split microseconds into high (signed) and low 32 bits for the scripts; "" for None."""
    return ("", "") if micros is None else (micros >> 32, micros & 0xFFFFFFFF)


@dataclass
class Reads:
    """A batched read: all strings by one MGET, each hash by one HMGET, in one round trip."""

    strings: dict[bytes, int] = field(default_factory=dict)
    hashes: list[tuple[bytes, list[bytes]]] = field(default_factory=list)

    def add(
        self, layout: Layout, where: KeyLayout, entities: Sequence[EntityKey]
    ) -> Callable[[Reply], list[bytes | None]]:
        """Add a read of one row per entity; returns a function that takes them from the reply."""
        addresses = [where.address(entity) for entity in entities]
        if not where.composite:
            index = [self.strings.setdefault(key, len(self.strings)) for key, _ in addresses]
            return lambda reply: [
                None if (value := reply[0][i]) is None else layout.find(value) for i in index
            ]
        groups: dict[bytes, tuple[int, list[bytes]]] = {}
        places = []
        for key, name in addresses:
            if key not in groups:
                groups[key] = (len(self.hashes), [])
                self.hashes.append((key, groups[key][1]))
            number, fields = groups[key]
            places.append((number, len(fields)))
            fields.append(name or b"")
        return lambda reply: [reply[1][number][i] for number, i in places]

    def fetch(self, client: Any) -> Reply:
        """Run the read: one round trip, or in a cluster one per node."""
        keys = list(self.strings)
        if isinstance(client, RedisCluster):
            with client.pipeline() as pipe:  # type: ignore[no-untyped-call]
                for key in keys:
                    pipe.get(key)
                for key, fields in self.hashes:
                    pipe.hmget(key, fields)
                replies = pipe.execute(raise_on_error=False)
            return self._reply_each(keys, replies)
        with client.pipeline(transaction=False) as pipe:
            self._ask(pipe, keys)
            replies = pipe.execute(raise_on_error=False)
        return self._reply(keys, replies)

    async def fetch_async(self, client: Any) -> Reply:
        """As `fetch`."""
        keys = list(self.strings)
        if isinstance(client, AsyncRedisCluster):
            pipe = client.pipeline()
            for key in keys:
                pipe.get(key)
            for key, fields in self.hashes:
                pipe.hmget(key, fields)  # type: ignore[arg-type]
            replies = await pipe.execute(raise_on_error=False)
            return self._reply_each(keys, replies)
        if keys and not self.hashes:
            return await client.mget(keys), []
        async with client.pipeline(transaction=False) as pipe:
            self._ask(pipe, keys)
            replies = await pipe.execute(raise_on_error=False)
        return self._reply(keys, replies)

    def _ask(self, pipe: Any, keys: list[bytes]) -> None:
        if keys:
            pipe.mget(keys)
        for key, fields in self.hashes:
            pipe.hmget(key, fields)

    def _reply(self, keys: list[bytes], replies: list[Any]) -> Reply:
        if not keys:
            return [], self._rows(replies)
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies[0], self._rows(replies[1:])

    def _reply_each(self, keys: list[bytes], replies: list[Any]) -> Reply:
        strings = [none_if_foreign(reply) for reply in replies[: len(keys)]]
        return strings, self._rows(replies[len(keys) :])

    def _rows(self, replies: list[Any]) -> list[list[bytes | None]]:
        """The rows of each hash; None for each field of a key of another type."""
        return [
            none_if_foreign(reply) or [None] * len(fields)
            for reply, (_, fields) in zip(replies, self.hashes, strict=True)
        ]


def is_foreign(error: BaseException) -> bool:
    """Whether the error says that a key has another type (WRONGTYPE): it holds none of our rows."""
    return str(error).startswith("WRONGTYPE")


def none_if_foreign(reply: Any) -> Any:
    """The reply, or None for a key of another type; any other error is raised."""
    if not isinstance(reply, Exception):
        return reply
    if is_foreign(reply):
        return None
    raise reply


def write(
    client: Any,
    where: KeyLayout,
    addresses: Sequence[Address],
    rows: Sequence[bytes],
    expiry: Expiry,
    policy: OverwritePolicy = OverwritePolicy(),
) -> int:
    """Write rows that are newer than the stored ones; returns how many were."""
    cluster = isinstance(client, RedisCluster)
    script, calls = _calls(where, addresses, rows, expiry, policy, cluster=cluster)
    return sum(run(client, script, keys, arguments) for keys, arguments in calls)


async def write_async(
    client: Any,
    where: KeyLayout,
    addresses: Sequence[Address],
    rows: Sequence[bytes],
    expiry: Expiry,
    policy: OverwritePolicy = OverwritePolicy(),
) -> int:
    """As `write`."""
    cluster = isinstance(client, AsyncRedisCluster)
    script, calls = _calls(where, addresses, rows, expiry, policy, cluster=cluster)
    written = 0
    for keys, arguments in calls:
        try:
            written += await client.evalsha(_sha(script), len(keys), *keys, *arguments)
        except NoScriptError:
            written += await client.eval(script, len(keys), *keys, *arguments)
    return written


def drop(client: Any, keys: Sequence[bytes], tags: list[bytes], before: int | None = None) -> int:
    """Delete sections from entities' strings; returns how many there were.

    ``before``: only those whose event time (microseconds) is not later.
    """
    cluster = isinstance(client, RedisCluster)
    arguments = [*high_and_low(before), *tags]
    return sum(
        run(client, write_scripts.DROP_SECTIONS, [keys[i] for i in members], arguments)
        for members in _groups(keys, cluster=cluster)
    )


def drop_fields(client: Any, key: bytes, fields: Sequence[bytes], before: int) -> int:
    """Delete fields of a hash whose event time (microseconds) is not later than ``before``."""
    return sum(
        run(
            client,
            write_scripts.DROP_FIELDS,
            [key] * len(part),
            [*high_and_low(before), *part],
        )
        for at in range(0, len(fields), ROWS_PER_CALL)
        for part in [fields[at : at + ROWS_PER_CALL]]
    )


def run(client: Any, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> int:
    """Run a script by EVALSHA, or by EVAL where the server has not cached it."""
    try:
        return int(client.evalsha(_sha(script), len(keys), *keys, *arguments))
    except NoScriptError:
        return int(client.eval(script, len(keys), *keys, *arguments))


def scan(client: Any, prefix: bytes) -> Iterator[list[bytes]]:
    """SCAN for the keys with a prefix; yields them in batches."""
    batch: list[bytes] = []
    for key in client.scan_iter(literal(prefix) + b"*", count=KEYS_PER_SCAN):
        batch.append(key)
        if len(batch) == ROWS_PER_CALL:
            yield batch
            batch = []
    if batch:
        yield batch


def literal(prefix: bytes) -> bytes:
    """Escape a prefix for a SCAN pattern."""
    return re.sub(rb"([\\\[\]*?^])", rb"\\\1", prefix)


def _calls(
    where: KeyLayout,
    addresses: Sequence[Address],
    rows: Sequence[bytes],
    expiry: Expiry,
    policy: OverwritePolicy,
    *,
    cluster: bool,
) -> tuple[str, Iterator[tuple[list[bytes], list[Any]]]]:
    head = [expiry.since, expiry.milliseconds, *policy.arguments()]
    keys = [key for key, _ in addresses]

    def calls() -> Iterator[tuple[list[bytes], list[Any]]]:
        for members in _groups(keys, cluster=cluster):
            arguments: list[Any] = [*head]
            for i in members:
                if where.composite:
                    arguments.append(addresses[i][1])
                arguments.append(rows[i])
            yield [keys[i] for i in members], arguments

    return write_scripts.WRITE_FIELDS if where.composite else write_scripts.WRITE_SECTIONS, calls()


def _groups(keys: Sequence[bytes], *, cluster: bool) -> Iterator[Sequence[int]]:
    """Indexes of keys that one call may name: in a cluster, of one slot; in order."""
    if not cluster:
        for at in range(0, len(keys), ROWS_PER_CALL):
            yield range(at, min(at + ROWS_PER_CALL, len(keys)))
        return
    slots: dict[int, list[int]] = {}
    for i, key in enumerate(keys):
        slots.setdefault(key_slot(key), []).append(i)
    for members in slots.values():
        for at in range(0, len(members), ROWS_PER_CALL):
            yield members[at : at + ROWS_PER_CALL]


@lru_cache(maxsize=8)
def _sha(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()

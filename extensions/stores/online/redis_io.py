"""Round trips: reads of many views in one, writes in scripts of bounded length."""

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
Found = tuple[list[bytes | None], list[list[bytes | None]]]


@dataclass(frozen=True)
class Expiry:
    """How long keys last: from the ``event`` or from now (``age``), or for ever."""

    since: str = ""
    milliseconds: int = 0


@dataclass(frozen=True)
class OverwritePolicy:
    """Which stored rows a write must respect; all others give way, see `scripts`.

    ``ahead``: microseconds that a row's times may be ahead of Redis' clock. ``layout``: what
    rows must look like; None: as they are. ``before``: stored rows up to this event time
    (microseconds since 1970) give way even to older ones.
    """

    layout: Layout | None = None
    ahead: int = ALLOWANCE // MICROSECOND
    before: int | None = None

    def arguments(self) -> list[Any]:
        """What the scripts are told."""
        layout = self.layout
        earlier = b"" if layout is None else b"".join(layout.earlier_marks)
        kinds = "" if layout is None else layout.kinds
        return [*high_and_low(self.before), self.ahead, earlier, kinds]


def high_and_low(micros: int | None) -> tuple[Any, Any]:
    """A time as its high (signed) and low 32 bits, which a script compares; '' for none."""
    return ("", "") if micros is None else (micros >> 32, micros & 0xFFFFFFFF)


@dataclass
class Reads:
    """What one round trip asks for: strings by one MGET, each hash by one HMGET."""

    strings: dict[bytes, int] = field(default_factory=dict)
    hashes: list[tuple[bytes, list[bytes]]] = field(default_factory=list)

    def add(
        self, layout: Layout, where: KeyLayout, entities: Sequence[EntityKey]
    ) -> Callable[[Found], list[bytes | None]]:
        """Ask for one row per entity; the function returned takes the rows from what was found."""
        addresses = [where.address(entity) for entity in entities]
        if not where.composite:
            index = [self.strings.setdefault(key, len(self.strings)) for key, _ in addresses]
            return lambda found: [
                None if (value := found[0][i]) is None else layout.find(value) for i in index
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
        return lambda found: [found[1][number][i] for number, i in places]

    def fetch(self, client: Any) -> Found:
        """One round trip (in a cluster, one per node)."""
        keys = list(self.strings)
        if isinstance(client, RedisCluster):
            with client.pipeline() as pipe:  # type: ignore[no-untyped-call]
                for key in keys:
                    pipe.get(key)
                for key, fields in self.hashes:
                    pipe.hmget(key, fields)
                replies = pipe.execute(raise_on_error=False)
            return self._found_each(keys, replies)
        with client.pipeline(transaction=False) as pipe:
            self._ask(pipe, keys)
            replies = pipe.execute(raise_on_error=False)
        return self._found(keys, replies)

    async def fetch_async(self, client: Any) -> Found:
        """As `fetch`."""
        keys = list(self.strings)
        if isinstance(client, AsyncRedisCluster):
            pipe = client.pipeline()
            for key in keys:
                pipe.get(key)
            for key, fields in self.hashes:
                pipe.hmget(key, fields)  # type: ignore[arg-type]
            replies = await pipe.execute(raise_on_error=False)
            return self._found_each(keys, replies)
        if keys and not self.hashes:
            return await client.mget(keys), []
        async with client.pipeline(transaction=False) as pipe:
            self._ask(pipe, keys)
            replies = await pipe.execute(raise_on_error=False)
        return self._found(keys, replies)

    def _ask(self, pipe: Any, keys: list[bytes]) -> None:
        if keys:
            pipe.mget(keys)
        for key, fields in self.hashes:
            pipe.hmget(key, fields)

    def _found(self, keys: list[bytes], replies: list[Any]) -> Found:
        if not keys:
            return [], self._rows(replies)
        if isinstance(replies[0], Exception):
            raise replies[0]
        return replies[0], self._rows(replies[1:])

    def _found_each(self, keys: list[bytes], replies: list[Any]) -> Found:
        strings = [none_if_foreign(reply) for reply in replies[: len(keys)]]
        return strings, self._rows(replies[len(keys) :])

    def _rows(self, replies: list[Any]) -> list[list[bytes | None]]:
        """The rows of each hash; of a key of another type, none."""
        return [
            none_if_foreign(reply) or [None] * len(fields)
            for reply, (_, fields) in zip(replies, self.hashes, strict=True)
        ]


def is_foreign(error: BaseException) -> bool:
    """Whether a key holds another type than ours: no outage, only nothing of ours."""
    return str(error).startswith("WRONGTYPE")


def none_if_foreign(reply: Any) -> Any:
    """A reply; None for a key that holds another type than ours. Raises what else Redis says."""
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
    trust: OverwritePolicy = OverwritePolicy(),
) -> int:
    """Write rows by script; returns how many were newer than what was there."""
    cluster = isinstance(client, RedisCluster)
    script, calls = _calls(where, addresses, rows, expiry, trust, cluster=cluster)
    return sum(run(client, script, keys, arguments) for keys, arguments in calls)


async def write_async(
    client: Any,
    where: KeyLayout,
    addresses: Sequence[Address],
    rows: Sequence[bytes],
    expiry: Expiry,
    trust: OverwritePolicy = OverwritePolicy(),
) -> int:
    """As `write`."""
    cluster = isinstance(client, AsyncRedisCluster)
    script, calls = _calls(where, addresses, rows, expiry, trust, cluster=cluster)
    written = 0
    for keys, arguments in calls:
        try:
            written += await client.evalsha(_sha(script), len(keys), *keys, *arguments)
        except NoScriptError:
            written += await client.eval(script, len(keys), *keys, *arguments)
    return written


def drop(client: Any, keys: Sequence[bytes], tags: list[bytes], before: int | None = None) -> int:
    """Take sections out of entities' strings; returns how many there were.

    ``before``: only those whose event time (microseconds) is not later.
    """
    cluster = isinstance(client, RedisCluster)
    arguments = [*high_and_low(before), *tags]
    return sum(
        run(client, write_scripts.DROP_SECTIONS, [keys[i] for i in members], arguments)
        for members in _groups(keys, cluster=cluster)
    )


def drop_fields(client: Any, key: bytes, fields: Sequence[bytes], before: int) -> int:
    """Take rows out of a hash whose event time (microseconds) is not later than ``before``."""
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
    """One call of a script, sent whole only where the server does not know it yet."""
    try:
        return int(client.evalsha(_sha(script), len(keys), *keys, *arguments))
    except NoScriptError:
        return int(client.eval(script, len(keys), *keys, *arguments))


def scan(client: Any, prefix: bytes) -> Iterator[list[bytes]]:
    """The keys that begin with ``prefix``, in parts; the server steps over all others."""
    batch: list[bytes] = []
    for key in client.scan_iter(literal(prefix) + b"*", count=KEYS_PER_SCAN):
        batch.append(key)
        if len(batch) == ROWS_PER_CALL:
            yield batch
            batch = []
    if batch:
        yield batch


def literal(prefix: bytes) -> bytes:
    """A pattern that matches just these bytes."""
    return re.sub(rb"([\\\[\]*?^])", rb"\\\1", prefix)


def _calls(
    where: KeyLayout,
    addresses: Sequence[Address],
    rows: Sequence[bytes],
    expiry: Expiry,
    trust: OverwritePolicy,
    *,
    cluster: bool,
) -> tuple[str, Iterator[tuple[list[bytes], list[Any]]]]:
    head = [expiry.since, expiry.milliseconds, *trust.arguments()]
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

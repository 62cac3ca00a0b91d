"""The near cache: small, slowly changing views held in each worker, read without a round trip.

An `EntityCache` holds all near views of one entity as numpy columns. A thread listens to Redis'
invalidations (`near_cache.invalidation`) and decodes changed rows; only the event loop changes a
cache that is in use, between requests, so that a request sees each row whole. Slot 0 stands for
ids without a row and holds the defaults.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extensions.service_routes import ReplyNames
from extensions.serving.features.entity_ids import EntityIds, is_whole_number
from extensions.serving.features.request_plan import Group, Plan, Plans
from extensions.serving.near_cache.entity_index import EntityIndex
from extensions.stores.online_codec.coded_columns import Coded, Integers, Values
from extensions.stores.online_codec.row_decoder import Block, Decoder
from extensions.stores.online_codec.section_index import sections

# A cache that may be further behind Redis than this is not read.
MAX_LAG_SECONDS = 1.0
# Bytes of JSON fragments of responses kept for cached rows; the overhead of each fragment.
MAX_FRAGMENT_BYTES, FRAGMENT_OVERHEAD = 64_000_000, 50


@dataclass(frozen=True)
class EntityCacheSpec:
    """What a cache of one entity must hold. ``signatures``: the views' layouts and defaults."""

    prefix: bytes
    decoders: Mapping[str, Decoder]
    numbers: bool
    signatures: frozenset[str]

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> dict[bytes, "EntityCacheSpec"]:
        """The caches that the plans need, by the entity's key prefix."""
        found: dict[bytes, dict[str, Decoder]] = {}
        numbers: dict[bytes, bool] = {}
        for plan in plans:
            for group in plan.groups:
                if not group.near:
                    continue
                decoders = found.setdefault(group.prefix, {})
                numbers[group.prefix] = group.numbers
                for view in group.views:
                    # Lifetime is checked when a row is read.
                    decoders[view.decoder.layout.view] = replace(view.decoder, ttl=None, ahead=None)
        return {
            prefix: cls(
                prefix,
                decoders,
                numbers[prefix],
                frozenset(decoder.signature for decoder in decoders.values()),
            )
            for prefix, decoders in found.items()
        }


class EntityCache:
    """The cached rows of one entity's near views. ``generation``: the number of its load.

    ``sequence`` counts the invalidations applied since; ``exact_at`` is the time (monotonic
    seconds) up to which it holds every write to Redis.
    """

    def __init__(self, wanted: EntityCacheSpec, generation: int) -> None:
        self.wanted, self.generation = wanted, generation
        self.sequence, self.exact_at = 0, 0.0
        self.count = 1
        self._numbers = EntityIndex()
        self._named: dict[bytes, int] = {}
        self._named_bytes = 0
        self._room = 1024
        self._views = {
            name: _CachedView(decoder, self._room) for name, decoder in wanted.decoders.items()
        }
        self._texts: dict[tuple[str, ReplyNames], tuple[Plan, list[bytes | None]]] = {}
        self._fragment_bytes = 0

    @property
    def lag(self) -> float:
        """Seconds that the cache may be behind Redis."""
        return max(0.0, time.monotonic() - self.exact_at)

    @property
    def size(self) -> int:
        """Size in bytes, without the fragments of responses."""
        index = self._numbers.size + len(self._named) * 130 + self._named_bytes
        return index + sum(view.size for view in self._views.values())

    def decode(
        self, keys: Sequence[bytes], values: Sequence[bytes | None]
    ) -> tuple[EntityIds, list[Block]]:
        """Decode values of Redis keys.

        Returns:
            The entities' ids, and a block of rows for each near view, in order.
        """
        skip = len(self.wanted.prefix)
        raw = [key[skip:] for key in keys]
        ids = EntityIds(raw, None, raw)
        if self.wanted.numbers:
            ids = EntityIds([int(part) for part in raw], None, raw)
            ids.numbers = np.array(ids.values, np.int64)
        decoders = list(self.wanted.decoders.values())
        buffer, places = sections(values, [decoder.layout for decoder in decoders])
        return ids, [
            decoder.block(buffer, at, size, 0)
            for decoder, (at, size) in zip(decoders, places, strict=True)
        ]

    def assign(self, ids: EntityIds, blocks: Sequence[Block]) -> None:
        """Insert or replace rows; each id may occur once."""
        where = self.slots(ids)
        new = np.flatnonzero(where == 0).tolist()
        if new:
            where[new] = np.arange(self.count, self.count + len(new))
            self._add([ids.values[i] for i in new])
        slots = where.tolist()
        for view, block in zip(self._views.values(), blocks, strict=True):
            view.put(where, block)
        for _, texts in self._texts.values():
            for slot in slots:
                if slot < len(texts):
                    texts[slot] = None

    def slots(self, ids: EntityIds) -> Integers:
        """The slot of each id's row; 0 where there is none."""
        if not self.wanted.numbers:
            found = map(self._named.get, ids.raw, repeat(0))
            return np.fromiter(found, np.int64, len(ids))
        numbers = ids.numbers
        return self._numbers.find(np.array(ids.values, np.int64) if numbers is None else numbers)

    def rows(
        self, decoder: Decoder, slots: Integers, now: int
    ) -> tuple[dict[str, Values], NDArray[np.bool_], Integers]:
        """Columns, presence and as-of times (microseconds) of the rows in these slots."""
        return self._views[decoder.layout.view].rows(slots, now, decoder)

    def texts(self, plan: Plan, names: ReplyNames) -> list[bytes | None]:
        """JSON fragments of a route's responses by slot; dropped when the row changes."""
        key = plan.service, names
        of, held = self._texts.get(key, (None, []))
        if of is not plan or self._fragment_bytes > MAX_FRAGMENT_BYTES:
            if self._fragment_bytes > MAX_FRAGMENT_BYTES:
                self._texts, self._fragment_bytes = {}, 0
            held = []
            self._texts[key] = plan, held
        if len(held) < self.count:
            held.extend([None] * (self.count - len(held)))
        return held

    def count_fragments(self, pieces: int, size: int) -> None:
        """Count fragments that were added, and their bytes."""
        self._fragment_bytes += size + pieces * FRAGMENT_OVERHEAD

    def _add(self, ids: list[Any]) -> None:
        if self.wanted.numbers:
            self._numbers.add(ids, self.count)
        else:
            self._named.update(zip(ids, range(self.count, self.count + len(ids)), strict=True))
            self._named_bytes += sum(map(len, ids))
        self.count += len(ids)
        while self.count > self._room:
            self._room *= 2
            for view in self._views.values():
                view.grow(self._room)

    def fits(self, key: bytes) -> bool:
        """Whether the key holds an id of this entity's type; other keys are ignored."""
        raw = key[len(self.wanted.prefix) :]
        return is_whole_number(raw) if self.wanted.numbers else raw.startswith(b"=")


class _CachedView:
    """One view's cached columns, indexed by slot."""

    def __init__(self, decoder: Decoder, room: int) -> None:
        self._empty = decoder.block(b"", np.zeros(1, np.int64), np.zeros(1, np.int64), 0)
        self._present = np.zeros(room, np.bool_)
        self._events = np.zeros(room, np.int64)
        self._latest = 0  # the latest event time of any row
        self._columns: dict[str, NDArray[Any]] = {}
        self._texts: dict[str, list[Any]] = {}
        self._codes: dict[str, dict[Any, int]] = {}
        self._bytes = 0
        for name, column in self._empty.columns.items():
            if isinstance(column, np.ndarray):
                self._columns[name] = np.full(room, column[0])
                continue
            if isinstance(column, Coded):
                self._texts[name], self._codes[name] = [column[0]], {column[0]: 0}
                self._columns[name] = np.zeros(room, np.int64)
                continue
            self._columns[name] = np.empty(room, object)
            self._columns[name].fill(column[0])

    @property
    def size(self) -> int:
        arrays = [self._present, self._events, *self._columns.values()]
        return sum(array.nbytes for array in arrays) + self._bytes

    def grow(self, room: int) -> None:
        more = room - len(self._present)
        self._present = np.concatenate([self._present, np.zeros(more, np.bool_)])
        self._events = np.concatenate([self._events, np.zeros(more, np.int64)])
        for name, column in self._columns.items():
            rest = np.empty(more, column.dtype)
            rest.fill(column[0])
            self._columns[name] = np.concatenate([column, rest])

    def put(self, where: Integers, block: Block) -> None:
        self._present[where] = block.present
        self._events[where] = block.events
        self._latest = max(self._latest, int(block.events.max(initial=0)))
        for name, values in block.columns.items():
            column = self._columns[name]
            if name in self._texts:
                column[where] = self._encode(name, values)
            elif isinstance(values, np.ndarray) and column.dtype != object:
                column[where] = values
            else:
                if column.dtype != object:  # a null among numbers
                    self._columns[name] = column = column.astype(object)
                for slot, value in zip(where.tolist(), values, strict=True):
                    column[slot] = value
                    self._bytes += getattr(value, "nbytes", 0) + 100  # replaced values stay counted

    def rows(
        self, slots: Integers, now: int, decoder: Decoder
    ) -> tuple[dict[str, Values], NDArray[np.bool_], Integers]:
        if decoder.ttl is not None:
            slots = np.where(self._events[slots] >= now - decoder.ttl, slots, 0)
        if decoder.ahead is not None and self._latest > now + decoder.ahead:
            slots = np.where(self._events[slots] <= now + decoder.ahead, slots, 0)
        found: dict[str, Values] = {}
        for name, column in self._columns.items():
            texts = self._texts.get(name)
            if texts is not None:
                found[name] = Coded(column[slots], texts)
            elif column.dtype == object:
                found[name] = column[slots].tolist()
            else:
                found[name] = column[slots]
        return found, self._present[slots], self._events[slots]

    def _encode(self, name: str, values: Values) -> Integers:
        if isinstance(values, Coded):
            return self._codes_of(name, values.values)[values.codes]
        return self._codes_of(name, values)

    def _codes_of(self, name: str, values: Iterable[Any]) -> Integers:
        texts, codes = self._texts[name], self._codes[name]
        found = []
        for value in values:
            code = codes.get(value)
            if code is None:
                code = codes[value] = len(texts)
                texts.append(value)
                self._bytes += 200 + len(value or "")
            found.append(code)
        return np.array(found, np.int64)


class NearCache:
    """The caches in use by entity prefix. Only the event loop changes this object.

    ``remote``: by entity prefix, why its views are read from Redis instead. ``max_bytes``: of one
    cache.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._ready = asyncio.Event()
        self.caches: dict[bytes, EntityCache] = {}
        self.remote: dict[bytes, str] = {}
        self.wanted: Mapping[bytes, EntityCacheSpec] = {}
        self.loads = 0

    def want(self, plans: Plans) -> None:
        """Set what to cache from these plans, and drop caches that none of them needs."""
        found = [plan for plan in plans.by_service.values() if isinstance(plan, Plan)]
        wanted = EntityCacheSpec.of(found) if self.max_bytes else {}
        for prefix, held in self.wanted.items():
            if prefix in wanted and wanted[prefix].signatures == held.signatures:
                wanted[prefix] = held
        self.wanted = wanted
        for prefix in [prefix for prefix in self.caches if prefix not in wanted]:
            del self.caches[prefix]
        for prefix in wanted:
            if prefix not in self.caches:
                self.remote.setdefault(prefix, "loading")
        self._signal_if_ready()

    def cache_of(self, group: Group) -> EntityCache | None:
        """The cache to read all of the group's views from; None: read them from Redis."""
        cache = self.caches.get(group.prefix)
        if cache is None or not group.signatures <= cache.wanted.signatures:
            return None
        return cache if cache.lag <= MAX_LAG_SECONDS else None

    def state(self, group: Group, used: EntityCache | None) -> dict[str, Any]:
        """The description for `?include=meta`: the cache that was read, or why there was none."""
        if used is not None:
            return {
                "generation": used.generation,
                "sequence": used.sequence,
                "lagSeconds": round(used.lag, 3),
            }
        if not group.near:
            return {"remote": "read together with a view that is not near"}
        cache = self.caches.get(group.prefix)
        if cache is None:
            return {"remote": self.remote.get(group.prefix, "loading")}
        if not group.signatures <= cache.wanted.signatures:
            return {"remote": "loading"}
        return {"remote": "behind", "lagSeconds": round(cache.lag, 3)}

    def use(self, cache: EntityCache) -> None:
        """Put a loaded cache into use."""
        self.loads += 1
        self.caches[cache.wanted.prefix] = cache
        self.remote.pop(cache.wanted.prefix, None)
        self._signal_if_ready()

    def refuse(self, prefix: bytes, reason: str) -> None:
        """Drop a cache and record the reason."""
        self.caches.pop(prefix, None)
        self.remote[prefix] = reason
        self._signal_if_ready()

    async def loaded(self, seconds: float) -> None:
        """Wait until each cache is loaded or refused, for at most ``seconds``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), seconds)

    def _signal_if_ready(self) -> None:
        if all(prefix in self.caches or self.remote[prefix] != "loading" for prefix in self.wanted):
            self._ready.set()

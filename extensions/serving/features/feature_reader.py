"""Reads a request's feature rows from Redis in one round trip and decodes them as columns."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extensions.serving.features.entity_ids import EntityIds
from extensions.serving.features.redis_connection import Command, RedisConnection
from extensions.serving.features.request_plan import Plan, View
from extensions.serving.near_cache.cached_views import EntityCache, NearCache
from extensions.stores.online_codec.coded_columns import Integers, Values, counting, taken
from extensions.stores.online_codec.row_decoder import Block
from extensions.stores.online_codec.section_index import fields, sections

# A small hash is searched linearly for each field; asked for more than this, it is read whole.
FEW_FIELDS = 24
# A hash that turned out larger than this is asked for its fields from then on.
LARGE_HASH = 2_000
MAX_LARGE_HASHES = 10_000

PRESENT, MISSING = np.array([True]), np.array([False])
NO_TIME = np.zeros(1, np.int64)

Axes = Mapping[str, EntityIds]
ReplyParser = Callable[[list[Any]], list["ViewRows"]]


@dataclass
class ViewRows:
    """One view's rows for a request: columns of length 1 (the same for all) or n.

    ``unique_columns``, ``unique_present`` and ``unique_events`` hold each distinct row once;
    ``inverse[i]`` is the index among them of row i of the request, None: they are in order.
    ``cache`` and ``slots``: the cache that the rows were read from and their indices in it.
    """

    view: View
    unique_columns: Mapping[str, Values]
    unique_present: NDArray[np.bool_]
    unique_events: Integers
    inverse: Integers | None = None
    cache: EntityCache | None = None
    slots: Integers | None = None

    def __post_init__(self) -> None:
        if self.inverse is None:  # plain attributes instead of properties
            self.__dict__.update(
                columns=self.unique_columns, present=self.unique_present, events=self.unique_events
            )

    @cached_property
    def columns(self) -> Mapping[str, Values]:
        """The view's features for each row of the request."""
        assert self.inverse is not None  # else they are here already
        return {name: taken(column, self.inverse) for name, column in self.unique_columns.items()}

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """Whether each row of the request has a row in Redis."""
        found: NDArray[np.bool_] = self.unique_present[self.inverse]
        return found

    @cached_property
    def events(self) -> Integers:
        """As-of times in microseconds since 1970, 0 where there is no row."""
        return self.unique_events[self.inverse]


@dataclass
class FeatureReader:
    """Reads the rows of plans; remembers which hashes are too large to be read whole.

    ``is_only_request``: whether the worker has no other request in progress.
    """

    connection: RedisConnection
    near: NearCache | None = None
    is_only_request: Callable[[], bool] = lambda: False
    large: dict[bytes, None] = field(default_factory=dict)

    async def read(self, plan: Plan, axes: Axes, now: int) -> list[ViewRows]:
        """Read the rows of every view of the plan.

        Cached rows are looked up after the round trip, or while this process polls for Redis'
        replies, so that nothing changes them before the response is made.

        Args:
            plan: the service's plan.
            axes: the ids by join key, one (for all rows) or n.
            now: microseconds since 1970; rows older than their lifetime then count as missing.

        Returns:
            One item for each view, in the plan's order.

        Raises:
            UnavailableError: Redis did not answer in time.
        """
        keys: list[bytes] = []
        commands: list[Command] = []
        parsers: list[ReplyParser] = []
        parsed_early: dict[ReplyParser, list[ViewRows]] = {}
        for group in plan.groups:
            if len(group.join_keys) > 1:
                parsers += [self._pair_keys(view, axes, commands, now) for view in group.views]
                continue
            ids = axes[group.join_keys[0]]
            cache = self.near.cache_of(group) if self.near is not None and group.near else None
            if cache is not None:
                parsers.append(_cached_rows(cache, group.views, ids, now))
                parsed_early[parsers[-1]] = []
            else:
                parsers.append(_string_keys(group.views, ids, keys, now))
        if keys:
            commands.append(("MGET", *keys))
        replies: list[Any] = []
        if commands:
            pending = self.connection.run(commands)
            if self.is_only_request():
                self.connection.flush()
                if self.connection.answers_quickly:
                    parsed_early = {parser: parser([]) for parser in parsed_early}
                    parsed_early = parsed_early if self.connection.busy_poll() else {}
            replies = await pending
        rows = [rows for parser in parsers for rows in parsed_early.get(parser) or parser(replies)]
        return (
            rows
            if plan.in_order
            else sorted(rows, key=lambda view_rows: plan.place[id(view_rows.view)])
        )

    def _pair_keys(self, view: View, axes: Axes, commands: list[Command], now: int) -> ReplyParser:
        parts = [axes[name] for name in view.join_keys]
        if len(parts) != 2 or len(parts[0]) != 1 or len(parts[1]) < 2:
            return self._hash_keys(view, parts, commands, now)
        leading, ids = parts
        key = view.place.prefix + leading[0]
        whole = len(ids) > FEW_FIELDS and key not in self.large
        number = len(commands)
        commands.append(("HGETALL", key) if whole else ("HMGET", key, *ids.raw))

        def parse(replies: list[Any]) -> list[ViewRows]:
            reply = replies[number]
            if reply is None:  # the key holds another type than ours
                reply = [] if whole else [None] * len(ids)
            if whole:
                # redis-py has made a mapping of it, our own link has not.
                if isinstance(reply, dict):
                    reply = [part for pair in reply.items() for part in pair]
                return [self._rows_of_hash(view, key, ids, reply, now)]
            return [_sparse_rows(view, reply, now)]

        return parse

    def _rows_of_hash(
        self, view: View, key: bytes, ids: EntityIds, reply: list[bytes], now: int
    ) -> ViewRows:
        """The requested rows, from a reply that holds all fields and values of a hash."""
        names, held = reply[::2], reply[1::2]
        if len(names) > LARGE_HASH and len(self.large) < MAX_LARGE_HASHES:
            self.large[key] = None
        if ids.numbers is not None:
            with contextlib.suppress(ValueError):  # a field that is no number: by their texts
                known = dict(zip(map(int, names), held, strict=True))
                return _sparse_rows(view, list(map(known.get, ids.integers)), now)
        by_name = dict(zip(names, held, strict=True))
        return _sparse_rows(view, list(map(by_name.get, ids.raw)), now)

    def _hash_keys(
        self, view: View, parts: Sequence[EntityIds], commands: list[Command], now: int
    ) -> ReplyParser:
        """Request pairs with several leading ids: one HMGET for each."""
        n = max(map(len, parts)) if all(map(len, parts)) else 0
        spread = [part.raw if len(part) == n else list(part.raw[:1]) * n for part in parts]
        asked: dict[bytes, dict[bytes, int]] = {}
        places: list[tuple[bytes, bytes]] = []
        for ids in zip(*spread, strict=True):
            key, name = view.place.of_ids(ids)
            assert name is not None  # composite
            asked.setdefault(key, {}).setdefault(name, 0)
            places.append((key, name))
        numbers: dict[bytes, int] = {}
        for key, names in asked.items():
            numbers[key] = len(commands)
            commands.append(("HMGET", key, *names))

        def parse(replies: list[Any]) -> list[ViewRows]:
            found = {
                key: dict(zip(names, replies[numbers[key]] or [None] * len(names), strict=True))
                for key, names in asked.items()
            }
            rows = [found[key].get(name) for key, name in places]
            if n == 1:
                return [_single_row(view, rows[0], now)]
            return [_dense_rows(view, [row or b"" for row in rows], None, now)]

        return parse


def _string_keys(views: Sequence[View], ids: EntityIds, keys: list[bytes], now: int) -> ReplyParser:
    prefix = views[0].place.prefix
    start = len(keys)
    if len(ids) == 1:
        keys.append(prefix + ids[0])

        def parse_one(replies: list[Any]) -> list[ViewRows]:
            value = replies[-1][start]
            return [
                _single_row(view, None if value is None else view.decoder.layout.find(value), now)
                for view in views
            ]

        return parse_one
    unique: dict[bytes, int] = {}
    inverse = [unique.setdefault(entity_id, len(unique)) for entity_id in ids.raw]
    keys += [prefix + entity_id for entity_id in unique]
    again = np.array(inverse, np.int64) if len(unique) < len(ids) else None

    def parse(replies: list[Any]) -> list[ViewRows]:
        values = replies[-1][start : start + len(unique)]
        buffer, places = sections(values, [view.decoder.layout for view in views])
        return [
            _view_rows(view, view.decoder.block(buffer, at, size, now), again)
            for view, (at, size) in zip(views, places, strict=True)
        ]

    return parse


def _cached_rows(
    cache: EntityCache, views: Sequence[View], ids: EntityIds, now: int
) -> ReplyParser:
    def parse(_: list[Any]) -> list[ViewRows]:
        slots = cache.slots(ids)
        return [
            ViewRows(view, *cache.rows(view.decoder, slots, now), None, cache, slots)
            for view in views
        ]

    return parse


def _single_row(view: View, row: bytes | None, now: int) -> ViewRows:
    values, event = view.decoder.one(row, now)
    found = {name: [value] for name, value in values.items()}
    if event is None:
        return ViewRows(view, found, MISSING, NO_TIME)
    return ViewRows(view, found, PRESENT, np.array([event]))


def _sparse_rows(view: View, rows: Sequence[bytes | None], now: int) -> ViewRows:
    """Rows of which most are missing: these share one row of defaults."""
    there = [i for i, row in enumerate(rows) if row is not None]
    held: Any = [rows[i] for i in there]
    inverse = np.zeros(len(rows), np.int64)
    inverse[there] = counting(1, len(there) + 1)
    alike = view.decoder.alike(held, now)
    return (
        _view_rows(view, alike, inverse) if alike else _dense_rows(view, [b"", *held], inverse, now)
    )


def _dense_rows(view: View, rows: Sequence[bytes], inverse: Integers | None, now: int) -> ViewRows:
    buffer, at, size = fields(rows)
    return _view_rows(view, view.decoder.block(buffer, at, size, now), inverse)


def _view_rows(view: View, block: Block, inverse: Integers | None) -> ViewRows:
    return ViewRows(view, block.columns, block.present, block.events, inverse)

"""One request's rows, in one round trip: keys out, columns back."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extensions.serving.features.entity_ids import Ids
from extensions.serving.features.redis_connection import Command, Link
from extensions.serving.features.request_plan import Plan, View
from extensions.serving.near_cache.cached_views import Copy, NearCopies
from extensions.stores.online_codec.column_encoding import Integers, Values, counting, taken
from extensions.stores.online_codec.row_decoder import Block
from extensions.stores.online_codec.section_index import fields, sections

# A small hash is searched linearly for each field; asked for more than this, it is read whole.
FEW_FIELDS = 24
# A hash that turned out larger than this is asked for its fields from then on.
LARGE_HASH = 2_000
REMEMBERED = 10_000

YES, NO = np.array([True]), np.array([False])
NEVER = np.zeros(1, np.int64)

Axes = Mapping[str, Ids]
Taker = Callable[[list[Any]], list["Rows"]]


@dataclass
class Rows:
    """What was found for one view: columns of length 1 or n, who has a row, and as of when.

    ``found``, ``there`` and ``at`` hold each row once; ``inverse`` says where row i of the
    request stands among them, None: as they are. ``copy`` and ``slots``: where the rows were
    read from memory.
    """

    view: View
    found: Mapping[str, Values]
    there: NDArray[np.bool_]
    at: Integers
    inverse: Integers | None = None
    copy: Copy | None = None
    slots: Integers | None = None

    def __post_init__(self) -> None:
        if self.inverse is None:  # spare each of them a call
            self.__dict__.update(columns=self.found, present=self.there, events=self.at)

    @cached_property
    def columns(self) -> Mapping[str, Values]:
        """The view's features."""
        assert self.inverse is not None  # else they are here already
        return {name: taken(column, self.inverse) for name, column in self.found.items()}

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """Who has a row."""
        found: NDArray[np.bool_] = self.there[self.inverse]
        return found

    @cached_property
    def events(self) -> Integers:
        """As-of times in microseconds since 1970, 0 where there is no row."""
        return self.at[self.inverse]


@dataclass
class Reader:
    """Reads plans through a link; remembers which hashes are too large to be read whole.

    ``alone``: whether the worker has nothing else to do than the request that asks.
    """

    link: Link
    near: NearCopies | None = None
    alone: Callable[[], bool] = lambda: False
    large: dict[bytes, None] = field(default_factory=dict)

    async def read(self, plan: Plan, axes: Axes, now: int) -> list[Rows]:
        """The rows of every view of the plan, in its order.

        ``axes``: by join key the ids, one (for all rows) or n. ``now``: microseconds since
        1970. Raises UnavailableError.

        What is near is looked up without a pause before the reply is made of it: after the round
        trip, or while Redis works and this process does not sleep.
        """
        keys: list[bytes] = []
        commands: list[Command] = []
        takers: list[Taker] = []
        early: dict[Taker, list[Rows]] = {}
        for group in plan.groups:
            if len(group.join_keys) > 1:
                takers += [self._pairs(view, axes, commands, now) for view in group.views]
                continue
            ids = axes[group.join_keys[0]]
            copy = self.near.copy(group) if self.near is not None and group.near else None
            if copy is not None:
                takers.append(_near(copy, group.views, ids, now))
                early[takers[-1]] = []
            else:
                takers.append(_strings(group.views, ids, keys, now))
        if keys:
            commands.append(("MGET", *keys))
        replies: list[Any] = []
        if commands:
            coming = self.link.run(commands)
            if self.alone() and self.link.quick:
                early = {taker: taker([]) for taker in early}
                early = early if self.link.hurry() else {}
            replies = await coming
        rows = [rows for taker in takers for rows in early.get(taker) or taker(replies)]
        return (
            rows
            if plan.in_order
            else sorted(rows, key=lambda view_rows: plan.place[id(view_rows.view)])
        )

    def _pairs(self, view: View, axes: Axes, commands: list[Command], now: int) -> Taker:
        parts = [axes[name] for name in view.join_keys]
        if len(parts) != 2 or len(parts[0]) != 1 or len(parts[1]) < 2:
            return self._hashes(view, parts, commands, now)
        leading, ids = parts
        key = view.place.prefix + leading[0]
        whole = len(ids) > FEW_FIELDS and key not in self.large
        number = len(commands)
        commands.append(("HGETALL", key) if whole else ("HMGET", key, *ids.raw))

        def take(replies: list[Any]) -> list[Rows]:
            reply = replies[number]
            if reply is None:  # the key holds another type than ours
                reply = [] if whole else [None] * len(ids)
            if whole:
                # redis-py has made a mapping of it, our own link has not.
                if isinstance(reply, dict):
                    reply = [part for pair in reply.items() for part in pair]
                return [self._of_hash(view, key, ids, reply, now)]
            return [_found(view, reply, now)]

        return take

    def _of_hash(self, view: View, key: bytes, ids: Ids, reply: list[bytes], now: int) -> Rows:
        """The rows asked for among all fields and rows of a hash."""
        names, held = reply[::2], reply[1::2]
        if len(names) > LARGE_HASH and len(self.large) < REMEMBERED:
            self.large[key] = None
        if ids.numbers is not None:
            with contextlib.suppress(ValueError):  # a field that is no number: by their texts
                known = dict(zip(map(int, names), held, strict=True))
                return _found(view, list(map(known.get, ids.values)), now)
        by_name = dict(zip(names, held, strict=True))
        return _found(view, list(map(by_name.get, ids.raw)), now)

    def _hashes(self, view: View, parts: Sequence[Ids], commands: list[Command], now: int) -> Taker:
        """One command for each leading id."""
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

        def take(replies: list[Any]) -> list[Rows]:
            found = {
                key: dict(zip(names, replies[numbers[key]] or [None] * len(names), strict=True))
                for key, names in asked.items()
            }
            rows = [found[key].get(name) for key, name in places]
            if n == 1:
                return [_one(view, rows[0], now)]
            return [_block(view, [row or b"" for row in rows], None, now)]

        return take


def _strings(views: Sequence[View], ids: Ids, keys: list[bytes], now: int) -> Taker:
    prefix = views[0].place.prefix
    start = len(keys)
    if len(ids) == 1:
        keys.append(prefix + ids[0])

        def take_one(replies: list[Any]) -> list[Rows]:
            value = replies[-1][start]
            return [
                _one(view, None if value is None else view.decoder.layout.find(value), now)
                for view in views
            ]

        return take_one
    unique: dict[bytes, int] = {}
    inverse = [unique.setdefault(entity_id, len(unique)) for entity_id in ids.raw]
    keys += [prefix + entity_id for entity_id in unique]
    again = np.array(inverse, np.int64) if len(unique) < len(ids) else None

    def take(replies: list[Any]) -> list[Rows]:
        values = replies[-1][start : start + len(unique)]
        buffer, places = sections(values, [view.decoder.layout for view in views])
        return [
            _of(view, view.decoder.block(buffer, at, size, now), again)
            for view, (at, size) in zip(views, places, strict=True)
        ]

    return take


def _near(copy: Copy, views: Sequence[View], ids: Ids, now: int) -> Taker:
    def take(_: list[Any]) -> list[Rows]:
        slots = copy.slots(ids)
        return [
            Rows(view, *copy.rows(view.decoder, slots, now), None, copy, slots) for view in views
        ]

    return take


def _one(view: View, row: bytes | None, now: int) -> Rows:
    values, event = view.decoder.one(row, now)
    found = {name: [value] for name, value in values.items()}
    if event is None:
        return Rows(view, found, NO, NEVER)
    return Rows(view, found, YES, np.array([event]))


def _found(view: View, rows: Sequence[bytes | None], now: int) -> Rows:
    """Rows of which most are not there: those stand together, as one that holds the defaults."""
    there = [i for i, row in enumerate(rows) if row is not None]
    held: Any = [rows[i] for i in there]
    inverse = np.zeros(len(rows), np.int64)
    inverse[there] = counting(1, len(there) + 1)
    alike = view.decoder.alike(held, now)
    return _of(view, alike, inverse) if alike else _block(view, [b"", *held], inverse, now)


def _block(view: View, rows: Sequence[bytes], inverse: Integers | None, now: int) -> Rows:
    buffer, at, size = fields(rows)
    return _of(view, view.decoder.block(buffer, at, size, now), inverse)


def _of(view: View, block: Block, inverse: Integers | None) -> Rows:
    return Rows(view, block.columns, block.present, block.events, inverse)

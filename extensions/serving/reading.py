"""One request's rows, in one round trip: keys out, columns back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extensions.serving.decoding import Block, Values, fields, sections
from extensions.serving.link import Command, Link
from extensions.serving.plan import Plan, View

# A small hash is searched linearly for each field; asked for more than this, it is read whole.
FEW_FIELDS = 24
# A hash that turned out larger than this is asked for its fields from then on.
LARGE_HASH = 2_000
REMEMBERED = 10_000

Axes = Mapping[str, Sequence[bytes]]


@dataclass(frozen=True)
class Rows:
    """What was found for one view: columns of length 1 or n, who has a row, and as of when."""

    view: View
    columns: Mapping[str, Values]
    present: NDArray[np.bool_]
    events: NDArray[np.int64]


@dataclass
class Reader:
    """Reads plans through a link; remembers which hashes are too large to be read whole."""

    link: Link
    large: dict[bytes, None] = field(default_factory=dict)

    async def read(self, plan: Plan, axes: Axes, now: int) -> list[Rows]:
        """The rows of every view. ``axes``: by join key the ids, one (for all rows) or n.

        ``now``: microseconds since 1970. Raises UnavailableError.
        """
        keys: list[bytes] = []
        commands: list[Command] = []
        takers: list[Callable[[list[Any]], list[Rows]]] = []
        for join_keys, views in _groups(plan):
            if len(join_keys) == 1:
                takers.append(_strings(views, axes[join_keys[0]], keys, now))
            else:
                takers += [self._hashes(view, axes, commands, now) for view in views]
        if keys:
            commands.insert(0, ("MGET", *keys))
        else:
            commands.insert(0, ("PING",))
        replies = await self.link.run(commands)
        return [rows for taker in takers for rows in taker(replies)]

    def _hashes(
        self, view: View, axes: Axes, commands: list[Command], now: int
    ) -> Callable[[list[Any]], list[Rows]]:
        """One command for each leading id; the first command of the request is the MGET."""
        parts = [axes[name] for name in view.join_keys]
        n = max(map(len, parts)) if all(parts) else 0
        spread = [part if len(part) == n else list(part[:1]) * n for part in parts]
        asked: dict[bytes, dict[bytes, int]] = {}
        places: list[tuple[bytes, bytes]] = []
        for ids in zip(*spread, strict=True):
            key, name = view.place.of_ids(ids)
            assert name is not None  # composite
            asked.setdefault(key, {}).setdefault(name, 0)
            places.append((key, name))
        numbers: dict[bytes, tuple[int, bool]] = {}
        for key, names in asked.items():
            whole = len(names) > FEW_FIELDS and key not in self.large
            commands.append(("HGETALL", key) if whole else ("HMGET", key, *names))
            numbers[key] = (len(commands), whole)

        def take(replies: list[Any]) -> list[Rows]:
            found: dict[bytes, dict[bytes, bytes | None]] = {}
            for key, names in asked.items():
                number, whole = numbers[key]
                reply = replies[number]
                if whole:
                    # redis-py has made a mapping of it, our own link has not.
                    pairs = reply if isinstance(reply, dict) else _mapping(reply)
                    found[key] = pairs
                    if len(pairs) > LARGE_HASH and len(self.large) < REMEMBERED:
                        self.large[key] = None
                else:
                    found[key] = dict(zip(names, reply, strict=True))
            rows = [found[key].get(name) for key, name in places]
            if n == 1:
                return [_one(view, rows[0], now)]
            buffer, at, size = fields(rows)
            return [_rows(view, view.decoder.block(buffer, at, size, now), None)]

        return take


def _strings(
    views: list[View], ids: Sequence[bytes], keys: list[bytes], now: int
) -> Callable[[list[Any]], list[Rows]]:
    prefix = views[0].place.prefix
    start = len(keys)
    if len(ids) == 1:
        keys.append(prefix + ids[0])

        def take_one(replies: list[Any]) -> list[Rows]:
            value = replies[0][start]
            return [
                _one(view, None if value is None else view.decoder.layout.find(value), now)
                for view in views
            ]

        return take_one
    unique: dict[bytes, int] = {}
    inverse = [unique.setdefault(one, len(unique)) for one in ids]
    keys += [prefix + one for one in unique]
    again = np.array(inverse, np.int64) if len(unique) < len(ids) else None

    def take(replies: list[Any]) -> list[Rows]:
        values = replies[0][start : start + len(unique)]
        buffer, places = sections(values, [view.decoder.layout for view in views])
        return [
            _rows(view, view.decoder.block(buffer, at, size, now), again)
            for view, (at, size) in zip(views, places, strict=True)
        ]

    return take


def _mapping(flat: list[bytes]) -> dict[bytes, bytes | None]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _one(view: View, row: bytes | None, now: int) -> Rows:
    values, event = view.decoder.one(row, now)
    return Rows(
        view,
        {name: [value] for name, value in values.items()},
        np.array([event is not None]),
        np.array([event or 0]),
    )


def _rows(view: View, block: Block, again: NDArray[np.int64] | None) -> Rows:
    if again is None:
        return Rows(view, block.columns, block.present, block.events)
    columns: dict[str, Values] = {
        name: column[again] if isinstance(column, np.ndarray) else [column[i] for i in again]
        for name, column in block.columns.items()
    }
    return Rows(view, columns, block.present[again], block.events[again])


def _groups(plan: Plan) -> list[tuple[tuple[str, ...], list[View]]]:
    groups: dict[tuple[str, ...], list[View]] = {}
    for view in plan.views:
        groups.setdefault(view.join_keys, []).append(view)
    return list(groups.items())

"""What the database and Redis hold of a platform, and whether its oracle says the same."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import psycopg
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from psycopg import sql

from extensions.asof import Computation
from extensions.sources import HistoryTable, Sources
from extensions.stores.log_publishing import registered
from tests.oracle.answers import Answer
from tests.platforms.description import Keys, Platform, Row, Rows


@dataclass(frozen=True)
class Logged:
    """A row of a view's log, or of what Redis holds."""

    keys: Keys
    as_of: datetime
    answer: Answer


@dataclass(frozen=True)
class Truth:
    """All history of one instant, and the oracle's answers over it."""

    platform: Platform
    rows: Rows

    @classmethod
    def of(cls, platform: Platform, conn: psycopg.Connection, sources: Sources) -> "Truth":
        """The history as it is now."""
        return cls(platform, {name: stored(conn, table) for name, table in sources.tables.items()})

    def answer(self, computation: Computation, keys: Keys, as_of: datetime) -> Answer:
        """What the oracle says; of a second version, what it makes of the first one's."""
        which = computation.join_keys, keys
        if which not in self._narrowed:
            self._narrowed[which] = self._narrow(*which)
        rows = self._narrowed[which]
        found = self.platform.oracle[computation.view](rows, keys, as_of)
        return found if computation.version == 1 else self.platform.second.answer(found)

    def assert_agrees(self, computation: Computation, held: Iterable[Logged]) -> int:
        """Each value is the oracle's for its own time; returns how many there were."""
        count = 0
        for count, row in enumerate(held, 1):  # noqa: B007
            true = self.answer(computation, row.keys, row.as_of)
            assert self.platform.agrees(computation.view, row.answer, true), (
                f"{computation.name} {row.keys} at {row.as_of}: {row.answer}, not {true}"
            )
        return count

    def entities(self, join_keys: tuple[str, ...]) -> list[Keys]:
        """Those that history names, and those that the platform's own rows may name."""
        named = {
            tuple(row[key] for key in join_keys)
            for lines in self.rows.values()
            for row in lines
            if all(key in row for key in join_keys)
        }
        return sorted(named | {*self.platform.entities(self.rows, join_keys)})

    def _narrow(self, join_keys: tuple[str, ...], keys: Keys) -> Rows:
        """The rows that do not name another entity than this one."""
        found = {}
        for source, lines in self.rows.items():
            equal = {
                key: value
                for key, value in zip(join_keys, keys, strict=True)
                if lines and key in lines[0]
            }
            fewer = lines
            if equal:
                key, value = next(iter(equal.items()))
                fewer = self._by_value(source, key).get(value, [])
            found[source] = [
                row for row in fewer if all(row[key] == value for key, value in equal.items())
            ]
        return found

    def _by_value(self, source: str, key: str) -> dict[Any, list[Row]]:
        if (source, key) not in self._indexes:
            index = self._indexes[source, key] = defaultdict(list)
            for row in self.rows[source]:
                index[row[key]].append(row)
        return self._indexes[source, key]

    @cached_property
    def _narrowed(self) -> dict[Any, Rows]:
        return {}

    @cached_property
    def _indexes(self) -> dict[Any, dict[Any, list[Row]]]:
        return {}


def stored(conn: psycopg.Connection, table: HistoryTable) -> list[Row]:
    """All rows of a history table, in order of arrival, without generated columns."""
    names = [column.name for column in table.written]
    found = conn.execute(
        sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.Identifier(table.table),
            sql.Identifier(table.arrival),
        )
    )
    return [dict(zip(names, row, strict=True)) for row in found]


def logged(
    conn: psycopg.Connection, computation: Computation, since: datetime | None = None
) -> list[Logged]:
    """The rows of a log that were computed as of ``since`` or later, in order of their times."""
    names = [*computation.join_keys, "event_timestamp", *(f.name for f in computation.features)]
    found = conn.execute(
        sql.SQL("SELECT {} FROM {} WHERE event_timestamp >= %s ORDER BY event_timestamp").format(
            sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(computation.log_table)
        ),
        [since or datetime.fromisoformat("1970-01-01T00:00:00+00:00")],
    )
    width = len(computation.join_keys)
    types = [feature.pg_type for feature in computation.features]
    return [
        Logged(tuple(row[:width]), row[width], tuple(map(_exact, row[width + 1 :], types)))
        for row in found
    ]


def latest(rows: Iterable[Logged]) -> dict[Keys, Logged]:
    """The last row of each entity."""
    return {row.keys: row for row in sorted(rows, key=lambda row: row.as_of)}


def online(
    store: FeatureStore, computation: Computation, keys: Sequence[Keys], now: datetime
) -> list[Logged]:
    """What Redis holds of each entity; of one without a row the default, as of ``now``."""
    asked = [
        EntityKey(
            join_keys=list(computation.join_keys), entity_values=[_proto(part) for part in each]
        )
        for each in keys
    ]
    view = registered(store, computation)
    rows = store._get_provider().online_read(store.config, view, asked, None)
    return [
        Logged(
            each,
            at or now,
            tuple(_of_proto((values or {})[feature.name]) for feature in computation.features),
        )
        for each, (at, values) in zip(keys, rows, strict=True)
    ]


def _exact(value: Any, pg_type: str) -> Any:
    """As the oracle has it: single precision as numpy's, arrays as tuples."""
    if isinstance(value, list):
        return tuple(_exact(part, pg_type.removesuffix("[]")) for part in value)
    return np.float32(value) if pg_type == "real" else value


def _proto(value: int | str) -> Value:
    return Value(string_val=value) if isinstance(value, str) else Value(int64_val=value)


def _of_proto(value: Value) -> Any:
    kind = value.WhichOneof("val")
    held = getattr(value, str(kind))
    if kind == "float_list_val":
        return tuple(np.float32(part) for part in held.val)
    if str(kind).endswith("_list_val"):
        return tuple(held.val)
    return np.float32(held) if kind == "float_val" else held

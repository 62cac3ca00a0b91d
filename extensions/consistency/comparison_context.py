"""What all parts of a comparison share: the connections, the view version, its watermarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from feast import FeatureStore, ValueType

from extensions.asof.computation import Computation
from extensions.asof.safe_time import settled_now
from extensions.asof.watermarks import read_watermark
from extensions.consistency.consistency_report import CAUSES, Difference
from extensions.consistency.entity_sample import Key
from extensions.consistency.online_rows import OnlineReader
from extensions.serving.features.request_plan import View

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Context:
    """One view version, and what it is read with. ``types``: of its join keys."""

    store: FeatureStore
    conn: psycopg.Connection
    arrow: dbapi.Connection
    reader: OnlineReader
    computation: Computation
    view: View
    types: Mapping[str, ValueType]

    def difference(self, cause: str, key: Key, why: str | None = None, **sides: Any) -> Difference:
        """A difference of this view; ``sides``: what the sides hold (fields of `Difference`)."""
        held: dict[str, Any] = dict.fromkeys(
            ("as_of", "recomputed", "logged", "logged_as_of", "online", "online_as_of")
        )
        keys = dict(zip(self.computation.join_keys, key, strict=False))
        return Difference(
            view=self.computation.view,
            version=self.computation.version,
            cause=cause,
            side=CAUSES[cause].side,
            why=why or CAUSES[cause].meaning,
            keys=keys,
            **(held | sides),
        )


@dataclass(frozen=True)
class Marks:
    """What a view version claims of itself, and the instant that values are compared at.

    ``as_of``: the log claims to be complete there: the watermark; without one, the instant that
    the freshness budget reaches back to. ``due``: the same instant where the watermark has not
    come so far. ``safe``: no ingest transaction can still precede it.
    """

    safe: datetime
    budget: timedelta
    live_from: datetime | None
    processed: datetime | None
    published: datetime | None

    @property
    def as_of(self) -> datetime:
        """The instant to compare at."""
        return self.safe - self.budget if self.processed is None else min(self.processed, self.safe)

    @property
    def due(self) -> datetime | None:
        """Where the log should have come to; None where it has."""
        due = self.safe - self.budget
        return due if self.processed is not None and self.processed < due else None

    @classmethod
    def read(cls, conn: psycopg.Connection, computation: Computation) -> "Marks":
        """As of now; read before all that they are compared with."""
        mark = read_watermark(conn, computation)
        safe = settled_now(conn, computation.tables)
        budget = computation.freshness.budget
        if mark is None:
            return cls(safe, budget, None, None, None)
        return cls(safe, budget, mark.live_from, mark.processed_through, mark.published_through)


@dataclass(frozen=True)
class Found:
    """Differences, and how many more the freshness budget excuses."""

    differences: list[Difference] = field(default_factory=list)
    lag: int = 0

    def and_also(self, other: "Found") -> "Found":
        """Both."""
        return Found(self.differences + other.differences, self.lag + other.lag)


def instant(micros: int) -> datetime:
    """A time in microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=int(micros))


def microseconds(at: datetime) -> int:
    """Since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def values_of(table: pa.Table, row: int) -> dict[str, Any]:
    """One row as Python values, by feature."""
    return {name: table[name][row].as_py() for name in table.column_names}


def key_table(computation: Computation, keys: Sequence[Key]) -> pa.Table:
    """A column per join key."""
    columns = {
        name: [str(value) for value in column] if kind == "uuid" else list(column)
        for name, kind, column in zip(
            computation.join_keys, computation.key_types, zip(*keys, strict=True), strict=True
        )
    }
    return pa.table(columns)

"""A computation: one view version's SQL text and what the engine needs to know to run it."""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

from extensions.asof.sql_windows import calendar_step, window_ends, windowed_columns
from extensions.version_names import log_table, version_name


class Freshness(Enum):
    """How fresh a view is kept: the period of its ticks and its freshness budget."""

    REALTIME = "realtime"
    HOURLY = "hourly"
    DAILY = "daily"

    @property
    def period(self) -> timedelta | None:
        """Time between ticks; None for a view that follows each event."""
        return {"hourly": timedelta(hours=1), "daily": timedelta(days=1)}.get(self.value)

    @property
    def budget(self) -> timedelta:
        """How far the watermark may lag before values count as stale."""
        return {
            "realtime": timedelta(minutes=5),
            "hourly": timedelta(hours=2),
            "daily": timedelta(days=2),
        }[self.value]


@dataclass(frozen=True)
class HistorySource:
    """A history table: its key columns, event time and arrival time."""

    table: str
    keys: tuple[str, ...]
    time: str
    arrival: str


@dataclass(frozen=True)
class FeatureColumn:
    """A feature's column in PostgreSQL, and its value for an entity without history."""

    name: str
    pg_type: str
    default: Any


@dataclass(frozen=True)
class Computation:
    """One version of a view: the SQL, and what the engine must know to ask it.

    ``reads[0]`` is the primary source: its rows carry the view's join keys, and an entity is
    active when one of them lies in the horizon. ``horizon`` None means that all history counts.
    ``declaration``: the aggregations from which the SQL was compiled, as JSON; None of SQL that
    was written by hand.
    """

    view: str
    version: int
    sql: str
    join_keys: tuple[str, ...]
    key_types: tuple[str, ...]
    features: tuple[FeatureColumn, ...]
    horizon: timedelta | None
    freshness: Freshness
    decays: bool
    reads: tuple[HistorySource, ...]
    declaration: str | None = None

    @property
    def name(self) -> str:
        """``view.vN``, the stem of the computation's file."""
        return version_name(self.view, self.version)

    @property
    def log_table(self) -> str:
        """The append-only table of the values that were computed."""
        return log_table(self.view, self.version)

    @property
    def tables(self) -> tuple[str, ...]:
        """The history tables that it reads, each once."""
        return tuple(dict.fromkeys(source.table for source in self.reads))

    @property
    def windows(self) -> tuple[timedelta, ...]:
        """The ages at which a row leaves something: the horizon, and shorter windows of the SQL."""
        horizon = set() if self.horizon is None else {self.horizon}
        return tuple(sorted(horizon | window_ends(self.sql)))

    def has_windows_over(self, source: HistorySource) -> bool:
        """Whether the text asks for the age of a source's rows."""
        return source.time.lower() in {name.lower() for name in windowed_columns(self.sql)}

    @property
    def calendar_step(self) -> timedelta | None:
        """How often the calendar changes values with no row entering or leaving; None: never."""
        return calendar_step(self.sql)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the SQL returns, in the engine's order."""
        return (*self.join_keys, "as_of", *(f.name for f in self.features))

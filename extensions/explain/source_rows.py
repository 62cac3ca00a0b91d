"""The rows of history that a computation may read for one entity, as SQL.

No SQL of a computation is parsed: which rows may count follows from what is declared of the
sources (keys, times, horizon), as it does for ticks and backfills.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from extensions.asof.computation import Computation, HistorySource
from extensions.asof.spine import SpineFragments

OWN, SHARED, THROUGH, WHOLE = "own", "shared", "through", "whole"

# Rows in a total order, the newest first; rows that are equal in all are interchangeable.
NEWEST = '{time} DESC, {arrival} DESC, h::text COLLATE "C" DESC'


@dataclass(frozen=True)
class SourceRows:
    """One source's rows ``h`` for an entity. ``how``: see `report.SourceEvents`."""

    source: HistorySource
    how: str
    computation: Computation
    entity: Mapping[str, Any]
    primary: HistorySource

    @property
    def horizon(self) -> sql.Composable | None:
        """The horizon that ends its rows, as an interval."""
        if self.how != OWN or self.computation.horizon is None:
            return None
        # Seconds, since the length of a day depends on a session's time zone.
        seconds = f"{self.computation.horizon.total_seconds():.6f} seconds"
        return sql.SQL("{}::interval").format(sql.Literal(seconds))

    @property
    def times(self) -> dict[str, sql.Composable]:
        """Placeholders ``time`` and ``arrival``."""
        return {
            "time": sql.Identifier("h", self.source.time),
            "arrival": sql.Identifier("h", self.source.arrival),
        }

    @property
    def order(self) -> sql.Composable:
        """ORDER BY of the rows, the newest first."""
        return sql.SQL(NEWEST).format(**self.times)

    def query(self, columns: sql.Composable, condition: sql.Composable) -> sql.Composed:
        """SELECT of the entity's rows that meet a condition."""
        return sql.SQL("SELECT {} FROM {} AS h WHERE {} AND {}").format(
            columns, sql.Identifier(self.source.table), self._named(), condition
        )

    def known(self, at: datetime) -> sql.Composed:
        """Condition: the row counts as of a time."""
        known = sql.SQL("{time} <= {at} AND {arrival} <= {at}").format(**self.times, at=_time(at))
        if self.horizon is None:
            return known
        return sql.SQL("{known} AND {time} > {at} - {horizon}").format(
            known=known, at=_time(at), horizon=self.horizon, **self.times
        )

    def entered(self, after: datetime, at: datetime) -> sql.Composed:
        """Condition: it counts as of ``at``, and did not yet ``after`` an earlier time."""
        return sql.SQL("{known} AND greatest({time}, {arrival}) > {after}").format(
            known=self.known(at), after=_time(after), **self.times
        )

    def departed(self, after: datetime, at: datetime) -> sql.Composed:
        """Condition: it counted as of ``after``, and by ``at`` it had left the horizon."""
        return sql.SQL("{known} AND {time} <= {at} - {horizon}").format(
            known=self.known(after), at=_time(at), horizon=self.horizon, **self.times
        )

    def _named(self) -> sql.Composable:
        """Condition: the row belongs to the entity."""
        types = dict(zip(self.computation.join_keys, self.computation.key_types, strict=True))
        shared = [key for key in self.source.keys if key in types]
        if self.how == WHOLE:
            return sql.SQL("TRUE")
        if self.how != THROUGH:
            return sql.SQL(" AND ").join(
                sql.SQL("{} = {}::{}").format(
                    sql.Identifier("h", key), sql.Literal(self.entity[key]), sql.SQL(types[key])
                )
                for key in shared
            )
        # Keys of the entity's rows in the primary source.
        own = SourceRows(self.primary, OWN, self.computation, self.entity, self.primary)
        keys = [key for key in self.source.keys if key in self.primary.keys]
        named = sql.SQL(", ").join(sql.Identifier("h", key) for key in keys)
        return sql.SQL("({}) IN ({})").format(
            named,
            own.query(
                sql.SQL(", ").join(sql.Identifier("h", key) for key in keys), sql.SQL("TRUE")
            ),
        )


def source_rows(computation: Computation, entity: Mapping[str, Any]) -> Sequence[SourceRows]:
    """Each table that the computation reads, once, in its order."""
    build = SpineFragments(computation)
    found: dict[str, SourceRows] = {}
    for source in computation.reads:
        if source in build.bearing:
            how = OWN
        elif set(source.keys) & set(computation.join_keys):
            how = SHARED
        else:
            how = THROUGH if build.shared_keys(source) else WHOLE
        found.setdefault(source.table, SourceRows(source, how, computation, entity, build.primary))
    return list(found.values())


def _time(at: datetime) -> sql.Composable:
    return sql.Literal(at)

"""Spines: which entities to ask about, and at which moments.

Every spine is SQL that returns the join keys and ``as_of``. The builders here find the entities
whose answers may have changed from the history sources alone, so that a tick costs what
changed and not the whole population.

With t the moment of asking, a row that happened at ``time``, became known at ``arrival`` and
counts for the horizon h, is part of the answer while max(time, arrival) <= t < time + h. So an
answer can change at max(time, arrival), where the row enters, and at time + h, where it leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from extensions.asof.computation import Computation, HistorySource
from extensions.database.connection import identifiers
from extensions.errors import DefinitionError, InputError


@dataclass(frozen=True)
class Spine:
    """SQL that returns one row ``(join keys…, as_of)`` for each question to be answered."""

    query: sql.Composable

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]], computation: Computation) -> "Spine":
        """The questions themselves: rows of (key, …, as_of); ``as_of`` must know its zone."""
        width = len(computation.join_keys) + 1
        if any(len(row) != width for row in rows):
            raise InputError(
                f"A spine row of {computation.name} is ({', '.join(computation.join_keys)}, as_of)."
            )
        types = (*computation.key_types, "timestamptz")
        arrays = [
            sql.SQL("{}::{}[]").format(sql.Literal([row[i] for row in rows]), sql.SQL(pg_type))
            for i, pg_type in enumerate(types)
        ]
        return cls(
            sql.SQL("SELECT * FROM unnest({}) AS u ({}, as_of)").format(
                sql.SQL(", ").join(arrays), identifiers(computation.join_keys)
            )
        )


@dataclass(frozen=True)
class _Builder:
    """The fragments that the builders below share: names quoted, moments as literals."""

    computation: Computation

    @property
    def primary(self) -> HistorySource:
        return self.computation.reads[0]

    def names(self, source: HistorySource) -> dict[str, sql.Composable]:
        names: dict[str, sql.Composable] = {
            "keys": identifiers(self.computation.join_keys, "p"),
            "table": sql.Identifier(source.table),
            "time": sql.Identifier(source.time),
            "arrival": sql.Identifier(source.arrival),
            "primary": sql.Identifier(self.primary.table),
            "p_time": sql.Identifier("p", self.primary.time),
            "p_arrival": sql.Identifier("p", self.primary.arrival),
        }
        if self.computation.horizon is not None:
            names["horizon"] = sql.SQL("{}::interval").format(
                # Seconds, since the length of a day depends on a session's time zone.
                sql.Literal(f"{self.computation.horizon.total_seconds():.6f} seconds")
            )
        return names

    def within(self, moment: sql.Composable) -> sql.Composable:
        """Condition: the primary row ``p`` is part of the answer at ``moment``."""
        known = "{p_time} <= {at} AND {p_arrival} <= {at}"
        if self.computation.horizon is not None:
            known = "{p_time} > {at} - {horizon} AND " + known
        return sql.SQL(known).format(**self.names(self.primary), at=moment)

    def shared_keys(self, source: HistorySource) -> tuple[str, ...]:
        return tuple(key for key in source.keys if key in self.primary.keys)


def active(computation: Computation, at: datetime) -> Spine:
    """All entities with a row of the primary source in the horizon at ``at``."""
    build = _Builder(computation)
    moment = sql.Literal(at)
    return Spine(
        sql.SQL(
            "SELECT DISTINCT {keys}, {at}::timestamptz AS as_of FROM {table} AS p WHERE {w}"
        ).format(**build.names(build.primary), at=moment, w=build.within(moment))
    )


def everyone(computation: Computation, at: datetime) -> Spine:
    """All active entities, and all that the log knows: their last rows may be of long ago."""
    query = sql.SQL(
        "SELECT {keys}, {at}::timestamptz AS as_of FROM ({active}) AS a "
        "UNION SELECT {keys}, {at}::timestamptz FROM {log}"
    ).format(
        keys=identifiers(computation.join_keys),
        at=sql.Literal(at),
        active=active(computation, at).query,
        log=sql.Identifier(computation.log_table),
    )
    return Spine(query)


def touched(computation: Computation, after: datetime, through: datetime) -> Spine:
    """The entities whose answer at ``through`` may differ from that at ``after``.

    Values that decay differ for every active entity.
    """
    build = _Builder(computation)
    changed = _moments(build, after, through)
    query = sql.SQL("SELECT {keys} FROM ({changed}) AS p").format(
        keys=identifiers(computation.join_keys, "p"), changed=changed
    )
    if computation.decays:
        query = sql.SQL("{} UNION SELECT {} FROM ({}) AS p").format(
            query, identifiers(computation.join_keys, "p"), active(computation, through).query
        )
    return Spine(
        sql.SQL("SELECT DISTINCT {keys}, {at}::timestamptz AS as_of FROM ({query}) AS p").format(
            keys=identifiers(computation.join_keys, "p"), at=sql.Literal(through), query=query
        )
    )


def changes(computation: Computation, after: datetime, through: datetime) -> Spine:
    """Every (entity, moment) in ``(after, through]`` at which the log would hold a new row.

    For a view that follows its events, the very moments of change; for one computed by ticks,
    the first tick at or after the change. Ticks lie on whole periods since the Unix epoch.
    """
    build = _Builder(computation)
    period = computation.freshness.period
    keys = identifiers(computation.join_keys, "p")
    if period is None:
        if computation.decays:
            raise DefinitionError(
                f"View {computation.view} decays and is realtime: there is no moment at which "
                "its value does not change; make it hourly or daily."
            )
        moments = _moments(build, after, through)
        return Spine(
            sql.SQL("SELECT DISTINCT {keys}, p.moment AS as_of FROM ({moments}) AS p").format(
                keys=keys, moments=moments
            )
        )
    # A change up to one period before `after` may first show at a tick within the range.
    moments = _moments(build, after - period, through)
    epoch = sql.SQL("timestamptz '1970-01-01 00:00:00+00'")
    every = sql.Literal(period)
    query = sql.SQL(
        "SELECT DISTINCT {keys}, date_bin({every}, p.moment - interval '1 microsecond', {epoch}) "
        "+ {every} AS as_of FROM ({moments}) AS p"
    ).format(keys=keys, every=every, epoch=epoch, moments=moments)
    if computation.decays:
        ticks = sql.SQL(
            "SELECT DISTINCT {keys}, g.tick AS as_of FROM generate_series("
            "date_bin({every}, {after}, {epoch}) + {every}, {through}, {every}) AS g (tick) "
            "INNER JOIN {table} AS p ON {within}"
        ).format(
            **build.names(build.primary),
            every=every,
            epoch=epoch,
            after=sql.Literal(after),
            through=sql.Literal(through),
            within=build.within(sql.SQL("g.tick")),
        )
        query = sql.SQL("{} UNION {}").format(query, ticks)
    return Spine(
        sql.SQL("SELECT * FROM ({query}) AS c WHERE as_of > {after} AND as_of <= {through}").format(
            query=query, after=sql.Literal(after), through=sql.Literal(through)
        )
    )


def _moments(build: _Builder, after: datetime, through: datetime) -> sql.Composable:
    """Rows (join keys, moment), moment in (after, through]: when rows entered and left."""
    parts: list[sql.Composable] = []
    bounds: dict[str, sql.Composable] = {
        "after": sql.Literal(after),
        "through": sql.Literal(through),
    }
    names = build.names(build.primary)
    if build.computation.horizon is not None:
        parts.append(
            sql.SQL(
                "SELECT {keys}, {p_time} + {horizon} AS moment FROM {table} AS p "
                "WHERE {p_time} > {after} - {horizon} AND {p_time} <= {through} - {horizon} "
                "AND {p_arrival} < {p_time} + {horizon}"
            ).format(**names, **bounds)
        )
    # Two range scans: those that arrived in the range, and those awaited from before.
    parts.append(
        sql.SQL(
            "SELECT {keys}, greatest({p_time}, {p_arrival}) AS moment FROM {table} AS p "
            "WHERE {p_arrival} > {after} AND {p_arrival} <= {through} "
            "AND {p_time} <= {through}"
        ).format(**names, **bounds)
    )
    parts.append(
        sql.SQL(
            "SELECT {keys}, {p_time} AS moment FROM {table} AS p "
            "WHERE {p_time} > {after} AND {p_time} <= {through} AND {p_arrival} <= {p_time}"
        ).format(**names, **bounds)
    )
    parts.extend(_moments_by(build, source, bounds) for source in build.computation.reads[1:])
    return sql.SQL(" UNION ALL ").join(parts)


def _moments_by(
    build: _Builder, source: HistorySource, bounds: dict[str, sql.Composable]
) -> sql.Composable:
    """Changes of another source (an item's genre): they touch the entities that refer to it.

    A source that shares no key with the primary one touches every active entity; such sources
    (genres) change rarely.
    """
    news = sql.SQL(
        "SELECT {keys} greatest({time}, {arrival}) AS moment FROM {table} "
        "WHERE ({arrival} > {after} AND {arrival} <= {through} AND {time} <= {through}) "
        "OR ({time} > {after} AND {time} <= {through} AND {arrival} <= {time})"
    )
    shared = build.shared_keys(source)
    own = {**build.names(source), **bounds}
    own["keys"] = sql.SQL("").join(sql.SQL("{}, ").format(sql.Identifier(key)) for key in shared)
    joined = sql.SQL(" AND ").join(
        [
            build.within(sql.SQL("n.moment")),
            *(sql.SQL("p.{k} = n.{k}").format(k=sql.Identifier(key)) for key in shared),
        ]
    )
    return sql.SQL(
        "SELECT {keys}, n.moment FROM (SELECT DISTINCT * FROM ({news}) AS every) AS n "
        "INNER JOIN {primary} AS p ON {joined}"
    ).format(**build.names(source), news=news.format(**own), joined=joined)

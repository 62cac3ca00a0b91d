"""Spines: the rows ``(join keys, as_of)`` that a computation is asked to answer.

A spine is SQL that returns the join keys and ``as_of``, one row for each requested value. All
spines are built here (which entities) and in `spine_changes` (which of them changed).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from extensions.asof.computation import Computation, HistorySource
from extensions.database.connection import identifiers
from extensions.errors import InputError


@dataclass(frozen=True)
class Spine:
    """SQL that returns one row ``(join keys…, as_of)`` for each requested value."""

    query: sql.Composable

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]], computation: Computation) -> "Spine":
        """A spine of literal rows ``(key, …, as_of)``; ``as_of`` must have a time zone.

        Raises:
            InputError: a row has another number of columns.
        """
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
class SpineFragments:
    """SQL fragments shared by all spine builders: quoted names, times as literals."""

    computation: Computation

    @property
    def primary(self) -> HistorySource:
        """The source whose rows carry the view's join keys."""
        return self.computation.reads[0]

    def names(self, source: HistorySource) -> dict[str, sql.Composable]:
        """Placeholders for templates: columns and table of ``source`` and of the primary one."""
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
        """Condition: the primary row ``p`` is part of the value as of ``moment``."""
        known = "{p_time} <= {at} AND {p_arrival} <= {at}"
        if self.computation.horizon is not None:
            known = "{p_time} > {at} - {horizon} AND " + known
        return sql.SQL(known).format(**self.names(self.primary), at=moment)

    def shared_keys(self, source: HistorySource) -> tuple[str, ...]:
        """The keys of ``source`` that the primary source has, too."""
        return tuple(key for key in source.keys if key in self.primary.keys)


def active(computation: Computation, at: datetime) -> Spine:
    """All active entities: those with a row of the primary source in the horizon at ``at``."""
    build = SpineFragments(computation)
    moment = sql.Literal(at)
    return Spine(
        sql.SQL(
            "SELECT DISTINCT {keys}, {at}::timestamptz AS as_of FROM {table} AS p WHERE {w}"
        ).format(**build.names(build.primary), at=moment, w=build.within(moment))
    )


def everyone(computation: Computation, at: datetime) -> Spine:
    """All active entities, and every entity in the log, however old its last row is."""
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


def entities(computation: Computation, keys: Collection[tuple[int, ...]], at: datetime) -> Spine:
    """The given entities as of ``at``, in key order so that neighbouring rows share pages."""
    columns = zip(zip(*sorted(keys), strict=True), computation.key_types, strict=True)
    return Spine(
        sql.SQL(
            "SELECT u.*, {at}::timestamptz AS as_of FROM unnest({columns}) AS u ({keys})"
        ).format(
            at=sql.Literal(at),
            columns=sql.SQL(", ").join(_array(column, pg_type) for column, pg_type in columns),
            keys=identifiers(computation.join_keys),
        )
    )


def arrivals(computation: Computation, after: datetime, through: datetime, at: datetime) -> Spine:
    """The entities with a row of the primary source that arrived in ``(after, through]``."""
    primary = computation.reads[0]
    return Spine(
        sql.SQL(
            "SELECT DISTINCT {keys}, {at}::timestamptz AS as_of FROM {table} "
            "WHERE {arrival} > {after} AND {arrival} <= {through}"
        ).format(
            keys=identifiers(computation.join_keys),
            at=sql.Literal(at),
            table=sql.Identifier(primary.table),
            arrival=sql.Identifier(primary.arrival),
            after=sql.Literal(after),
            through=sql.Literal(through),
        )
    )


def _array(column: tuple[int, ...], pg_type: str) -> sql.Composable:
    # psycopg quotes the elements of a list one by one; whole numbers need none of that.
    elements = sql.Literal("{" + ",".join(map(str, column)) + "}")
    return sql.SQL("{}::{}[]").format(elements, sql.SQL(pg_type))

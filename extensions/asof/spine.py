"""Spines: the rows ``(join keys, as_of)`` that a computation is asked to answer.

A spine is SQL that returns the join keys and ``as_of``, one row for each requested value. All
spines are built here (which entities) and in `spine_changes` (which of them changed).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from extensions.asof.computation import Computation, HistorySource
from extensions.database.connection import identifiers
from extensions.errors import InputError
from extensions.feature_types import INTEGERS


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

    @property
    def bearing(self) -> tuple[HistorySource, ...]:
        """The sources that have all join keys: the primary one, and others like it.

        Their rows name entities by themselves, and count for the horizon as the primary's do.
        """
        keys = set(self.computation.join_keys)
        others = self.computation.reads[1:]
        return (self.primary, *(source for source in others if keys <= set(source.keys)))

    def names(self, source: HistorySource) -> dict[str, sql.Composable]:
        """Placeholders for templates: columns and table of a source, and of the primary."""
        names: dict[str, sql.Composable] = {
            "keys": identifiers(self.computation.join_keys, "p"),
            "table": sql.Identifier(source.table),
            "time": sql.Identifier(source.time),
            "arrival": sql.Identifier(source.arrival),
            "primary": sql.Identifier(self.primary.table),
            "p_time": sql.Identifier("p", source.time),
            "p_arrival": sql.Identifier("p", source.arrival),
        }
        if self.computation.horizon is not None:
            names["horizon"] = span_literal(self.computation.horizon)
        return names

    def keys_of(self, source: HistorySource) -> sql.Composable:
        """The join keys of a row ``p``; where several sources bear them, in one collation."""
        if len(self.bearing) == 1:
            return self.names(source)["keys"]
        computation = self.computation
        return collated(computation.join_keys, computation.key_types, "C", "p")

    def within(self, moment: sql.Composable, source: HistorySource | None = None) -> sql.Composable:
        """Condition: the row ``p`` of a source (the primary one) counts as of ``moment``."""
        known = "{p_time} <= {at} AND {p_arrival} <= {at}"
        if self.computation.horizon is not None:
            known = "{p_time} > {at} - {horizon} AND " + known
        return sql.SQL(known).format(**self.names(source or self.primary), at=moment)

    def shared_keys(self, source: HistorySource) -> tuple[str, ...]:
        """The keys of ``source`` that the primary source has, too."""
        return tuple(key for key in source.keys if key in self.primary.keys)


def span_literal(span: timedelta) -> sql.Composed:
    """A length of time as an interval of seconds: a day's length depends on a session's zone."""
    return sql.SQL("{}::interval").format(sql.Literal(f"{span.total_seconds():.6f} seconds"))


def active(computation: Computation, at: datetime) -> Spine:
    """All active entities: those that a row in the horizon at ``at`` names by all join keys."""
    build = SpineFragments(computation)
    moment = sql.Literal(at)
    parts = [
        sql.SQL(
            "SELECT DISTINCT {keys}, {at}::timestamptz AS as_of FROM {table} AS p WHERE {w}"
        ).format(
            **build.names(source) | {"keys": build.keys_of(source)},
            at=moment,
            w=build.within(moment, source),
        )
        for source in build.bearing
    ]
    return Spine(named(computation, sql.SQL(" UNION ").join(parts)))


def named(computation: Computation, query: sql.Composable) -> sql.Composable:
    """The rows of ``query`` that have all join keys; one without a key names no entity."""
    keys = [sql.SQL("{} IS NOT NULL").format(sql.Identifier(k)) for k in computation.join_keys]
    return sql.SQL("SELECT * FROM ({}) AS named WHERE {}").format(
        query, sql.SQL(" AND ").join(keys)
    )


def everyone(computation: Computation, at: datetime) -> Spine:
    """All active entities, and every entity in the log, however old its last row is."""
    query = sql.SQL(
        "SELECT {keys}, {at}::timestamptz AS as_of FROM ({active}) AS a "
        "UNION SELECT {keys}, {at}::timestamptz FROM {log}"
    ).format(
        keys=collated(computation.join_keys, computation.key_types, "C"),
        at=sql.Literal(at),
        active=active(computation, at).query,
        log=sql.Identifier(computation.log_table),
    )
    return Spine(query)


def entities(computation: Computation, keys: Collection[tuple[Any, ...]], at: datetime) -> Spine:
    """The given entities as of ``at``, in key order so that neighbouring rows share pages.

    Texts are in order of their bytes, as in the log's index.
    """
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


def arrived(
    conn: psycopg.Connection,
    computation: Computation,
    source: HistorySource,
    after: datetime,
    through: datetime,
) -> list[tuple[Any, ...]]:
    """The join keys, in order, of the rows of ``source`` that arrived in ``(after, through]``.

    The source's table has the computation's join keys; a row without one names no entity.
    """
    keys = [sql.Identifier(key) for key in computation.join_keys]
    query = sql.SQL(
        "SELECT DISTINCT {keys} FROM {table} WHERE {arrival} > {after} AND {arrival} <= {through} "
        "AND {known} ORDER BY {keys}"
    ).format(
        keys=sql.SQL(", ").join(keys),
        known=sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(key) for key in keys),
        table=sql.Identifier(source.table),
        arrival=sql.Identifier(source.arrival),
        after=sql.Literal(after),
        through=sql.Literal(through),
    )
    with conn.cursor(binary=True) as cursor:
        return cursor.execute(query).fetchall()


def _array(column: tuple[Any, ...], pg_type: str) -> sql.Composable:
    # psycopg quotes the elements of a list one by one, ten times as slowly.
    if pg_type in INTEGERS:
        elements = ",".join(map(str, column))
    elif pg_type in ("text", "uuid"):
        # The elements of an array's text, all at once: no text holds NUL.
        whole = "\0".join(map(str, column)).replace("\\", r"\\").replace('"', r"\"")
        elements = '"' + whole.replace("\0", '","') + '"' if column else ""
    else:
        return sql.SQL("{}::{}[]").format(sql.Literal(list(column)), sql.SQL(pg_type))
    return sql.SQL("{}::{}[]").format(sql.Literal("{" + elements + "}"), sql.SQL(pg_type))


def collated(
    keys: Sequence[str], types: Sequence[str], collation: str, prefix: str | None = None
) -> sql.Composed:
    """Key columns, the texts among them in a collation under their own names.

    Tables may have collations of their own, which PostgreSQL does not compare with each other.
    """
    return sql.SQL(", ").join(
        sql.SQL("{} COLLATE {} AS {}").format(
            sql.Identifier(prefix, key) if prefix else sql.Identifier(key),
            sql.Identifier(collation),
            sql.Identifier(key),
        )
        if kind == "text"
        else (sql.Identifier(prefix, key) if prefix else sql.Identifier(key))
        for key, kind in zip(keys, types, strict=True)
    )

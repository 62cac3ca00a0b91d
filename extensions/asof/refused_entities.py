"""Refused entities: those whose value cannot be computed or logged stop no other entity's.

An overflow, a division by zero or a key too long for the log's index fails the whole statement. It
is found by halving which entities are the cause: these are recorded in ``refused_entities``, left
out from then on, and tried again one by one now and then, as of that time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from extensions.asof.computation import Computation
from extensions.asof.spine import Spine, entities
from extensions.database.connection import identifiers
from extensions.database.scalars import one_row
from extensions.failure_classification import first_line
from extensions.halving import take_halved

T = TypeVar("T")
Keys = tuple[str, ...]

# More of one statement, or all of several, are no entities' fault, but the view's.
MOST_REFUSED = 100
# How long a refused entity is left alone.
RETRY_AFTER = timedelta(seconds=60)
# SQLSTATEs, or classes of them, that depend on the values of a row: cardinality (two rows of a
# subquery that has one), data, and a value too large for an index or an array.
_OF_AN_ENTITY = ("21", "22", "54000")
_ENTITY = "skewless_entity"
_HALVED = sql.Identifier("skewless_halved")


@dataclass(frozen=True)
class Refusal:
    """An entity (its keys as texts) that is refused; ``as_of``: its first row of the spine."""

    entity: Keys
    digest: bytes
    as_of: datetime
    why: str


def without_refused(
    conn: psycopg.Connection,
    computation: Computation,
    spine: Spine,
    take: Callable[[Spine], T],
    *,
    refused: list[Refusal] | None = None,
) -> list[T]:
    """Take a spine whole, or what is left of it without the entities that fail, in parts.

    Entities that are refused already are left out of a spine that fails: to ask for them first
    would cost every step a query. An entity with several rows is taken, or refused, with all.

    Args:
        conn: In autocommit or within a transaction.
        computation: Whose spine it is.
        spine: The entities.
        take: Computes and logs a spine, in the caller's transaction if there is one.
        refused: Where given, entities that fail are added to it, and those that are refused
            already are tried like all others: they may have failed at another time.

    Returns:
        What ``take`` returned, part by part.

    Raises:
        Exception: what ``take`` raised, if that is no entity's fault, or the fault of too many.
    """
    taken = _whole(conn, take, spine)
    if isinstance(taken, Exception) and refused is None:
        spine = _left(computation, spine)
        taken = _whole(conn, take, spine)
    if not isinstance(taken, Exception):
        return taken
    cause = taken
    with conn.transaction():
        # Those that are refused already stand together, so that few halves have one.
        conn.execute(
            sql.SQL(
                "CREATE TEMP TABLE {} AS SELECT dense_rank() OVER (ORDER BY {}, {}) AS {}, s.* "
                "FROM ({}) AS s"
            ).format(
                _HALVED, not_refused(computation, "s"), identifiers(computation.join_keys, "s"),
                sql.Identifier(_ENTITY), spine.query,
            )
        )  # fmt: skip
        [count] = one_row(
            conn,
            sql.SQL("SELECT coalesce(max({}), 0) FROM {}").format(sql.Identifier(_ENTITY), _HALVED),
        )
        if not count:
            raise cause  # it fails without any entity
        alone: list[tuple[int, Exception]] = []

        def refuse(number: int, error: Exception) -> None:
            alone.append((number, error))
            if len(alone) > MOST_REFUSED:
                raise error

        def part(begin: int, end: int) -> T:
            with conn.transaction():
                return take(Spine(_rows(computation, begin, end)))

        found = list(
            take_halved(
                0, count, part, refuse, error_type=Exception,
                is_members=lambda error: _state(error) is not None, failed=cause,
            )
        )  # fmt: skip
        if 1 < count == len(alone):
            raise alone[-1][1]  # of everybody: what they share is the view's SQL
        for begin, error in alone:
            why = _state(error) or first_line(error)
            one = _record(conn, computation, _rows(computation, begin, begin + 1), why)
            if refused is not None:
                refused.append(one)
        conn.execute(sql.SQL("DROP TABLE {}").format(_HALVED))
    return found


def retry_refused(
    conn: psycopg.Connection, computation: Computation, at: datetime, take: Callable[[Spine], T]
) -> list[T]:
    """Take entities that were refused some time ago as of ``at``, each by itself.

    Those that succeed are refused no longer. Returns what ``take`` returned for them.
    """
    found = []
    for (entity,) in conn.execute(
        "SELECT entity FROM refused_entities WHERE view_name = %s AND version = %s "
        "AND refused_at < clock_timestamp() - %s ORDER BY refused_at LIMIT %s",
        [*_version(computation), RETRY_AFTER, MOST_REFUSED],
    ).fetchall():
        try:
            with conn.transaction():
                found.append(take(entities(computation, [tuple(entity)], at)))
                conn.execute(
                    "DELETE FROM refused_entities "
                    "WHERE view_name = %s AND version = %s AND digest = %s",
                    [*_version(computation), _digest(entity)],
                )
        except Exception as error:
            if (why := _state(error)) is None:
                raise
            conn.execute(
                "UPDATE refused_entities SET refused_at = clock_timestamp(), why = %s "
                "WHERE view_name = %s AND version = %s AND digest = %s",
                [why, *_version(computation), _digest(entity)],
            )
    return found


def refused_entities(conn: psycopg.Connection) -> Mapping[tuple[str, int], Mapping[Keys, str]]:
    """By (view, version), the entities that are refused now, each with the reason."""
    found: dict[tuple[str, int], dict[Keys, str]] = {}
    for view, version, entity, why in conn.execute(
        "SELECT view_name, version, entity, why FROM refused_entities ORDER BY refused_at"
    ).fetchall():
        found.setdefault((view, version), {})[tuple(entity)] = why
    return found


def _whole(
    conn: psycopg.Connection, take: Callable[[Spine], T], spine: Spine
) -> list[T] | Exception:
    """What ``take`` returns of the spine, or why it failed, if that may be an entity's fault."""
    try:
        with _undone(conn):
            return [take(spine)]
    except Exception as error:
        if _state(error) is None:
            raise
        return error


def _left(computation: Computation, spine: Spine) -> Spine:
    """The spine without the entities that are refused already."""
    return Spine(
        sql.SQL("SELECT {keys}, s.as_of FROM ({spine}) AS s WHERE {others}").format(
            keys=identifiers(computation.join_keys, "s"),
            spine=spine.query,
            others=not_refused(computation, "s"),
        )
    )


def not_refused(computation: Computation, row: str) -> sql.Composable:
    """Condition: the entity of a row is none that is refused."""
    view, version = _version(computation)
    return sql.SQL(
        "NOT EXISTS (SELECT FROM refused_entities AS x WHERE x.view_name = {view} "
        "AND x.version = {version} AND x.entity = {entity})"
    ).format(view=sql.Literal(view), version=sql.Literal(version), entity=_texts(computation, row))


def _texts(computation: Computation, prefix: str) -> sql.Composable:
    """SQL of an entity as it is recorded, with the collation of the record's column."""
    return sql.SQL("ARRAY[{}]").format(
        sql.SQL(", ").join(
            sql.SQL('{}::text COLLATE "default"').format(sql.Identifier(prefix, key))
            for key in computation.join_keys
        )
    )


def _rows(computation: Computation, begin: int, end: int) -> sql.Composable:
    return sql.SQL(
        "SELECT {keys}, h.as_of FROM {table} AS h "
        "WHERE h.{number} > {begin} AND h.{number} <= {end}"
    ).format(
        keys=identifiers(computation.join_keys, "h"), table=_HALVED, number=sql.Identifier(_ENTITY),
        begin=sql.Literal(begin), end=sql.Literal(end),
    )  # fmt: skip


def _record(
    conn: psycopg.Connection, computation: Computation, rows: sql.Composable, why: str
) -> Refusal:
    entity, as_of = one_row(
        conn,
        sql.SQL("SELECT {}, h.as_of FROM ({}) AS h ORDER BY h.as_of LIMIT 1").format(
            _texts(computation, "h"), rows
        ),
    )
    made = Refusal(tuple(entity), _digest(entity), as_of, why)
    conn.execute(
        "INSERT INTO refused_entities (view_name, version, digest, entity, why, as_of) "
        "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (view_name, version, digest) DO UPDATE "
        "SET why = excluded.why, refused_at = clock_timestamp()",
        [*_version(computation), made.digest, entity, why, as_of],
    )
    return made


@contextmanager
def _undone(conn: psycopg.Connection) -> Iterator[None]:
    """Undo a statement that fails; in autocommit it undoes itself."""
    if conn.info.transaction_status == TransactionStatus.IDLE:
        yield
    else:
        with conn.transaction():
            yield


def _state(error: BaseException) -> str | None:
    """Why an entity is refused, without the values of its rows; None of another failure."""
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    if not isinstance(cause, psycopg.Error):
        return None
    state = cause.sqlstate or ""
    if not state.startswith(_OF_AN_ENTITY):
        return None
    if state == "54000":
        return f"a value is too long for an index ({state})"
    said = (cause.diag.message_primary or type(cause).__name__).partition(":")[0]
    return f"{said} ({state})"


def _version(computation: Computation) -> tuple[str, int]:
    return computation.view, computation.version


def _digest(entity: Sequence[str]) -> bytes:
    return hashlib.sha256(json.dumps(list(entity)).encode()).digest()

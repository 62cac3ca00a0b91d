"""Epochs: whether PostgreSQL and Redis were restored, emptied or restarted without each other.

A log and what is online of it have one history. When either is restored from an earlier copy,
rows of a lost future win over true ones, or published rows are missing, and newest-wins cannot
tell. So every publication moves three marks in this order: ``intended`` in PostgreSQL, the mark in
Redis, ``confirmed`` in PostgreSQL. However it is cut short,

    confirmed <= mark <= intended

and a view version for which that does not hold names the side that is older. Each repair
(`extensions.stores.rebuild`) begins a new epoch, so that counters of two histories are not taken
for each other. Redis may also lose its last second in a crash without losing a mark: that is seen
by its run id.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import psycopg
from feast import FeatureStore

from extensions.asof.computation import Computation
from extensions.database.connection import table_exists
from extensions.database.scalars import one_row, scalar
from extensions.errors import ConfigurationError, ConflictError
from extensions.feast_internals import provider_of, redis_client
from extensions.stores.online.publish_marks import (
    Mark,
    advance_mark,
    begin_epoch,
    read_mark,
    run_of,
)
from extensions.stores.online.store import SkewlessRedisOnlineStore
from extensions.version_names import version_name


class State(Enum):
    """What the marks of a view version say."""

    AGREES = "agrees"
    UNPUBLISHED = "unpublished"
    UNMARKED = "unmarked"
    DATABASE_OLDER = "database older"
    ONLINE_OLDER = "online older"
    ONLINE_EMPTY = "online empty"
    ANOTHER_HISTORY = "another history"
    RESTARTED = "online restarted"
    REPAIRING = "repair not ended"


@dataclass(frozen=True)
class Verdict:
    """What the marks of one view version say, and ``why`` in one sentence.

    ``confirmed_at``: when the last publication had ended that both sides know, by the database's
    clock. ``run``: the run of Redis that was asked.
    """

    view: str
    version: int
    state: State
    why: str
    confirmed_at: datetime | None = None
    run: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the log and Redis have one history, so that newest-wins is right."""
        return self.state in (State.AGREES, State.UNPUBLISHED)

    @property
    def name(self) -> str:
        """``view.vN``."""
        return version_name(self.view, self.version)


@dataclass(frozen=True)
class _Noted:
    epoch: UUID
    intended: int
    confirmed: int
    confirmed_at: datetime
    run_id: str
    repair: UUID | None


def check(conn: psycopg.Connection, store: FeatureStore, computation: Computation) -> Verdict:
    """Compare a view version's marks; changes nothing.

    Raises:
        SkewlessError: the repository names another online store than ours.
        RedisError: Redis does not answer.
    """
    client = client_of(store)
    noted = _noted(conn, computation)
    while True:
        mark, running = read_mark(client, store.config, computation.log_table), run_of(client)
        state, why = _state(conn, computation, noted, mark, running)
        before, noted = noted, _noted(conn, computation)
        if state is State.AGREES or noted == before:
            break  # else somebody published between one look and the other
    at = before.confirmed_at if before else None
    return Verdict(computation.view, computation.version, state, why, at, running)


@contextmanager
def publishing(
    conn: psycopg.Connection,
    store: FeatureStore,
    computation: Computation,
    verdict: Verdict | None = None,
) -> Iterator[None]:
    """Around a publication: see that the sides agree, and move the marks when it has ended.

    ``verdict``: what `check` said just now. ``conn`` must be in autocommit.

    Raises:
        ConflictError: the sides disagree, or Redis was restarted or restored meanwhile; the
            marks stay where they were.
    """
    verdict = verdict or check(conn, store, computation)
    if not verdict.agrees:
        raise ConflictError(
            f"{verdict.why} Run `skewless rebuild-online --view {computation.name}`."
        )
    yield
    _advance(conn, store, computation, verdict)


def note_restart(
    conn: psycopg.Connection, store: FeatureStore, computation: Computation, verdict: Verdict
) -> None:
    """Say that what a restarted Redis may have lost has been published again."""
    _advance(conn, store, computation, verdict)


def begin_repair(conn: psycopg.Connection, computation: Computation) -> UUID:
    """Note that a repair of the view version is under way; the one that was cut short goes on."""
    repair: UUID = scalar(
        conn,
        "INSERT INTO online_epochs AS e (view_name, version, repair) "
        "VALUES (%s, %s, gen_random_uuid()) ON CONFLICT (view_name, version) DO UPDATE "
        "SET repair = coalesce(e.repair, excluded.repair) RETURNING repair",
        [computation.view, computation.version],
    )
    return repair


def end_repair(
    conn: psycopg.Connection, store: FeatureStore, computation: Computation, running: str
) -> None:
    """Begin a new epoch, in which both sides agree. ``conn`` must be in autocommit.

    Raises:
        SkewlessError: Redis is not the run (``running``) any more that was repaired.
    """
    client, config = client_of(store), store.config
    _same_run(client, computation, running)
    held = read_mark(client, config, computation.log_table)
    epoch, number, at = _count(
        conn,
        computation,
        "epoch = gen_random_uuid(), intended = greatest(e.intended, %(least)s) + 1",
        least=held.number if held else 0,
    )
    begin_epoch(client, config, computation.log_table, Mark(epoch.hex, number))
    _confirm(conn, computation, number, at, running, "confirmed = %(number)s, repair = NULL")


def client_of(store: FeatureStore) -> Any:
    """The online store's connection to Redis.

    Raises:
        ConfigurationError: the repository names another online store than ours.
    """
    online = provider_of(store).online_store
    if not isinstance(online, SkewlessRedisOnlineStore):
        raise ConfigurationError(
            "The online_store of feature_store.yaml must be "
            "extensions.stores.online.store.SkewlessRedisOnlineStore."
        )
    return redis_client(online, store.config.online_store)


def _state(  # noqa: PLR0911 - one sentence for each state
    conn: psycopg.Connection,
    computation: Computation,
    noted: _Noted | None,
    mark: Mark | None,
    running: str,
) -> tuple[State, str]:
    name = computation.name
    if noted is None and mark is None:
        if not _published(conn, computation):
            return State.UNPUBLISHED, f"Nothing of {name} has been published."
        return State.UNMARKED, f"{name} was published before marks were kept."
    if noted is None:
        return State.DATABASE_OLDER, (
            f"Redis has rows of {name} whose publication the database does not know: it was "
            "restored from an earlier dump, or is another one."
        )
    if noted.repair is not None:
        return State.REPAIRING, f"A repair of {name} online was begun and has not ended."
    if mark is None:
        return State.ONLINE_EMPTY, f"Redis has lost what was published of {name}."
    if mark.number > noted.intended:
        return State.DATABASE_OLDER, (
            f"The database is older than Redis: {name} was published {mark.number} times, and the "
            f"database knows of {noted.intended}, as after a restore from an earlier dump."
        )
    if mark.number < noted.confirmed:
        return State.ONLINE_OLDER, (
            f"Redis is older than the database: it knows of {mark.number} publications of {name}, "
            f"and {noted.confirmed} had ended."
        )
    if mark.epoch != noted.epoch.hex:
        return State.ANOTHER_HISTORY, (
            f"What Redis holds of {name} belongs to another history than the log."
        )
    if running != noted.run_id:
        return State.RESTARTED, (
            f"Redis was restarted after the last publication of {name}, and may have lost the "
            "last rows before."
        )
    return State.AGREES, f"The log of {name} and Redis agree."


def _noted(conn: psycopg.Connection, computation: Computation) -> _Noted | None:
    if not table_exists(conn, "online_epochs"):
        raise ConfigurationError("The database has no table online_epochs: run `skewless migrate`.")
    row = conn.execute(
        "SELECT epoch, intended, confirmed, confirmed_at, run_id, repair FROM online_epochs "
        "WHERE view_name = %s AND version = %s",
        [computation.view, computation.version],
    ).fetchone()
    return _Noted(*row) if row else None


def _published(conn: psycopg.Connection, computation: Computation) -> bool:
    row = conn.execute(
        "SELECT published_through FROM watermarks WHERE view_name = %s AND version = %s",
        [computation.view, computation.version],
    ).fetchone()
    return bool(row and row[0])


def _advance(
    conn: psycopg.Connection, store: FeatureStore, computation: Computation, verdict: Verdict
) -> None:
    client = client_of(store)
    _same_run(client, computation, verdict.run)
    epoch, number, at = _count(conn, computation, "intended = e.intended + 1")
    advance_mark(
        client,
        store.config,
        computation.log_table,
        Mark(epoch.hex, number),
        first=verdict.state is State.UNPUBLISHED,
    )
    _confirm(conn, computation, number, at, verdict.run,
             "confirmed = greatest(confirmed, %(number)s)")  # fmt: skip


def _same_run(client: Any, computation: Computation, running: str) -> None:
    if run_of(client) != running:
        raise ConflictError(
            f"Redis was restarted while {computation.name} was written; the next round, or "
            f"`skewless rebuild-online --view {computation.name}`, makes up for it."
        )


def _count(
    conn: psycopg.Connection, computation: Computation, change: str, **values: Any
) -> tuple[UUID, int, datetime]:
    row = one_row(
        conn,
        "INSERT INTO online_epochs AS e (view_name, version, intended) "
        "VALUES (%(view)s, %(version)s, 1) ON CONFLICT (view_name, version) DO UPDATE "
        f"SET {change} RETURNING epoch, intended, clock_timestamp()",
        {"view": computation.view, "version": computation.version, **values},
    )
    return row[0], row[1], row[2]


def _confirm(
    conn: psycopg.Connection,
    computation: Computation,
    number: int,
    at: datetime,
    running: str,
    change: str,
) -> None:
    conn.execute(
        f"UPDATE online_epochs SET {change}, confirmed_at = greatest(confirmed_at, %(at)s), "
        "run_id = %(run)s WHERE view_name = %(view)s AND version = %(version)s",
        {"view": computation.view, "version": computation.version, "number": number, "at": at,
         "run": running},
    )  # fmt: skip

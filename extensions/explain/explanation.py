"""Explains one entity's values: what is served, logged and recomputed, whether they are equal, why.

The order of the reads is the consistency check's: Redis, then one state of the database for the
log, the recomputation and the events. Nothing is written but the record of the look.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from adbc_driver_postgresql import dbapi
from feast import FeatureStore
from psycopg import sql
from redis.exceptions import RedisError

from extensions.asof.log_cuts import cut_of
from extensions.asof.safe_time import settled_now
from extensions.database import connect, connect_arrow
from extensions.database.connection import table_exists
from extensions.database.scalars import clock
from extensions.errors import ConfigurationError, InputError, UnavailableError
from extensions.explain.comparing import LogComparison, Recomputed
from extensions.explain.contributions import LeaveOneOut
from extensions.explain.events import read_events
from extensions.explain.log_rows import Log, LogRows, read_log
from extensions.explain.looks import record_look
from extensions.explain.online_values import pushed_now, served_now, source_log
from extensions.explain.report import Comparison, Explanation, Served
from extensions.explain.source_rows import WHOLE, source_rows
from extensions.explain.subject import Subject, find_subject
from extensions.failure_classification import first_line
from extensions.stores.offline.feast_source_connections import url_of
from extensions.value_text import exact_time_text

_CANCELLED = "57014"
_NOTHING = pa.table({})


@dataclass(frozen=True)
class Limits:
    """What an explanation may take.

    Attributes:
        events: Events that are listed, and left out once, of each source.
        rows: Rows of the log that are listed before the one that counts.
        seconds: For a read of the database, and for all events that are left out.
    """

    events: int = 20
    rows: int = 5
    seconds: float = 10.0


def explain(
    store: FeatureStore,
    view: str,
    keys: Sequence[str],
    by: str,
    as_of: datetime | None = None,
    limits: Limits = Limits(),
) -> Explanation:
    """Explain one entity of a view version, and record that it was looked at.

    Args:
        store: The feature store.
        view: ``VIEW`` for its default version, or ``VIEW.vN``.
        keys: A text for each join key, in the view's order.
        by: Who looks, for the record.
        as_of: The time; None: now, or of a retired version when it was retired.
        limits: What it may take.

    Raises:
        InputError: there is no such view or key, or the time lies ahead.
        UnavailableError: a server does not answer, or not in time.
        DefinitionError: the version's text failed.
    """
    url = url_of(store.config)
    with (
        connect(url, autocommit=True, name="skewless explain") as conn,
        connect_arrow(url) as arrow,
        _in_time(limits.seconds),
    ):
        limit = f"SET statement_timeout = {int(1000 * limits.seconds)}"
        conn.execute(limit)
        with arrow.cursor() as cursor:
            cursor.execute(limit)
        arrow.commit()
        subject = find_subject(store, conn, view, keys)
        if as_of is not None and as_of > clock(conn):
            raise InputError(f"{exact_time_text(as_of)} lies ahead of the database's clock.")
        record_look(conn, subject, by, as_of)
        work = _Work(store, conn, arrow, subject, as_of, limits)
        return work.computed() if subject.computation else work.pushed()


@contextmanager
def _in_time(seconds: float) -> Iterator[None]:
    try:
        yield
    except (AdbcError, psycopg.Error) as error:
        if getattr(error, "sqlstate", None) != _CANCELLED:
            raise
        # The server's words may hold the statement, and so the key.
        raise UnavailableError(
            f"A read of the database took more than {seconds:g} s: give it more, with --seconds."
        ) from None


@dataclass
class _Work:
    store: FeatureStore
    conn: psycopg.Connection
    arrow: dbapi.Connection
    subject: Subject
    as_of: datetime | None
    limits: Limits
    notes: list[str] = field(default_factory=list)
    blind: bool = False

    def computed(self) -> Explanation:
        """Of a version with a computation."""
        subject, computation = self.subject, self.subject.computation
        assert computation is not None
        at = self._time()
        served, online = self._served()
        self._one_state()
        log, there = self._log(at)
        work = LogComparison(self.conn, self.arrow, computation, subject.key, at, log)
        recomputed = Recomputed.of(self.arrow, computation, subject.key, work.times())
        comparisons = work.compare(recomputed) if there else []
        rows = log.rows()
        since = rows[1].as_of if len(rows) > 1 else None
        readings = source_rows(computation, subject.entity)
        sources = [
            read_events(self.arrow, each, at, since, self.limits.events) for each in readings
        ]
        value = recomputed.at[at]
        deadline = time.monotonic() + self.limits.seconds
        effects = LeaveOneOut(self.arrow, computation, subject.key, at, readings, deadline).run(
            value, sources
        )
        self.notes += effects.notes
        for each in sources:
            if each.known is None or (each.how != WHOLE and each.known > len(each.events)):
                count = "more" if each.known is None else f"{each.known:,}"
                self.notes.append(
                    f"{each.source}: the newest {len(each.events):,} of {count} rows are listed "
                    "(--events)."
                )
        [values] = value.to_pylist()
        return Explanation(
            view=subject.view,
            version=subject.version,
            state=subject.state,
            entity=subject.entity,
            as_of=at,
            served=served,
            logged=rows[0] if rows else None,
            before=tuple(rows[1:]),
            recomputed=values,
            comparisons=tuple(comparisons + ([online] if online else [])),
            sources=effects.sources,
            additive=effects.additive,
            notes=tuple(self.notes),
            blind=self.blind,
        )

    def pushed(self) -> Explanation:
        """Of a view whose values are pushed or loaded: nothing can recompute them."""
        subject = self.subject
        now = clock(self.conn)
        at = self.as_of or now
        self.notes.append(
            f"{subject.view} has no computation (its values are pushed or loaded): there is "
            "nothing to recompute, and no events."
        )
        log = source_log(subject)
        rows, comparison, served = [], None, None
        if log is None:
            self.notes.append("Its source is not a table of PostgreSQL: what was logged is unseen.")
            self.blind = True
        else:
            newest = read_log(self.arrow, log, subject.entity, now, 1)
            served, comparison = self._seen(
                lambda: pushed_now(self.store, self.conn, subject, newest)
            )
            rows = read_log(self.arrow, log, subject.entity, at, 1 + self.limits.rows).rows()
        return Explanation(
            view=subject.view,
            version=None,
            state=None,
            entity=subject.entity,
            as_of=at,
            served=served,
            logged=rows[0] if rows else None,
            before=tuple(rows[1:]),
            recomputed=None,
            comparisons=(comparison,) if comparison else (),
            notes=tuple(self.notes),
            blind=self.blind,
        )

    def _time(self) -> datetime:
        """The time that was asked for, or the latest before which no row can still come."""
        computation, published = self.subject.computation, self.subject.published
        assert computation is not None
        safe = settled_now(self.conn, computation.tables)
        if published is not None and published.state == "retired" and self.as_of is None:
            self.notes.append(
                f"{published.name} was retired at {exact_time_text(published.state_since)}: it is "
                "explained as of then."
            )
            return min(safe, published.state_since)
        if self.as_of is None:
            return safe
        if self.as_of > safe:
            self.notes.append(
                f"Events of {exact_time_text(self.as_of)} are still being stored: it is explained "
                f"as of {exact_time_text(safe)}."
            )
        return min(self.as_of, safe)

    def _served(self) -> tuple[Served | None, Comparison | None]:
        published = self.subject.published
        if published is not None and not published.kept:
            self.notes.append("It is served no more: its rows were taken out of Redis.")
            return None, None
        if published is not None and published.state == "staged":
            self.notes.append("It is being filled: log and Redis are not complete yet.")
        return self._seen(lambda: served_now(self.store, self.conn, self.arrow, self.subject))

    def _seen(
        self, read: Callable[[], tuple[Served, Comparison | None]]
    ) -> tuple[Served | None, Comparison | None]:
        """What is served, unless that cannot be seen, which ends nothing else."""
        try:
            return read()
        except RedisError as error:
            self.notes.append(f"Redis does not answer ({first_line(error)}).")
        except ConfigurationError as error:
            self.notes.append(error.message)
        self.blind = True
        return None, None

    def _one_state(self) -> None:
        """All that is read from here on is of one state of the database."""
        self.arrow.rollback()
        with self.arrow.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SET LOCAL timezone = 'UTC'")

    def _log(self, at: datetime) -> tuple[LogRows, bool]:
        """The rows that a label of ``at`` could get, and whether all of them are there to see."""
        computation = self.subject.computation
        assert computation is not None
        log = Log(
            relation=sql.Identifier(computation.log_table),
            keys={
                key: (key, kind)
                for key, kind in zip(computation.join_keys, computation.key_types, strict=True)
            },
            features={feature.name: feature.name for feature in computation.features},
            time="event_timestamp",
            created="created_timestamp",
        )
        if not table_exists(self.conn, computation.log_table):
            self.notes.append("Its log was dropped: what was logged cannot be seen.")
            return LogRows((), (), _NOTHING), False
        found = read_log(self.arrow, log, self.subject.entity, at, 1 + self.limits.rows)
        # After the rows, since cuts only move forward.
        cut = cut_of(self.conn, computation.log_table)
        if cut is None or cut.answers(at):
            if cut is not None and len(found) and found.as_of[-1] < cut.before:
                self.notes.append(
                    f"Of the log's rows before {exact_time_text(cut.before)} the last alone is in "
                    "PostgreSQL; the others are in the lake."
                )
            return found, True
        self.notes.append(cut.refusal(at, "What was logged").message)
        self.blind = True
        return LogRows((), (), _NOTHING), False

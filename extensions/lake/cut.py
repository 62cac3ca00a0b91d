"""The cut: old partitions of a log leave PostgreSQL, once the lake holds each of their rows.

A partition goes when it is older than the log's hot window. Its rows are compared with the lake's
first, by count and by a hash of all values, day by day; who finds a difference cuts nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING

import duckdb
import psycopg

from extensions.asof.history_changes import history_changes
from extensions.asof.log_cuts import Cut, cut_of
from extensions.asof.log_cutting import copy_kept, drop_kept, old_partitions, swap
from extensions.asof.log_partitions import is_partitioned
from extensions.database.advisory_locks import session_lock
from extensions.database.scalars import clock
from extensions.engines.duckdb import duckdb_failures, quoted
from extensions.engines.spill import spilling_session
from extensions.errors import ConflictError
from extensions.failpoints import point
from extensions.lake.commits import exported_through
from extensions.lake.export import busy, lock_key
from extensions.lake.export_rows import rows
from extensions.lake.lake_tables import LakeTable
from extensions.lake.relations import given, rows_before, time_literal
from extensions.value_text import exact_time_text
from extensions.version_names import log_table_sql

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table

# Types of keys that a label, a log and a file compare alike.
_KEYS = ("bigint", "integer", "smallint", "text")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Fault(Enum):
    """Failpoints of a cut."""

    COMPARED = "cut-compared"
    COPIED = "cut-copied"
    SWAPPED = "cut-swapped"
    COMMITTED = "cut-committed"


@dataclass(frozen=True)
class CutDone:
    """What a cut did.

    ``before``: the event time before which the log keeps only what later questions need; None: it
    was never cut. ``partitions``: how many went now. ``rows``: how many rows left PostgreSQL now.
    ``kept``: how many of their rows stayed.
    """

    table: str
    before: datetime | None
    partitions: int
    rows: int
    kept: int


def cut(
    conn: psycopg.Connection,
    url: str,
    catalog: "SqlCatalog",
    project: str,
    table: LakeTable,
    before: datetime,
) -> CutDone:
    """Take the partitions of a log that end by ``before`` out of PostgreSQL; twice is as good.

    Args:
        conn: In autocommit; it holds the table's export lock meanwhile.
        url: The database, for connections of its own.
        catalog: Where the log's table of the lake is.
        project: The namespace.
        table: The log, which was exported just now.
        before: What is older than the hot window.

    Raises:
        ConflictError: the lake does not hold exactly these rows, or a tick has yet to read them;
            nothing was cut. Or another process works on the table.
        UnavailableError: a transaction kept the log locked throughout.
    """
    with session_lock(conn, lock_key(project, table.name), lambda: busy(table.name)):
        drop_kept(conn, table.name)
        _refuse_what_cannot_be_cut(conn, table)
        was = cut_of(conn, table.name)
        parts = old_partitions(conn, table.name, before)
        to = parts[-1].end if parts else None
        if to is None or (was is not None and to <= was.before):
            return CutDone(table.name, was.before if was else None, 0, 0, 0)
        _refuse_what_ticks_need(conn, table.name, to)
        # 1. The lake holds exactly what goes.
        held, through = _exported(catalog, project, table, to)
        _refuse_changes(conn, table.name, through)
        snapshot = held.current_snapshot()
        assert snapshot is not None  # it says how far the table was exported
        compared = _compared(url, held, table, was, to, through)
        if compared.rows == 0:
            return CutDone(table.name, was.before if was else None, 0, 0, 0)
        point(Fault.COMPARED)
        # 2. What stays is copied, beside readers and writers.
        kept = copy_kept(conn, table.name, table.keys, to, through)
        point(Fault.COPIED)
        # 3. One transaction: the copy takes the partitions' place, and the cut is known.
        made = Cut(table.name, to, compared.first, through, snapshot.snapshot_id)
        gone = compared.rows - kept.exported

        with _or_dropped(conn, table.name):
            swap(
                conn, parts, made, gone,
                lambda: _refuse_changes(conn, table.name, through),
                lambda: point(Fault.SWAPPED),
            )  # fmt: skip
        point(Fault.COMMITTED)
    return CutDone(table.name, to, len(parts), gone, kept.exported)


@dataclass(frozen=True)
class _Compared:
    """How many rows that go were compared with the lake's, and the earliest event time of them."""

    rows: int
    first: datetime


def _compared(
    url: str,
    held: "Table",
    table: LakeTable,
    was: Cut | None,
    before: datetime,
    through: datetime,
) -> _Compared:
    """Compare what goes with the lake: rows since the last cut day by day, older ones one by one.

    Raises:
        ConflictError: the lake lacks rows, has others, or has other values.
    """
    since = was.before if was else None
    event = quoted(table.event)
    row = f"hash({', '.join(quoted(name) for name in table.schema.names)})"
    early = f"{event} < {time_literal(before)}"
    late = f"{early} AND {event} >= {time_literal(since)}" if since else early
    by_day = (
        f"SELECT epoch_us({event}) // 86400000000 AS day, count(*) AS n, sum({row}) AS h, "
        f"min({event}) AS first FROM {{}} WHERE {late} GROUP BY ALL"
    )
    with spilling_session() as duck, duckdb_failures(f"The comparison of {table.name}"):
        duck.register("lake", rows_before(held, table, before))
        with given(
            duck,
            "here",
            table,
            rows(url, table, None, through, event_from=since, event_before=before),
        ):
            duck.execute(f"CREATE TEMP TABLE here_days AS {by_day.format('here')}")
        duck.execute(f"CREATE TEMP TABLE lake_days AS {by_day.format('lake')}")
        differing = duck.execute(
            "SELECT DATE '1970-01-01' + day::INTEGER, coalesce(p.n, 0), coalesce(l.n, 0) "
            "FROM here_days AS p FULL JOIN lake_days AS l USING (day) "
            "WHERE (p.n, p.h) IS DISTINCT FROM (l.n, l.h) ORDER BY day"
        ).fetchall()
        if differing:
            day, here, there = differing[0]
            raise ConflictError(
                f"The lake's {table.name} is not PostgreSQL's in {len(differing)} days, first on "
                f"{day} ({here} rows here, {there} there): nothing was cut. Find out who wrote to "
                f"the lake's table, and let `skewless lake export {table.name}` write it anew."
            )
        count, first = _total(duck, "here_days")
        if since is None:
            return _Compared(count, first)
        with given(duck, "here", table, rows(url, table, None, through, event_before=since)):
            duck.execute(f"CREATE TEMP TABLE kept AS SELECT {row} AS h, {event} AS first FROM here")
        [[lost]] = duck.execute(
            f"SELECT count(*) FROM kept WHERE h NOT IN (SELECT {row} FROM lake "
            f"WHERE {event} < {time_literal(since)})"
        ).fetchall()
        if lost:
            raise ConflictError(
                f"{lost} rows of {table.name} before {exact_time_text(since)} are not in the "
                "lake as they are in PostgreSQL: nothing was cut. Run "
                f"`skewless lake export {table.name}`."
            )
        [[more]] = duck.execute("SELECT count(*) FROM kept").fetchall()
    assert was is not None
    return _Compared(count + more, min(first, was.first_event))


def _total(duck: duckdb.DuckDBPyConnection, days: str) -> tuple[int, datetime]:
    [[count, first]] = duck.execute(
        "SELECT coalesce(sum(n), 0)::BIGINT, coalesce(min(epoch_us(first)), 9e15)::BIGINT "
        f"FROM {days}"
    ).fetchall()
    return int(count), _EPOCH + timedelta(microseconds=int(first))


def _exported(
    catalog: "SqlCatalog", project: str, table: LakeTable, to: datetime
) -> tuple["Table", datetime]:
    if catalog.table_exists((project, table.name)):
        held = catalog.load_table((project, table.name))
        through = exported_through(held)
        if through is not None and through >= to:
            return held, through
    raise ConflictError(
        f"{table.name} cannot be cut at {exact_time_text(to)}: the lake does not hold it so far. "
        f"Run `skewless lake export {table.name}`."
    )


def _refuse_changes(conn: psycopg.Connection, log: str, through: datetime) -> None:
    """Refuse a log whose exported rows changed since: the lake's are others."""
    for change in history_changes(conn, [log], through, clock(conn)):
        if change.claimed_from is None or change.claimed_from <= through:
            raise ConflictError(
                f"Rows of {log} changed behind its last export ({change.operation}), so nothing "
                f"was cut: run `skewless lake export {log}`, then cut again."
            )


def _refuse_what_cannot_be_cut(conn: psycopg.Connection, table: LakeTable) -> None:
    if not is_partitioned(conn, table.name):
        raise ConflictError(
            f"{table.name} has no partitions by time, so nothing can be cut from it: "
            "run `skewless migrate`."
        )
    types = {column.name: column.pg_type for column in table.columns}
    odd = [key for key in table.keys if types[key] not in _KEYS]
    if odd:
        raise ConflictError(
            f"{table.name} cannot be cut: its key {odd[0]} has the type {types[odd[0]]}, and of a "
            f"log that is read from both sides keys have one of these: {', '.join(_KEYS)}."
        )


def _refuse_what_ticks_need(conn: psycopg.Connection, log: str, to: datetime) -> None:
    behind = conn.execute(
        f"SELECT processed_through FROM watermarks AS w WHERE {log_table_sql('w')} = %s "
        "AND processed_through < %s",
        [log, to],
    ).fetchone()
    if behind:
        raise ConflictError(
            f"{log} cannot be cut at {exact_time_text(to)}: its view was refreshed through "
            f"{exact_time_text(behind[0])} only. Run `skewless refresh` first."
        )


@contextmanager
def _or_dropped(conn: psycopg.Connection, log: str) -> Iterator[None]:
    """The copy of what stays goes where the cut does not come about."""
    try:
        yield
    except Exception:
        if not conn.closed:
            drop_kept(conn, log)
        raise

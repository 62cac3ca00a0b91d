"""Changes of history behind the watermarks, and the entities whose values they may change.

Rows that are loaded or inserted may carry an old arrival time, and rows may be updated or
deleted; an incremental search by arrival finds none of these. Triggers on every declared history
table (`follow_sources` creates them; migration 0009 defines them) therefore record such a change
in the transaction that makes it. A record is written under the ingest lock, so a computation as
of a safe time sees all records up to then, and their rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.spine import Spine, everyone
from extensions.asof.spine_changes import touched

# Of a source that cannot be followed: what it is, and what to do.
NOT_FOLLOWED = "is no table, so rows that change behind the watermarks are not seen"
FOLLOW = (
    "Declare the table behind it as the source, or run `skewless refresh --full` after changes."
)
# Beyond this, a search by arrival costs more than computing every entity.
_FAR_BACK = timedelta(days=30)
_MICROSECOND = timedelta(microseconds=1)
# Audits ask what changed since a request was served; the serving log is not kept for longer.
KEPT = timedelta(days=30)


@dataclass(frozen=True)
class HistoryChange:
    """``operation`` (insert, update, delete, truncate) on ``table``, visible from ``changed_at``.

    ``claimed_from``: of an insert, no row claims an earlier arrival; None: any may.
    """

    table: str
    operation: str
    changed_at: datetime
    claimed_from: datetime | None


def follow_sources(conn: psycopg.Connection, computations: Iterable[Computation]) -> list[str]:
    """Create the change triggers on all tables that the computations read; idempotent.

    Returns the names of sources that cannot have them: views and foreign tables.
    """
    sources = {(s.table, s.arrival): None for c in computations for s in c.reads}
    missed = []
    for table, arrival in sources:
        relation = sql.Identifier(table).as_string(None)
        followed = conn.execute(
            "SELECT follow_history(to_regclass(%(relation)s), %(table)s, %(arrival)s) "
            "WHERE to_regclass(%(relation)s) IS NOT NULL",
            {"relation": relation, "table": table, "arrival": arrival},
        ).fetchone()
        if followed == (False,):
            missed.append(table)
    return missed


def not_followed(conn: psycopg.Connection, computations: Iterable[Computation]) -> list[str]:
    """The sources on which `follow_sources` cannot create triggers; creates none."""
    tables = sorted({source.table for one in computations for source in one.reads})
    kinds = conn.execute(
        "SELECT t.name, c.relkind::text FROM unnest(%s::text[]) AS t (name) "
        "INNER JOIN pg_class AS c ON c.oid = to_regclass(quote_ident(t.name))",
        [tables],
    ).fetchall()
    return [name for name, kind in kinds if kind not in ("r", "p")]


def history_changes(
    conn: psycopg.Connection, tables: Sequence[str], after: datetime, through: datetime
) -> list[HistoryChange]:
    """The changes of ``tables`` that became visible in ``(after, through]``, in that order."""
    rows = conn.execute(
        "SELECT source_table, operation, changed_at, claimed_from FROM history_changes "
        "WHERE source_table = ANY(%s) AND changed_at > %s AND changed_at <= %s "
        "ORDER BY changed_at, id",
        [list(tables), after, through],
    ).fetchall()
    return [HistoryChange(*row) for row in rows]


def changes_of(
    conn: psycopg.Connection, computation: Computation, after: datetime, through: datetime
) -> list[HistoryChange]:
    """`history_changes` of all that the computation reads."""
    return history_changes(conn, [s.table for s in computation.reads], after, through)


def prune_history_changes(conn: psycopg.Connection) -> int:
    """Delete notes that every view has passed and that a later note implies; returns how many.

    Beyond `KEPT`, notes serve only to tell which backfills are stale: for that a note is implied
    by a later one of the same table that claims as early an arrival. What remains of any number
    of updates is one note.
    """
    pruned = conn.execute(
        "WITH passed AS (SELECT * FROM history_changes WHERE changed_at < least("
        "clock_timestamp() - %s, (SELECT min(processed_through) FROM watermarks))) "
        "DELETE FROM history_changes AS h USING passed AS later "
        "WHERE h.source_table = later.source_table "
        "AND (h.changed_at, h.id) < (later.changed_at, later.id) "
        "AND (later.claimed_from IS NULL OR later.claimed_from <= h.claimed_from)",
        [KEPT],
    )
    return pruned.rowcount


def affected(
    computation: Computation,
    changes: Sequence[HistoryChange],
    after: datetime,
    through: datetime,
) -> Spine:
    """Entities whose value at ``through`` may differ from the log, by changes or since ``after``.

    Inserts into the primary source are found by their claimed arrival times. Which entities refer
    to a row of another source, or to a deleted one, is not known: all are computed.
    """
    primary = computation.reads[0].table
    claims = [
        change.claimed_from
        for change in changes
        if change.table == primary and change.operation == "insert"
    ]
    known = [claim for claim in claims if claim is not None]
    start = min([after, *(claim - _MICROSECOND for claim in known)])
    if len(known) < len(changes) or through - start > _FAR_BACK:
        return everyone(computation, through)
    return touched(computation, start, through)

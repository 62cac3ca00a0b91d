"""Backfill refusals: values of the past that could not be computed, and the labels they touch.

A backfill leaves out an entity whose values of a chunk fail, and goes on with the others. What it
leaves out is a hole: from the first value that is not there until the entity's next row in the log,
a training set gets an older value. Each hole is recorded with the chunk, and counted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.refused_entities import Keys, Refusal
from extensions.database.refused_of_views import entity_text
from extensions.database.scalars import one_row
from extensions.feature_types import UTC_MICROSECONDS


@dataclass(frozen=True)
class Hole:
    """Of one entity (keys as texts), the log lacks what is true in ``[since, until)``.

    ``until`` None: it has no later row yet.
    """

    entity: Keys
    since: datetime
    until: datetime | None


def record(conn: psycopg.Connection, computation: Computation, refusals: Sequence[Refusal]) -> None:
    """Record, in the caller's transaction, what a chunk left out."""
    for each in refusals:
        conn.execute(
            "INSERT INTO backfill_refusals (view_name, version, digest, entity, since, why) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (view_name, version, since, digest) "
            "DO UPDATE SET why = excluded.why, refused_at = clock_timestamp()",
            [
                computation.view, computation.version, each.digest, list(each.entity), each.as_of,
                each.why,
            ],
        )  # fmt: skip


def forget(
    conn: psycopg.Connection, computation: Computation, after: datetime, through: datetime
) -> None:
    """Delete what was recorded of ``(after, through]``, or of ``through`` if they are equal."""
    conn.execute(
        "DELETE FROM backfill_refusals WHERE view_name = %s AND version = %s "
        "AND since <= %s AND (since > %s OR since = %s)",
        [computation.view, computation.version, through, after, through],
    )


def count(
    conn: psycopg.Connection, computation: Computation, start: datetime, end: datetime
) -> int:
    """Entities that lack values in ``[start, end]``, whichever run of a backfill left them out."""
    [found] = one_row(
        conn,
        "SELECT count(DISTINCT digest) FROM backfill_refusals WHERE view_name = %s "
        "AND version = %s AND since BETWEEN %s AND %s",
        [computation.view, computation.version, start, end],
    )
    return int(found)


def example(
    conn: psycopg.Connection, computation: Computation, start: datetime, end: datetime
) -> str:
    """The first entity that lacks values in ``[start, end]``: since when, and why."""
    entity, since, why = one_row(
        conn,
        "SELECT entity, since, why FROM backfill_refusals WHERE view_name = %s AND version = %s "
        "AND since BETWEEN %s AND %s ORDER BY since, digest LIMIT 1",
        [computation.view, computation.version, start, end],
    )
    return f"{entity_text(entity)} as of {since.isoformat()}: {why}"


def holes_sql(view: str, version: int, log: str, keys: Sequence[str]) -> sql.Composed:
    """SQL of the holes of one log: columns ``entity``, ``since``, ``until``.

    The keys' texts are read as the log's own types, so that its index serves.
    """
    texts = sql.SQL(", ").join(
        sql.SQL("{}, r.entity[{}]").format(sql.Literal(key), sql.Literal(number))
        for number, key in enumerate(keys, start=1)
    )
    same = sql.SQL(" AND ").join(
        sql.SQL("l.{key} = k.{key}").format(key=sql.Identifier(key)) for key in keys
    )
    return sql.SQL(
        "SELECT r.entity, r.since, (SELECT min(l.event_timestamp) FROM {log} AS l WHERE {same} "
        "AND l.event_timestamp > r.since) AS until FROM backfill_refusals AS r "
        "CROSS JOIN LATERAL jsonb_populate_record(NULL::{log}, jsonb_build_object({texts})) AS k "
        "WHERE r.view_name = {view} AND r.version = {version}"
    ).format(
        log=sql.Identifier(log), same=same, texts=texts, view=sql.Literal(view),
        version=sql.Literal(version),
    )  # fmt: skip


class Holes:
    """The holes of one log, to count labels by."""

    def __init__(self, holes: Iterable[Hole] = ()) -> None:
        self._of: dict[Keys, list[Hole]] = {}
        for hole in holes:
            self._of.setdefault(hole.entity, []).append(hole)

    def __len__(self) -> int:
        return len(self._of)

    def flags(
        self, keys: Sequence[pa.ChunkedArray], timestamps: pa.ChunkedArray
    ) -> pa.ChunkedArray:
        """Which labels lie in a hole of their entity.

        Args:
            keys: The labels' keys, a column for each join key in the log's order.
            timestamps: The labels' times.

        Returns:
            One boolean for each label; never null.
        """
        if not self._of:
            return pa.chunked_array([pa.repeat(pa.scalar(False), len(timestamps))])
        texts = zip(*(map(str, column.to_pylist()) for column in keys), strict=True)
        times = timestamps.cast(UTC_MICROSECONDS, safe=False).to_pylist()
        return pa.chunked_array(
            [
                pa.array(
                    [
                        at is not None
                        and any(
                            hole.since <= at and (hole.until is None or at < hole.until)
                            for hole in self._of.get(entity, ())
                        )
                        for entity, at in zip(texts, times, strict=True)
                    ],
                    pa.bool_(),
                )
            ]
        )


NO_HOLES = Holes()


def hole_sentence(view: str, labels: int, of: int, holes: Holes) -> str:
    """The warning about labels of entities that a backfill left out."""
    return (
        f"{labels} of {of} labels are of entities whose values of {view} could not be computed "
        f"then ({len(holes)} such {'entity' if len(holes) == 1 else 'entities'}): they were "
        "joined to older values or defaults. `skewless doctor` names them; mend the rows behind "
        f"them and run `skewless backfill {view}` again."
    )

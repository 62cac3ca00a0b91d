"""The tick: an incremental refresh of a view's log, computing only what changed since the last."""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from extensions.asof.computation import Computation
from extensions.asof.engine import append
from extensions.asof.history_changes import affected, changes_of
from extensions.asof.refused_entities import retry_refused, without_refused
from extensions.asof.safe_time import settled_now
from extensions.asof.spine import Spine, everyone
from extensions.asof.spine_changes import touched
from extensions.asof.unpublished_ranges import note_unpublished
from extensions.asof.watermarks import (
    PATIENCE_SECONDS,
    advance_processed,
    alone_on,
    read_watermark,
)
from extensions.errors import ConflictError
from extensions.value_text import exact_time_text


@dataclass(frozen=True)
class Tick:
    """The result of a tick: rows appended as of ``at``; ``since`` is None if all were computed."""

    view: str
    version: int
    at: datetime
    since: datetime | None
    rows: int


def tick(
    conn: psycopg.Connection,
    computation: Computation,
    at: datetime | None = None,
    *,
    full: bool = False,
    advance: bool = True,
) -> Tick:
    """Compute what changed since the watermark, as of ``at``, and append it to the log.

    Rows and watermark are committed in one transaction, so an interrupted tick leaves nothing
    behind, and repeating a tick for the same ``at`` does nothing. ``full`` computes every active
    entity and every entity in the log, as the first tick does, and so repairs whatever was missed
    before. Without ``advance`` the watermark is left as it is, for views whose progress the
    stream decides. Entities that fail are refused alone (`extensions.asof.refused_entities`).
    ``conn`` must be in autocommit.

    Raises:
        ConflictError: ``at`` is later than the safe time, another worker holds this view, or
            the computation broke its contract.
    """
    with alone_on(conn, computation, patience=PATIENCE_SECONDS):
        settled = settled_now(conn, computation.tables)
        at = at or settled
        if at > settled:
            raise ConflictError(
                f"Cannot refresh as of {exact_time_text(at)}: events may still arrive until then; "
                f"ask for {exact_time_text(settled)} or earlier."
            )
        mark = read_watermark(conn, computation)
        since = mark.processed_through if mark else None
        if since is not None and at <= since:
            return Tick(computation.view, computation.version, since, since, 0)
        if since is None or full:
            spine = everyone(computation, at)
        elif changed := changes_of(conn, computation, since, at):
            spine = affected(computation, changed, since, at)
        else:
            spine = touched(computation, since, at)

        def take(part: Spine) -> int:
            return append(conn, computation, part)

        with conn.transaction():
            rows = sum(without_refused(conn, computation, spine, take))
            rows += sum(retry_refused(conn, computation, at, take))
            if advance:
                advance_processed(conn, computation, at)
            else:
                note_unpublished(conn, computation, at, at)
        return Tick(computation.view, computation.version, at, None if full else since, rows)

"""The tick: brings a view's log up to a moment, at the cost of what changed since the last."""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from extensions.asof.computation import Computation
from extensions.asof.engine import append
from extensions.asof.history_changes import affected, changes_of
from extensions.asof.safe_time import settled_now
from extensions.asof.spine import everyone
from extensions.asof.spine_changes import touched
from extensions.asof.unpublished_ranges import note_unpublished
from extensions.asof.watermarks import (
    PATIENCE_SECONDS,
    advance_processed,
    alone_on,
    read_watermark,
)
from extensions.errors import ConflictError


@dataclass(frozen=True)
class Tick:
    """What one tick did: rows appended for the moment ``at``; ``since`` None: for everyone."""

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

    One transaction holds rows and watermark: interrupted, it never was; asked twice for one
    moment, the second finds nothing to do. ``full`` computes every active entity and every one
    that the log knows, as the first tick does: whatever was missed before, the log is right
    afterwards. Without ``advance`` the watermark stays where it is: whether all that was produced
    has arrived, only the stream knows. ``conn`` must be in autocommit.

    Raises:
        ConflictError: ``at`` lies ahead of what has arrived for certain, another worker is on
            this view, or the computation broke its contract.
    """
    with alone_on(conn, computation, patience=PATIENCE_SECONDS):
        settled = settled_now(conn)
        at = at or settled
        if at > settled:
            raise ConflictError(
                f"Cannot refresh as of {at.isoformat()}: events may still arrive until then; "
                f"ask for {settled.isoformat()} or earlier."
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
        with conn.transaction():
            rows = append(conn, computation, spine)
            if advance:
                advance_processed(conn, computation, at)
            else:
                note_unpublished(conn, computation, at, at)
        return Tick(computation.view, computation.version, at, None if full else since, rows)

"""Coverage: the spans of time for which a view version's log is complete, and the gaps.

A log is complete where a backfill filled it and from when the view went live. In between it
keeps its last rows: a label there is joined to a value that may be out of date. Where
history was loaded or changed after a backfill had read it, the backfill is stale from the
earliest arrival that the change claims. What a training set needs to know of that is decided
here, for the manifest and for Feast's own calls.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from extensions.asof.computation import Computation, Freshness
from extensions.feature_types import UTC_MICROSECONDS
from extensions.value_text import exact_time_text
from extensions.version_names import log_table_sql

# Backfilled and live spans of every view version, as (log, freshness budget, start, complete up
# to, end). Complete up to and end differ where history changed after a backfill. The budget is
# null for a version that was never published.
SPANS_SQL = f"""
SELECT
    {log_table_sql("s")} AS log,
    extract(EPOCH FROM v.budget)::double precision AS budget_seconds,
    s.range_start,
    s.complete_through,
    s.range_end
FROM (
    SELECT
        b.view_name, b.version, b.range_start,
        coalesce(b.filled_through, b.done_through) AS range_end,
        greatest(b.range_start, least(b.done_through, n.complete_through)) AS complete_through
    FROM backfills AS b
    CROSS JOIN LATERAL (
        SELECT min(coalesce(h.claimed_from, '-infinity')) - interval '1 microsecond'
            AS complete_through
        FROM history_changes AS h
        WHERE h.source_table = ANY(b.sources) AND h.changed_at > b.started_at
    ) AS n
    UNION ALL
    SELECT view_name, version, live_from, processed_through, processed_through FROM watermarks
    WHERE live_from IS NOT NULL
) AS s
LEFT JOIN view_versions AS v USING (view_name, version)
"""


@dataclass(frozen=True)
class Span:
    """The log is complete in ``[start, end]``, or filled and stale from ``end`` to ``filled``."""

    start: datetime
    end: datetime
    filled: datetime | None = None


@dataclass(frozen=True)
class Coverage:
    """The spans in order, none touching another; empty: the log was never filled by us.

    ``stale``: ranges that a backfill filled, and whose history changed afterwards.
    """

    spans: tuple[Span, ...]
    stale: tuple[Span, ...] = ()

    @classmethod
    def of(cls, spans: Iterable[Span], slack: timedelta) -> "Coverage":
        """Join spans that overlap, or are no further apart than ``slack``.

        ``slack`` is the view's freshness budget: between a backfill's last whole tick and the
        next one a value is as old as any value between two ticks. A stale range is a gap
        however short it is.
        """
        joined: list[Span] = []
        ordered = sorted(spans, key=lambda span: (span.start, span.end))
        stale = [Span(s.end, s.filled) for s in ordered if s.filled and s.filled > s.end]
        for span in ordered:
            if joined:
                last = joined[-1]
                is_stale = any(r.start <= last.end < r.end for r in stale)
                if span.start <= (last.end if is_stale else last.end + slack):
                    joined[-1] = Span(last.start, max(last.end, span.end))
                    continue
            joined.append(Span(span.start, span.end))
        return cls(tuple(joined), tuple(stale))

    @property
    def gaps(self) -> tuple[Span, ...]:
        """Ranges in which the log is not complete: between the spans, or stale behind the last."""
        between = [
            Span(before.end, after.start)
            for before, after in zip(self.spans, self.spans[1:], strict=False)
        ]
        end = max((stale.end for stale in self.stale), default=None)
        if end is not None and end > self.spans[-1].end:
            between.append(Span(self.spans[-1].end, end))
        return tuple(between)

    def is_stale(self, gap: Span) -> bool:
        """Whether history that changed after a backfill made this gap, and no time left out."""
        return any(stale.start < gap.end and stale.end > gap.start for stale in self.stale)

    def before(self, moments: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which moments lie before everything that the log covers."""
        if not self.spans:
            return _none(moments)
        return pc.fill_null(pc.less(moments, _scalar(self.spans[0].start)), fill_value=False)

    def in_gap(self, moments: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which moments lie in one of the gaps."""
        found = _none(moments)
        for gap in self.gaps:
            # Its ends belong to the spans beside it; behind the last one there is none.
            bounded = any(span.start == gap.end for span in self.spans)
            before = (pc.less if bounded else pc.less_equal)(moments, _scalar(gap.end))
            inside = pc.and_(pc.greater(moments, _scalar(gap.start)), before)
            found = pc.or_(found, pc.fill_null(inside, fill_value=False))
        return found


NOT_KNOWN = Coverage(())


def coverage(conn: psycopg.Connection, computation: Computation) -> Coverage:
    """What the log of one view version covers."""
    rows = conn.execute(
        f"SELECT range_start, complete_through, range_end FROM ({SPANS_SQL}) AS spans "
        "WHERE log = %s",
        [computation.log_table],
    ).fetchall()
    return Coverage.of((Span(*row) for row in rows), computation.freshness.budget)


def gap_behind(conn: psycopg.Connection, computation: Computation) -> Span | None:
    """The latest gap of the log, or the time between its end and now where nothing is live.

    None where the log is complete up to its watermark or, within the freshness budget, to now.
    """
    known = coverage(conn, computation)
    if known.gaps:
        return known.gaps[-1]
    row = conn.execute(
        "SELECT clock_timestamp(), (SELECT live_from FROM watermarks "
        "WHERE view_name = %s AND version = %s)",
        [computation.view, computation.version],
    ).fetchone()
    assert row is not None  # a scalar select always returns a row
    now, live_from = row
    if not known.spans or live_from is not None:
        return None
    end = known.spans[-1].end
    return Span(end, now) if now - end > computation.freshness.budget else None


def coverages(rows: Iterable[Sequence[object]]) -> dict[str, Coverage]:
    """The coverage of every log, from the rows of `SPANS_SQL`.

    Where no budget is known, the shortest one counts: better one warning too many.
    """
    spans: dict[str, list[Span]] = {}
    slack: dict[str, timedelta] = {}
    for log, budget, start, complete, end in rows:
        assert isinstance(log, str)
        assert isinstance(start, datetime)
        assert isinstance(complete, datetime)
        assert isinstance(end, datetime)
        spans.setdefault(log, []).append(Span(start, complete, end))
        known = isinstance(budget, float)
        slack[log] = timedelta(seconds=budget) if known else Freshness.REALTIME.budget  # type: ignore[arg-type]
    return {log: Coverage.of(found, slack[log]) for log, found in spans.items()}


def gap_sentence(view: str, labels: int, of: int, coverage: Coverage) -> str:
    """The warning about labels in gaps, with the command that closes the first gap."""
    first = coverage.gaps[0]
    more = f" (and {len(coverage.gaps) - 1} more gaps)" if len(coverage.gaps) > 1 else ""
    start, end = exact_time_text(first.start), exact_time_text(first.end)
    if coverage.is_stale(first):
        what = (
            f"where history changed after {view} was backfilled, from {start} to {end}{more}: they "
            "were joined to values computed before the change."
        )
    else:
        what = (
            f"where the log of {view} has a gap, from {start} to {end}{more}: they were joined to "
            "the values of its beginning, which may be wrong there."
        )
    return (
        f"{labels} of {of} labels lie {what} "
        f"Run `skewless backfill {view} --from {start} --to {end}`."
    )


def before_sentence(view: str, labels: int, of: int, coverage: Coverage) -> str:
    """The warning about labels older than the log, with the command that extends it."""
    start = exact_time_text(coverage.spans[0].start)
    return (
        f"{labels} of {of} labels are older than the log of {view}, which begins at {start}: "
        "they got the defaults, whatever was true then. Run "
        f"`skewless backfill {view} --from … --to {start}`."
    )


def _none(moments: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(pa.scalar(False), len(moments))])


def _scalar(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment, UTC_MICROSECONDS)

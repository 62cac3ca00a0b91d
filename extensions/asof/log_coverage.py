"""Coverage: the spans of time for which a view version's log is complete, and the gaps.

A log is complete where a backfill filled it and from when the view went live on. In between it
keeps its last rows: a label there is joined to a value that may have long been another. What a
training set needs to know of that is decided here, for the manifest and for Feast's own calls.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from extensions.asof.computation import Computation, Freshness
from extensions.version_names import log_table_sql

# Backfilled and live spans of every view version, as (log, freshness budget, start, end).
# The budget is null for a version that was never published.
SPANS_SQL = f"""
SELECT
    {log_table_sql("s")} AS log,
    extract(EPOCH FROM v.budget)::double precision AS budget_seconds,
    s.range_start,
    s.range_end
FROM (
    SELECT view_name, version, range_start, done_through AS range_end FROM backfills
    UNION ALL
    SELECT view_name, version, live_from, processed_through FROM watermarks
    WHERE live_from IS NOT NULL
) AS s
LEFT JOIN view_versions AS v USING (view_name, version)
"""


@dataclass(frozen=True)
class Span:
    """The log is complete in ``[start, end]``."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Coverage:
    """The spans in order, none touching another; empty: the log was never filled by us."""

    spans: tuple[Span, ...]

    @classmethod
    def of(cls, spans: Iterable[Span], slack: timedelta) -> "Coverage":
        """Join spans that overlap, or are no further apart than ``slack``.

        ``slack`` is the view's freshness budget: between a backfill's last whole tick and the
        next one a value is as old as any value between two ticks.
        """
        joined: list[Span] = []
        for span in sorted(spans, key=lambda one: (one.start, one.end)):
            if joined and span.start <= joined[-1].end + slack:
                joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
            else:
                joined.append(span)
        return cls(tuple(joined))

    @property
    def gaps(self) -> tuple[Span, ...]:
        """What lies between the spans."""
        return tuple(
            Span(before.end, after.start)
            for before, after in zip(self.spans, self.spans[1:], strict=False)
        )

    def before(self, moments: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which moments lie before everything that the log covers."""
        if not self.spans:
            return _none(moments)
        return pc.fill_null(pc.less(moments, _scalar(self.spans[0].start)), fill_value=False)

    def in_gap(self, moments: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which moments lie in one of the gaps."""
        found = _none(moments)
        for gap in self.gaps:
            inside = pc.and_(
                pc.greater(moments, _scalar(gap.start)), pc.less(moments, _scalar(gap.end))
            )
            found = pc.or_(found, pc.fill_null(inside, fill_value=False))
        return found


NOT_KNOWN = Coverage(())


def coverage(conn: psycopg.Connection, computation: Computation) -> Coverage:
    """What the log of one view version covers."""
    rows = conn.execute(
        f"SELECT range_start, range_end FROM ({SPANS_SQL}) AS spans WHERE log = %s",
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
    for log, budget, start, end in rows:
        assert isinstance(log, str)
        assert isinstance(start, datetime)
        assert isinstance(end, datetime)
        spans.setdefault(log, []).append(Span(start, end))
        known = isinstance(budget, float)
        slack[log] = timedelta(seconds=budget) if known else Freshness.REALTIME.budget  # type: ignore[arg-type]
    return {log: Coverage.of(found, slack[log]) for log, found in spans.items()}


def gap_sentence(view: str, labels: int, of: int, coverage: Coverage) -> str:
    """What is wrong with labels in gaps, and what to do about it."""
    first = coverage.gaps[0]
    more = f" (and {len(coverage.gaps) - 1} more gaps)" if len(coverage.gaps) > 1 else ""
    return (
        f"{labels} of {of} labels lie where the log of {view} has a gap, from "
        f"{first.start.isoformat()} to {first.end.isoformat()}{more}: they were joined to the "
        "values of its beginning, which may be wrong there. Run "
        f"`skewless backfill {view} --from {first.start.isoformat()} --to {first.end.isoformat()}`."
    )


def before_sentence(view: str, labels: int, of: int, coverage: Coverage) -> str:
    """What is wrong with labels before the log's beginning, and what to do about it."""
    start = coverage.spans[0].start.isoformat()
    return (
        f"{labels} of {of} labels are older than the log of {view}, which begins at {start}: "
        "they got the defaults, whatever was true then. Run "
        f"`skewless backfill {view} --from … --to {start}`."
    )


def _none(moments: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(pa.scalar(False), len(moments))])


def _scalar(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment, pa.timestamp("us", "UTC"))

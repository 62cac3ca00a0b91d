"""From when to when a history source has rows, and why a range gave nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

from extensions.asof.computation import HistorySource
from extensions.value_text import time_text


@dataclass(frozen=True)
class HistorySpan:
    """The times of a history source's first and last row."""

    table: str
    first: datetime
    last: datetime


def history_span(conn: psycopg.Connection, source: HistorySource) -> HistorySpan | None:
    """The span of one source's rows by the time when they happened; None where it has none."""
    query = sql.SQL("SELECT min({time}), max({time}) FROM {table}").format(
        time=sql.Identifier(source.time), table=sql.Identifier(source.table)
    )
    row = conn.execute(query).fetchone()
    if row is None or row[0] is None:
        return None
    return HistorySpan(source.table, row[0], row[1])


def why_nothing(
    conn: psycopg.Connection,
    sources: Iterable[HistorySource],
    start: datetime | None = None,
    end: datetime | None = None,
) -> str | None:
    """Why nothing was found in ``[start, end]``, as one sentence; None where rows are there.

    Each source is looked at once. A range that is open at a side has no limit there.
    """
    told = []
    for source in {each.table: each for each in sources}.values():
        span = history_span(conn, source)
        if span is None:
            return (
                f"{source.table} has no rows: bring history in with `skewless simulate` or "
                "`skewless import`."
            )
        if start is not None and span.last < start:
            told.append(f"the data of {span.table} ends on {time_text(span.last)}")
        elif end is not None and span.first > end:
            told.append(f"the data of {span.table} begins on {time_text(span.first)}")
        else:
            return None
    if not told:
        return None
    if start is None or end is None:
        limit = f"after {time_text(start)}" if start else f"before {time_text(end)}" if end else ""
        return f"No events {limit}: {', '.join(told)}."
    return f"No events between {time_text(start)} and {time_text(end)}: {', '.join(told)}."

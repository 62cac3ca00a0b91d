"""The events behind a value: which count as of a time, which entered and which left."""

import json
from datetime import datetime

import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.engines.postgresql import fetched
from extensions.explain.report import Event, SourceEvents
from extensions.explain.source_rows import WHOLE, SourceRows

# Rows of a source that are counted, and worked with, for one entity.
MOST_ROWS = 10_000
_COLUMNS = (
    "{time} AS happened, {arrival} AS arrived, {entered} AS entered, {leaves} AS leaves, "
    "to_jsonb(h)::text AS content"
)


def read_events(
    conn: dbapi.Connection, rows: SourceRows, at: datetime, since: datetime | None, most: int
) -> SourceEvents:
    """The rows of one source that count as of ``at``.

    Args:
        conn: In a transaction that sees one state of the database.
        rows: Of which source and entity.
        at: The time asked about.
        since: The event time of the log's row before; None: there is none.
        most: Events that are listed of each sort.
    """
    known = rows.known(at)
    listed: sql.Composable = known
    if rows.how == WHOLE:
        listed = rows.entered(since, at) if since is not None else sql.SQL("FALSE")
    entered = left = None
    departed: list[Event] = []
    if since is not None and since < at:
        entered = _count(conn, rows, rows.entered(since, at))
    if since is not None and rows.horizon is not None and since < at:
        gone = rows.departed(since, at)
        left, departed = _count(conn, rows, gone), _events(conn, rows, gone, since, most)
    return SourceEvents(
        source=rows.source.table,
        how=rows.how,
        known=_count(conn, rows, known),
        events=tuple(_events(conn, rows, listed, since, most)),
        entered=entered,
        left=left,
        departed=tuple(departed),
    )


def _count(conn: dbapi.Connection, rows: SourceRows, condition: sql.Composable) -> int | None:
    some = rows.query(sql.SQL("1"), condition)
    query = sql.SQL("SELECT count(*) AS n FROM ({} LIMIT {}) AS counted").format(
        some, sql.Literal(MOST_ROWS + 1)
    )
    number: int = fetched(conn, query)["n"][0].as_py()
    return number if number <= MOST_ROWS else None


def _events(
    conn: dbapi.Connection,
    rows: SourceRows,
    condition: sql.Composable,
    since: datetime | None,
    most: int,
) -> list[Event]:
    leaves: sql.Composable = sql.SQL("NULL::timestamptz")
    if rows.horizon is not None:
        leaves = sql.SQL("{time} + {horizon}").format(horizon=rows.horizon, **rows.times)
    columns = sql.SQL(_COLUMNS).format(
        **rows.times,
        entered=sql.SQL("greatest({time}, {arrival})").format(**rows.times),
        leaves=leaves,
    )
    query = sql.SQL("{} ORDER BY {} LIMIT {}").format(
        rows.query(columns, condition), rows.order, sql.Literal(most)
    )
    return [_event(rows, row, since) for row in _utc(fetched(conn, query)).to_pylist()]


def _event(rows: SourceRows, row: dict[str, object], since: datetime | None) -> Event:
    content = json.loads(str(row["content"]))
    entered = row["entered"]
    assert isinstance(entered, datetime)
    return Event(
        keys={key: content[key] for key in rows.source.keys},
        time=row["happened"],  # type: ignore[arg-type]  # of a column of times
        arrival=row["arrived"],  # type: ignore[arg-type]
        entered=entered,
        leaves=row["leaves"],  # type: ignore[arg-type]
        new=None if since is None else entered > since,
        columns=content,
    )


def _utc(table: pa.Table) -> pa.Table:
    """Times in UTC, whatever the session's zone is."""
    kind = pa.timestamp("us", "UTC")
    return pa.table(
        {
            name: table[name].cast(kind) if pa.types.is_timestamp(table[name].type) else table[name]
            for name in table.column_names
        }
    )

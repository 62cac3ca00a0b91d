"""The rule of future rows: nothing enters a log or Redis that claims to be from the future.

A row that is ahead of the clock would win over every true one until its time has come, and no
training set sees it until then. So event and created times may be ahead of now by a small
allowance, for clocks that differ, and no more. Every way in asks here: pushes and writes to
either store, materialization, publishing, rebuilding. Events have a limit of their own, the
stream's ``max_future``.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from extensions.errors import InputError

# Unless ``future_allowance_seconds`` of the online store says otherwise.
ALLOWANCE = timedelta(minutes=5)


def allowance_of(config: Any) -> timedelta:
    """How far ahead of the clock a row's times may be under this configuration."""
    online = getattr(config, "online_store", None)
    seconds = getattr(online, "future_allowance_seconds", None)
    return ALLOWANCE if seconds is None else timedelta(seconds=seconds)


def latest_time(config: Any) -> datetime:
    """The latest time that a row may have now."""
    return datetime.now(UTC) + allowance_of(config)


def refuse_future(config: Any, view: str, what: str, latest: datetime | None) -> None:
    """Refuse a batch by the latest of its times.

    Args:
        config: The repository's configuration, for the allowance.
        view: The view that the rows are for.
        what: The column or kind of time: ``event_timestamp``, "created time".
        latest: The latest of the batch; one without a zone is UTC; None: there is none.

    Raises:
        InputError: it lies further ahead than the allowance; nothing may be written then.
    """
    if latest is None:
        return
    zoned = latest if latest.tzinfo else latest.replace(tzinfo=UTC)
    limit = latest_time(config)
    if zoned > limit:
        raise InputError(
            f"A row for {view} is from the future: its {what} is {zoned.isoformat()}, and the "
            f"limit is {limit.isoformat(timespec='seconds')} (now and an allowance of "
            f"{allowance_of(config).total_seconds():g} s). Nothing of its batch was written: "
            "correct the time, or this machine's clock."
        )


def refuse_future_rows(config: Any, view: str, rows: pa.Table, columns: list[str]) -> None:
    """As `refuse_future`, of every time column of a table, without a loop over rows.

    Columns that are missing or hold no timestamps are left to those who read them.
    """
    for name in columns:
        if name not in rows.column_names or not pa.types.is_timestamp(rows[name].type):
            continue
        column = rows[name]
        # In its own unit and zone: a year that no datetime can hold is beyond any limit.
        unit = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
        latest = pc.max(column.cast(pa.int64())).as_py()
        if latest is None or latest / unit <= latest_time(config).timestamp():
            continue
        seconds = min(latest // unit, 253_402_300_799)  # the end of the year 9999
        refuse_future(config, view, name, datetime.fromtimestamp(seconds, UTC))


def not_future(config: Any, times: list[str], alias: str = "l") -> sql.Composed:
    """The condition that a log's row is not from the future, by the database's clock.

    A log may hold such rows from another tool, or from before this rule; they are passed over
    until their time has come. Written so that the planner knows how many rows it admits.
    """
    return _all_times("({time} IS NULL OR {time} <= {limit})", " AND ", config, times, alias)


def future(config: Any, times: list[str], alias: str = "l") -> sql.Composed:
    """The opposite of `not_future`, for a pass over many rows: the limit is computed once."""
    return _all_times("{time} > (SELECT {limit})", " OR ", config, times, alias)


def _all_times(
    condition: str, joined: str, config: Any, times: list[str], alias: str
) -> sql.Composed:
    limit = sql.SQL("statement_timestamp() + {}::interval").format(
        sql.Literal(allowance_of(config))
    )
    return sql.SQL("({})").format(
        sql.SQL(joined).join(
            sql.SQL(condition).format(time=sql.Identifier(alias, name), limit=limit)
            for name in times
        )
    )

"""Refuse rows with a timestamp in the future, on every way into a log or into Redis.

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
from extensions.value_text import exact_time_text, time_text

# Unless ``future_allowance_seconds`` of the online store says otherwise.
ALLOWANCE = timedelta(minutes=5)


def future_allowance(config: Any) -> timedelta:
    """How far a row's timestamps may be ahead of the clock (``future_allowance_seconds``)."""
    online = getattr(config, "online_store", None)
    seconds = getattr(online, "future_allowance_seconds", None)
    return ALLOWANCE if seconds is None else timedelta(seconds=seconds)


def latest_time(config: Any) -> datetime:
    """The latest timestamp that a row may have now."""
    return datetime.now(UTC) + future_allowance(config)


def refuse_future(config: Any, view: str, what: str, latest: datetime | None) -> None:
    """Refuse a batch of rows whose latest timestamp is in the future.

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
            f"A row for {view} is from the future: its {what} is {exact_time_text(zoned)}, and the "
            f"limit is {time_text(limit)} (now and an allowance of "
            f"{future_allowance(config).total_seconds():g} s). Nothing of its batch was written: "
            "correct the time, or this machine's clock."
        )


def refuse_future_rows(config: Any, view: str, rows: pa.Table, columns: list[str]) -> None:
    """As `refuse_future`, for the time columns of an Arrow table.

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


def not_future_condition(config: Any, times: list[str], alias: str = "l") -> sql.Composed:
    """SQL condition: a log's row is not from the future, by the database's clock.

    A log may hold such rows from another tool, or from before this rule; they are passed over
    until their time has come. Written so that the planner knows how many rows it admits.
    """
    return _all_times("({time} IS NULL OR {time} <= {limit})", " AND ", config, times, alias)


def future(config: Any, times: list[str], alias: str = "l") -> sql.Composed:
    """The opposite condition; for many rows: the limit is computed once for all."""
    return _all_times("{time} > (SELECT {limit})", " OR ", config, times, alias)


def _all_times(
    condition: str, joined: str, config: Any, times: list[str], alias: str
) -> sql.Composed:
    limit = sql.SQL("statement_timestamp() + {}::interval").format(
        sql.Literal(future_allowance(config))
    )
    return sql.SQL("({})").format(
        sql.SQL(joined).join(
            sql.SQL(condition).format(time=sql.Identifier(alias, name), limit=limit)
            for name in times
        )
    )

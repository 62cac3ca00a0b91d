"""What an import takes from the store: when rows arrived, which times are possible, defaults."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from extensions.database import connect
from extensions.database.connection import table_exists
from extensions.database.history_change_notes import live_since
from extensions.errors import InputError
from extensions.sources import EventStream, HistoryTable

_CLOCK_SKEW = timedelta(minutes=5)
# Of a table that no stream fills: what is valid may begin in the future, but not in any.
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class TimeBounds:
    """The least and greatest event time and the latest arrival, in microseconds since the epoch."""

    low: int
    high: int
    arrival_high: int


def time_bounds(table: HistoryTable, streams: Iterable[EventStream]) -> TimeBounds:
    """The times that rows of a table may have now.

    Events of a table with a stream lie no further ahead than the stream takes them.
    """
    now = datetime.now(UTC)
    ahead = [now + stream.max_future for stream in streams]
    return TimeBounds(
        to_micros(table.oldest),
        to_micros(max(ahead) if ahead else _LATEST),
        to_micros(now + _CLOCK_SKEW),
    )


@dataclass(frozen=True)
class ArrivalRule:
    """When rows that do not say so arrived: when they happened, or when they are imported."""

    at_event_time: bool

    @classmethod
    def of(cls, url: str, table: HistoryTable, *, known_at_event_time: bool) -> "ArrivalRule":
        """The rule for an import into a table now.

        A first load claims its rows' own times, so that the past can be backfilled from it:
        the table is empty, or nothing has been served yet. What comes later was not known to
        what was served before it.
        """
        if known_at_event_time:
            return cls(at_event_time=True)
        with connect(url, name="skewless import") as conn:
            if not table_exists(conn, table.table) or live_since(conn) is None:
                return cls(at_event_time=True)
            query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(table.table))
            return cls(at_event_time=conn.execute(query).fetchone() == (False,))

    def note(self, table: HistoryTable) -> str:
        """What was assumed, for a person."""
        if self.at_event_time:
            return f"{table.arrival}: taken to be {table.time}."
        return (
            f"{table.arrival}: now, since this store has served without these rows; "
            "--known-at-event-time claims that they were known when they happened."
        )


def column_default(url: str, table: HistoryTable, name: str) -> str:
    """The default of a column of times as text, evaluated once.

    Raises:
        InputError: it has none.
    """
    column = table.by_name[name]
    if column.default is None:
        raise InputError(f"{name} of {table.table} has no default: name the file's column for it.")
    with connect(url, name="skewless import") as conn:
        try:
            row = conn.execute(
                sql.SQL("SELECT ({})::timestamptz").format(sql.SQL(column.default))
            ).fetchone()
        except psycopg.Error as error:
            raise InputError(
                f"The default of {name} in {table.table} is no time ({column.default}): name the "
                "file's column for it."
            ) from error
    return str(row[0].isoformat()) if row else ""


def to_micros(moment: datetime) -> int:
    """Whole microseconds since the Unix epoch of an aware ``moment``."""
    return (moment - _EPOCH) // timedelta(microseconds=1)

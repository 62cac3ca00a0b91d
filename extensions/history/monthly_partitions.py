"""Watch events into their monthly partitions; a new month is indexed after it is filled.

Building an index over rows costs a fifth of inserting them into it one by one, and a table that
is new in its transaction need not be logged row by row (with ``wal_level = minimal``).
"""

from datetime import datetime

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.history.arrow_schemas import EVENT_SCHEMA, from_micros
from extensions.history.postgres_binary_copy import copy_batch

# The lock under which ensure_watch_event_partitions() makes a month (see the migrations).
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('ensure_watch_event_partitions'))"


class Months:
    """One transaction's way into watch_events.

    Months that have no partition yet are tables of their own until `attach`, at the end:
    readers see a new month with all of the transaction's rows, or not yet.
    """

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn
        self._new: dict[np.datetime64, bool] = {}

    def make_missing(self, events: pa.RecordBatch) -> None:
        """Make the tables of the months of ``events`` that have none.

        Apart from `copy`, so that a savepoint that takes rows back does not take a table.
        """
        for month in np.unique(_months(events)):
            if month not in self._new:
                self._new[month] = self._make(month)

    def copy(self, events: pa.RecordBatch) -> None:
        """COPY ``events`` (`EVENT_SCHEMA`), whose months were made, to where they belong."""
        months = _months(events)
        old = np.zeros(len(months), bool)
        for month in np.unique(months):
            chosen = months == month
            if self._new[month]:
                rows = events.filter(pa.array(chosen))
                copy_batch(self._conn, _name(month), rows, EVENT_SCHEMA.names)
            else:
                old |= chosen
        if old.any():
            rows = events.filter(pa.array(old))
            copy_batch(self._conn, "watch_events", rows, EVENT_SCHEMA.names)

    def attach(self) -> None:
        """Make the new tables partitions, which builds their indexes. The last step."""
        for month in [month for month, is_new in self._new.items() if is_new]:
            parts = {
                "month": sql.Identifier(_name(month)),
                "begin": sql.Literal(_moment(month)),
                "end": sql.Literal(_moment(month + 1)),
            }
            # Rows that waited in the default partition move to their month first.
            self._conn.execute(_MOVE.format(**parts))
            self._conn.execute(_ATTACH.format(**parts))
        if any(self._new.values()):
            # Whoever writes to a partition alone leaves notes as well.
            self._conn.execute(_FOLLOW)

    def _make(self, month: np.datetime64) -> bool:
        if self._exists(month):
            return False
        self._conn.execute(_LOCK)
        if self._exists(month):
            return False
        self._conn.execute(_CREATE.format(month=sql.Identifier(_name(month))))
        return True

    def _exists(self, month: np.datetime64) -> bool:
        query = "SELECT to_regclass(%s) IS NOT NULL"
        return self._conn.execute(query, [_name(month)]).fetchone() == (True,)


_CREATE = sql.SQL(
    "CREATE TABLE {month} (LIKE watch_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
)
_MOVE = sql.SQL(
    "WITH moved AS (DELETE FROM watch_events_default"
    " WHERE watched_at >= {begin} AND watched_at < {end} RETURNING *)"
    " INSERT INTO {month} SELECT * FROM moved"
)
_ATTACH = sql.SQL(
    "ALTER TABLE watch_events ATTACH PARTITION {month} FOR VALUES FROM ({begin}) TO ({end})"
)


_FOLLOW = "SELECT follow_partitions('watch_events', 'watch_events', 'watch_events')"


def _months(events: pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.datetime64]]:
    moments = events.column("watched_at").cast(pa.int64()).to_numpy()
    months: np.ndarray[tuple[int], np.dtype[np.datetime64]]
    months = moments.view("datetime64[us]").astype("datetime64[M]")
    return months


def _moment(month: np.datetime64) -> datetime:
    return from_micros(int(month.astype("datetime64[us]").astype(np.int64)))


def _name(month: np.datetime64) -> str:
    return f"watch_events_{_moment(month):%Y_%m}"

"""Cuts: logs whose old rows have left PostgreSQL for the lake, and what they still answer.

A cut at an event time C leaves in PostgreSQL every row with event time from C on and, of those
before it, each entity's last row among the rows that were known by C, and every row that became
known later. So a log that was cut at C answers exactly whatever is asked **as of C or later**: a
label's time, and the time by which a row must have been known. What asks of a time before needs
the lake's rows too, or refuses; `Cut.answers` is that rule, and `require_hot` its refusal.

A cut takes the log for itself alone, so a transaction that locks the log (`LOCK TABLE … IN ACCESS
SHARE MODE`, or any query of it) and then reads its cut sees no other until its end. Without one,
ask again after reading: cuts only move forward.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import psycopg

from extensions.database.connection import table_exists
from extensions.errors import ConflictError
from extensions.value_text import exact_time_text

TABLE = "log_cuts"
CUTS_SQL = "SELECT log_table, cut_before, first_event, exported_through, snapshot_id FROM log_cuts"


class ColdRowsError(ConflictError):
    """What was asked needs rows of a log that only the lake holds."""


@dataclass(frozen=True)
class Cut:
    """The cut of a log.

    Attributes:
        log: The log's table.
        before: The event time before which PostgreSQL no longer holds every row.
        first_event: The earliest event time that was cut.
        exported_through: The arrival up to which the lake held all rows at the cut.
        snapshot: The lake's snapshot that was compared with what was cut.
    """

    log: str
    before: datetime
    first_event: datetime
    exported_through: datetime
    snapshot: int

    def answers(self, as_of: datetime, known_at: datetime | None = None) -> bool:
        """Whether PostgreSQL alone says what was true as of a time, as far as known by another."""
        return as_of >= self.before and (known_at is None or known_at >= self.before)

    def refusal(self, as_of: datetime, doing: str) -> ColdRowsError:
        """What is raised where only PostgreSQL is read, and does not answer.

        Args:
            as_of: The earliest time that is asked about.
            doing: What asks, as the beginning of a sentence ("A backfill").
        """
        return ColdRowsError(
            f"{doing} needs {self.log} as of {exact_time_text(as_of)}, and of times before "
            f"{exact_time_text(self.before)} PostgreSQL has no longer every row, since older ones "
            "were cut and are in the lake alone: begin there, or read both by "
            "`get_historical_features` or `skewless training-set`."
        )


def cuts(conn: psycopg.Connection, logs: Iterable[str]) -> dict[str, Cut]:
    """The cuts of those among ``logs`` that have one."""
    if not table_exists(conn, TABLE):  # of an older release
        return {}
    rows = conn.execute(f"{CUTS_SQL} WHERE log_table = ANY(%s)", [list(logs)]).fetchall()
    return {row[0]: Cut(*row) for row in rows}


def cut_of(conn: psycopg.Connection, log: str) -> Cut | None:
    """The cut of a log; None: PostgreSQL holds all of it."""
    return cuts(conn, [log]).get(log)


def require_hot(conn: psycopg.Connection, log: str, as_of: datetime, doing: str) -> None:
    """Refuse what only reads PostgreSQL, where it no longer answers as of that time.

    Raises:
        ColdRowsError: the log was cut at a later time.
    """
    cut = cut_of(conn, log)
    if cut is not None and not cut.answers(as_of):
        raise cut.refusal(as_of, doing)

"""The engines compared: a sample of questions, another one each day, put to PostgreSQL and DuckDB.

A text is judged portable by what its history held at that time; what came since may be what DuckDB
answers otherwise. Then the verdict becomes ``not portable``: nothing more is computed there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

import psycopg

from extensions.asof.definition_fingerprint import Definition
from extensions.engines.portability import SECONDS, judge, versions_of
from extensions.engines.verdict import record, recorded

# What all texts of an audit may take.
ALL_SECONDS = 60.0


@dataclass(frozen=True)
class EngineComparison:
    """One text that was judged portable: what both engines answered.

    Attributes:
        view: Of the text.
        version: Likewise.
        questions: How many both engines answered.
        differs: Whether an answer differs.
        reason: The question with both answers, or why none was asked.
    """

    view: str
    version: int
    questions: int
    differs: bool
    reason: str | None

    @property
    def sentence(self) -> str:
        """The difference, for a user."""
        return f"{self.view}.v{self.version} differs between engines: {self.reason}."

    @property
    def advice(self) -> str:
        """What mends it."""
        return (
            "It is not portable, and is computed by PostgreSQL from now on. What DuckDB computed "
            f"before is replaced by `skewless backfill {self.view} --again --engine postgresql`."
        )

    @property
    def left_out(self) -> str | None:
        """Why it was not compared; None if it was."""
        if self.questions or self.differs:
            return None
        return f"{self.view} v{self.version} was not compared between engines: {self.reason}."


def compare_engines(
    conn: psycopg.Connection,
    definitions: Iterable[Definition],
    questions: int,
    at: datetime,
    *,
    seconds: float = ALL_SECONDS,
) -> tuple[EngineComparison, ...]:
    """Ask both engines about each text that is recorded as portable for the versions at work.

    Args:
        conn: In autocommit.
        definitions: Of computations; those that were never judged, or stay in PostgreSQL, are left
            out, since nothing is computed of them in DuckDB.
        questions: For each text.
        at: Its day chooses the questions.
        seconds: What all texts may take; those that find no time left say so.
    """
    known, versions, deadline = recorded(conn), versions_of(conn), monotonic() + seconds
    found = []
    for each in definitions:
        held = known.get(each.fingerprint)
        if held is None or held.outcome != "portable" or held.versions != versions:
            continue
        left = min(deadline - monotonic(), SECONDS)
        now = judge(conn, each.computation(), count=questions, seconds=left, seed=at.toordinal())
        differs = now.outcome == "not portable"
        if differs:
            record(conn, each, now)
        found.append(EngineComparison(each.view, each.version, now.questions, differs, now.reason))
    return tuple(found)

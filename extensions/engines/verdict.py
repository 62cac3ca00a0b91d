"""The verdict on a text: whether it gives the same values in every engine; kept by its fingerprint.

Making one needs the other engine (`portability`); reading what was recorded does not.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.types.json import Json

from extensions.asof.definition_fingerprint import Definition
from extensions.database.connection import table_exists
from extensions.value_text import time_text

ENGINE = "duckdb"

Outcome = Literal["portable", "not portable", "not asked"]


@dataclass(frozen=True)
class Example:
    """A question that the engines answer differently; None: an engine has no such row."""

    keys: dict[str, Any]
    as_of: datetime
    feature: str
    postgresql: Any
    duckdb: Any

    def sentence(self) -> str:
        """The question and both answers."""
        keys = ", ".join(f"{name} {value!r}" for name, value in self.keys.items())
        return (
            f"{keys} as of {time_text(self.as_of)}: {self.feature} is {_told(self.postgresql)} in "
            f"PostgreSQL and {_told(self.duckdb)} in DuckDB"
        )


@dataclass(frozen=True)
class Versions:
    """What a verdict holds for: both engines and the prelude between them."""

    postgresql: str
    duckdb: str
    prelude: str


@dataclass(frozen=True)
class Verdict:
    """What asking both engines has shown of a text.

    Attributes:
        outcome: ``not asked`` where there was nothing to ask, or no time for it.
        questions: How many both engines answered.
        reason: Why it is not portable, or was not asked.
        hint: What to write instead, where a construct is known to differ.
        example: A question with both answers.
        versions: Of the engines and the prelude.
    """

    outcome: Outcome
    questions: int
    versions: Versions
    reason: str | None = None
    hint: str | None = None
    example: Example | None = None

    def sentence(self, *, hint: bool = True) -> str:
        """The verdict for a user, with its hint unless that is told beside it."""
        if self.outcome == "portable":
            return f"portable: equal in DuckDB for {self.questions:,} questions"
        told = f"{self.outcome}: {self.reason}"
        return f"{told}; {self.hint}" if self.hint and hint else told


def recorded(conn: psycopg.Connection) -> dict[str, Verdict]:
    """The recorded verdicts, by fingerprint; none in a database that is not migrated yet."""
    if not table_exists(conn, "engine_verdicts"):
        return {}
    rows = conn.execute(
        "SELECT fingerprint, verdict, questions, postgresql, engine_version, prelude, reason, hint "
        "FROM engine_verdicts WHERE engine = %s",
        [ENGINE],
    ).fetchall()
    return {
        fingerprint: Verdict(outcome, questions, Versions(*versions), reason, hint)
        for fingerprint, outcome, questions, *versions, reason, hint in rows
    }


def record(conn: psycopg.Connection, definition: Definition, verdict: Verdict) -> bool:
    """Keep the verdict on a text; False where this role may not write, or nothing keeps it."""
    example = verdict.example
    content = (
        None
        if example is None
        else Json(
            {
                "keys": {name: str(key) for name, key in example.keys.items()},
                "as_of": example.as_of.isoformat(),
                "feature": example.feature,
                "postgresql": _told(example.postgresql),
                "duckdb": _told(example.duckdb),
            }
        )
    )
    values = [
        definition.fingerprint, ENGINE, definition.view, definition.version, verdict.outcome,
        verdict.questions, verdict.reason, verdict.hint, content, verdict.versions.postgresql,
        verdict.versions.duckdb, verdict.versions.prelude,
    ]  # fmt: skip
    try:
        with conn.transaction():
            conn.execute(
                "INSERT INTO engine_verdicts AS v (fingerprint, engine, view_name, version, "
                "verdict, questions, reason, hint, example, postgresql, engine_version, prelude) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
                "ON CONFLICT (fingerprint, engine) DO UPDATE SET verdict = excluded.verdict, "
                "questions = excluded.questions, reason = excluded.reason, hint = excluded.hint, "
                "example = excluded.example, postgresql = excluded.postgresql, "
                "engine_version = excluded.engine_version, prelude = excluded.prelude, "
                "asked_at = clock_timestamp()",
                values,
            )
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.ReadOnlySqlTransaction,
        psycopg.errors.UndefinedTable,
    ):
        return False
    return True


def _told(value: Any) -> str:
    if isinstance(value, datetime):
        return time_text(value)
    text = repr(value)
    return text if len(text) <= 80 else text[:70] + " and so on"

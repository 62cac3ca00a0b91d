"""The nightly audit puts a sample of questions to both engines; a difference turns it red."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from extensions import exit_codes
from extensions.asof import Computation
from extensions.asof.definition_fingerprint import Definition
from extensions.cli.output.monitoring_output import promise, show_audit
from extensions.database import connect, connect_arrow
from extensions.engines import dialect
from extensions.engines.portability import judge, verdicts
from extensions.engines.questions import questions_of
from extensions.engines.verdict import recorded
from extensions.versions.engine_choice import definitions_of
from monitoring.audit.engine_comparison import compare_engines
from monitoring.audit.skew_audit import AuditReport
from tests.asof.dense import dense_history
from tests.asof.loading import load

AT = datetime(2026, 5, 1, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def dense(database: str) -> Iterator[psycopg.Connection]:
    load(database, dense_history(), batches=1)
    with connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def judged(
    dense: psycopg.Connection,
    counts: Computation,
    repo_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Definition:
    """A text that was judged portable."""
    monkeypatch.setattr("monitoring.audit.engine_comparison.SECONDS", 60.0)
    monkeypatch.setattr("extensions.engines.portability.SECONDS", 60.0)
    dense.execute("TRUNCATE engine_verdicts")
    [found] = definitions_of(dense, {counts.name: counts}, repo_root).values()
    verdicts(dense, [found], seconds=100)
    assert [each.outcome for each in recorded(dense).values()] == ["portable"]
    return found


def report(engines: tuple) -> AuditReport:
    return AuditReport(AT - timedelta(days=1), AT, 0, (), (), (), engines)


def test_no_difference_is_expected(dense: psycopg.Connection, judged: Definition) -> None:
    [found] = compare_engines(dense, [judged], 200, AT, seconds=100)
    assert (found.differs, found.left_out) == (False, None)
    assert found.questions > 100
    assert report((found,)).differing == ()
    assert report((found,)).exit_code == exit_codes.NOT_CHECKED  # nothing else was looked at


def test_a_text_that_is_made_to_differ_turns_it_red(
    dense: psycopg.Connection,
    judged: Definition,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """DuckDB's division of integers, without the prelude's setting, is another one."""
    text = judged.content["sql"].replace("w.n AS user", "(w.n / 2)::bigint AS user")
    assert text != judged.content["sql"]
    other = replace(judged, content={**judged.content, "sql": text})
    verdicts(dense, [other], seconds=100)
    assert recorded(dense)[other.fingerprint].outcome == "portable"
    broken = tuple(
        statement.replace("integer_division = true", "integer_division = false")
        for statement in dialect.PRELUDE
    )
    monkeypatch.setattr("extensions.engines.dialect.prelude_hash", dialect.prelude_hash)
    whole = dialect.prelude_hash()
    monkeypatch.setattr("extensions.engines.portability.prelude_hash", lambda: whole)
    monkeypatch.setattr(dialect, "PRELUDE", broken)
    [found] = compare_engines(dense, [other], 200, AT, seconds=100)
    assert found.differs
    made = report((found,))
    assert made.exit_code == exit_codes.WRONG
    assert promise(made).startswith("served = trained = recomputed: BROKEN (1 texts that differ")
    show_audit(made, as_json=False)
    told = " ".join(capsys.readouterr().out.split())
    assert "user_watch_stats.v1 differs between engines: user_id " in told
    assert "in PostgreSQL and" in told
    assert "backfill user_watch_stats --again --engine postgresql" in told
    # Nothing more is computed by DuckDB, and the next night has nothing to ask.
    assert recorded(dense)[other.fingerprint].outcome == "not portable"
    assert compare_engines(dense, [other], 200, AT, seconds=100) == ()


def test_what_found_no_time_is_said(dense: psycopg.Connection, judged: Definition) -> None:
    [found] = compare_engines(dense, [judged], 200, AT, seconds=0)
    assert (found.differs, found.questions) == (False, 0)
    assert found.left_out == (
        "user_watch_stats v1 was not compared between engines: there was no time left to ask."
    )
    # A verdict is not lost by it.
    assert recorded(dense)[judged.fingerprint].outcome == "portable"


def test_what_nobody_computes_in_duckdb_is_not_asked(
    dense: psycopg.Connection, judged: Definition
) -> None:
    dense.execute("UPDATE engine_verdicts SET engine_version = '0.1'")
    assert compare_engines(dense, [judged], 200, AT) == ()
    dense.execute("TRUNCATE engine_verdicts")
    assert compare_engines(dense, [judged], 200, AT) == ()


def test_each_day_has_questions_of_its_own(
    dense: psycopg.Connection, database: str, counts: Computation
) -> None:
    with connect_arrow(database) as arrow:
        first, again, next_day = (
            set(questions_of(arrow, counts, 60, seed).rows) for seed in (7, 7, 8)
        )
    assert first == again
    assert len(first & next_day) < len(first) / 2
    assert judge(dense, counts, count=100, seconds=60, seed=8).outcome == "portable"

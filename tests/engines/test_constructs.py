"""Each construct that is known to differ is found by both engines, and warned of by the linter."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from extensions.asof import Computation
from extensions.database import connect
from extensions.engines.construct_lint import findings, warnings_in
from extensions.engines.portability import judge
from tests.asof.dense import dense_history
from tests.asof.loading import load
from tests.conftest import REPO_ROOT
from tests.engines.constructs import CONSTRUCTS, computation

REALS = {"progress"}


@pytest.fixture(scope="module")
def dense(database: str) -> Iterator[psycopg.Connection]:
    load(database, dense_history(), batches=1)
    with connect(database, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_a_construct_that_differs_is_not_portable(
    name: str, dense: psycopg.Connection, counts: Computation
) -> None:
    construct = CONSTRUCTS[name]
    verdict = judge(
        dense, computation(counts, construct.expression, construct.kind), count=600, seconds=100
    )
    assert verdict.outcome == "not portable", verdict
    # A text that DuckDB runs has an example; the hint is the linter's.
    assert (verdict.example is not None) == construct.runs
    assert verdict.hint
    assert verdict.hint in findings_told(construct.expression)


def findings_told(expression: str) -> str:
    return "; ".join(f"line 4: {found.told}" for found in findings(expression, REALS))


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_the_portable_way_is_portable(
    name: str, dense: psycopg.Connection, counts: Computation
) -> None:
    construct = CONSTRUCTS[name]
    verdict = judge(
        dense, computation(counts, construct.instead, construct.kind), count=600, seconds=100
    )
    assert verdict.outcome == "portable", verdict
    assert verdict.questions > 200
    assert not findings(construct.instead, REALS)


def test_our_own_texts_have_no_such_construct() -> None:
    assert not list(warnings_in(REPO_ROOT / "feature_repo"))
    assert not list(warnings_in(REPO_ROOT / "examples"))


def test_what_is_said_elsewhere_is_no_construct() -> None:
    text = "SELECT e.round, 'stddev(x)', \"format\" /* corr(a, b) */ -- lower(x)\nFROM round AS e"
    assert not findings(text)
    assert not findings("SELECT substring(a FROM 2), sum(e.progress::double precision)", REALS)
    assert not findings("SELECT sum(e.duration_ms)", REALS)


def test_the_command_names_file_and_line(tmp_path: Path) -> None:
    folder = tmp_path / "feature_repo" / "computations"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "extensions.engines.construct_lint", str(tmp_path)]
    assert subprocess.run(command, cwd=REPO_ROOT, check=False).returncode == 0
    (folder / "a.v1.sql").write_text("SELECT\n  stddev(x)\nFROM spine")
    done = subprocess.run(command, cwd=REPO_ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "a.v1.sql, line 2: stddev() has other last digits in DuckDB" in done.stdout

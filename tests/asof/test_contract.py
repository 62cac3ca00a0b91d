"""Every registered computation keeps the contract, and the checker catches those that do not."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof import Computation, load_computations
from extensions.database import connect, connect_arrow
from tests.asof import contract
from tests.asof.asking import ask_rows
from tests.asof.comparison import disagreements
from tests.asof.contract import NothingToShowError, violations
from tests.asof.dense import dense_history, dense_questions
from tests.asof.drawing import drawn_by
from tests.asof.edge_cases import EDGE_CASES
from tests.asof.histories import Case
from tests.asof.loading import load
from tests.databases import copied
from tests.oracle.answers import bits
from tests.oracle.records import History

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted(p.stem for p in (REPOSITORY / "feature_repo" / "computations").glob("*.sql"))
# Declared aggregations have no file: their text is compiled.
REGISTERED = sorted({*FILES, *load_computations(REPOSITORY)})
BROKEN = sorted((Path(__file__).parent / "broken").glob("*.sql"))


@pytest.fixture(scope="module")
def history() -> History:
    return dense_history()


@pytest.fixture(scope="module")
def other_database(postgres_server: str, template_database: str) -> Iterator[str]:
    """Beside the one with the dense history: for whatever a test loads."""
    with copied(postgres_server, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def few_cases() -> list[Case]:
    return [*EDGE_CASES.values(), *drawn_by(0, 60)]


@pytest.fixture(scope="module")
def conn(database: str, history: History) -> Iterator[dbapi.Connection]:
    """A connection to a database that holds the dense history."""
    load(database, history, batches=1)
    with connect_arrow(database) as conn:
        yield conn


def test_every_file_is_a_registered_computation(computations: dict[str, Computation]) -> None:
    # The text of an earlier version stays beside the one that the files name.
    written = {name for name, c in computations.items() if c.declaration is None}
    assert written <= set(FILES)
    views = {c.view: c.version for c in computations.values()}
    for name in FILES:
        view, _, version = name.partition(".v")
        assert int(version) <= views[view]


@pytest.mark.parametrize("name", REGISTERED)
def test_a_registered_computation_keeps_the_contract(
    name: str, conn: dbapi.Connection, history: History, computations: dict[str, Computation]
) -> None:
    view = name.partition(".v")[0]
    named = next(c for c in computations.values() if c.view == view)
    path = REPOSITORY / "feature_repo" / "computations" / f"{name}.sql"
    text = path.read_text() if path.is_file() else named.sql
    computation = dataclasses.replace(named, sql=text.strip().removesuffix(";"))
    questions = dense_questions(view, history, computation.join_keys)
    assert violations(conn, computation, questions) == []


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_computation_breaks_the_rule_that_it_names_and_no_other(
    path: Path, conn: dbapi.Connection, history: History, computations: dict[str, Computation]
) -> None:
    rule, computation = _broken(path, computations)
    found = violations(conn, computation, dense_questions(computation.view, history))
    broken = {violation.rule for violation in found}
    # An order that is left open, or a table that no other engine is given, may show there, too.
    also = {contract.ENGINE} if rule in (contract.ORDER, contract.READS) else set()
    assert broken - also == {rule}, found[:5]


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_the_oracle_notices_a_broken_computation(
    path: Path, other_database: str, computations: dict[str, Computation], few_cases: list[Case]
) -> None:
    _, computation = _broken(path, computations)
    assert disagreements(other_database, [computation], few_cases)


def test_every_rule_is_shown_to_fail(computations: dict[str, Computation]) -> None:
    assert {_broken(path, computations)[0] for path in BROKEN} == set(contract.RULES)


def test_the_time_zone_of_the_server_changes_nothing(
    fresh_database: str, computations: dict[str, Computation], history: History
) -> None:
    """Clocks go back in New York in this very history: a day there has 25 hours."""
    load(fresh_database, history)
    answered = []
    for zone in ("UTC", "America/New_York"):
        with connect(fresh_database, autocommit=True) as admin:
            name = sql.Identifier(admin.info.dbname)
            admin.execute(sql.SQL("ALTER DATABASE {} SET timezone TO {}").format(name, zone))
        with connect_arrow(fresh_database) as conn:
            answered.append(
                [
                    (question, bits(answer))
                    for c in computations.values()
                    for question, answer in ask_rows(
                        conn, c, dense_questions(c.view, history, c.join_keys)
                    )
                ]
            )
    assert answered[0] == answered[1]


def test_a_history_without_the_rows_in_question_proves_nothing(
    fresh_database: str, computations: dict[str, Computation], history: History
) -> None:
    computation = computations["user_watch_stats.v1"]
    questions = dense_questions(computation.view, history)
    with (
        connect_arrow(fresh_database) as empty,
        pytest.raises(NothingToShowError, match="watched_at"),
    ):
        violations(empty, computation, questions)


def _broken(path: Path, computations: dict[str, Computation]) -> tuple[str, Computation]:
    """The rule that the file says it breaks, and its SQL under the name of a real computation."""
    text = path.read_text()
    says = dict(re.findall(r"^-- (breaks|instead of): (.+)$", text, re.MULTILINE))
    return says["breaks"], dataclasses.replace(computations[says["instead of"]], sql=text)

"""The second versions that the documentation ships keep the contract of every computation."""

import dataclasses
from collections.abc import Iterator

import pytest
from adbc_driver_postgresql import dbapi

from extensions.asof import Computation
from extensions.database import connect_arrow
from tests.asof.asking import ask_rows
from tests.asof.contract import violations
from tests.asof.dense import dense_history, dense_questions
from tests.asof.loading import load
from tests.oracle.records import History
from tests.versions.repositories import EXAMPLES

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.sql"))


@pytest.fixture(scope="module")
def history() -> History:
    return dense_history()


@pytest.fixture(scope="module")
def conn(database: str, history: History) -> Iterator[dbapi.Connection]:
    load(database, history, batches=1)
    with connect_arrow(database) as conn:
        yield conn


def test_both_examples_are_there() -> None:
    assert NAMES == ["item_stats.v2", "user_watch_stats.v2"]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_keeps_the_contract_and_differs_from_the_first_version(
    name: str, conn: dbapi.Connection, history: History, computations: dict[str, Computation]
) -> None:
    first = computations[name.replace(".v2", ".v1")]
    second = dataclasses.replace(
        first, version=2, sql=(EXAMPLES / f"{name}.sql").read_text().strip().removesuffix(";")
    )
    questions = dense_questions(first.view, history)
    assert violations(conn, second, questions) == []
    assert dict(ask_rows(conn, first, questions)) != dict(ask_rows(conn, second, questions))

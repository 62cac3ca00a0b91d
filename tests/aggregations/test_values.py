"""Compiled aggregations give what plain Python gives, at any moment, from any history."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any, TypeAlias

import numpy as np
import psycopg
import pytest
from adbc_driver_postgresql import dbapi
from hypothesis import HealthCheck, Phase, find, given, settings

from extensions.asof import Computation
from extensions.database import connect, connect_arrow
from extensions.errors import DefinitionError
from tests.aggregations import oracle
from tests.aggregations.drawing import Drawn, drawn, summed
from tests.aggregations.purchases import TABLE, declared, store
from tests.asof.asking import ask_rows

STRANGER = 3
Connections: TypeAlias = tuple[psycopg.Connection, dbapi.Connection]


@pytest.fixture(scope="module")
def connections(database: str) -> Iterator[Connections]:
    with connect(database, autocommit=True) as conn, connect_arrow(database) as arrow:
        conn.execute(TABLE)
        yield conn, arrow


@given(drawn())
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_values_are_those_of_the_oracle(connections: Connections, case: Drawn) -> None:
    assert differences(connections, case, declared(case.view, case.filters)) == []


# What a compiler could get wrong, as a change of the text that it makes.
MUTATIONS = {
    "the window's edge is inside": (r"(e\.bought_at) > (s\.as_of - )", r"\1 >= \2"),
    "now is outside": (r"e\.bought_at <= s", "e.bought_at < s"),
    "the future leaks": (r"e\.bought_at <= s\.as_of", "TRUE"),
    "late rows leak": (r"e\.known_at <= s\.as_of", "TRUE"),
    "others' rows count": (r"e\.user_id = s\.user_id", "TRUE"),
    "filters are not looked at": (r"e\.filter_\d", "TRUE"),
    "first and last are one": (r" DESC", ""),
    "sums in any order": (r"(sum\([^\n]*) ORDER BY e\.bought_at[^\n)]*\)", r"\1)"),
    "ties in another order": (r'e\.order_id::text COLLATE "C"', "md5(e.order_id)"),
    "the whole population": (r"nullif\((w\.n_\d) - 1, 0\)", r"\1"),
    "defaults are forgotten": (r"coalesce\(((?:.*))(, [^,]*)\) AS f", r"\1 AS f"),
    "lists without end": (r"LIMIT \d", "LIMIT 100"),
    "one more halving": (r"exp\(-0\.69", "exp(-0.70"),
    "nothing is divided": (r"\* 60000\)", ")"),
    "zero has a sign": (r" \+ 0\b", ""),
}


# Among views of any functions, too few sum numbers whose order matters.
DRAWN = {"sums in any order": summed()}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_oracle_notices_a_compiler_that_is_wrong(
    connections: Connections, mutation: str
) -> None:
    pattern, other = MUTATIONS[mutation]

    def noticed(case: Drawn) -> bool:
        right = declared(case.view, case.filters)
        wrong = replace(right, sql=re.sub(pattern, other, right.sql))
        try:
            return wrong != right and bool(differences(connections, case, wrong))
        except DefinitionError:
            return False

    find(
        DRAWN.get(mutation, drawn()), noticed, random=Random(1),
        settings=settings(max_examples=5_000, deadline=None, phases=[Phase.generate]),
    )  # fmt: skip


def differences(connections: Connections, case: Drawn, computation: Computation) -> list[Any]:
    """Whatever the computation says otherwise than the oracle."""
    conn, arrow = connections
    conn.execute("TRUNCATE purchases")
    store(conn, case.rows)
    moments = sorted(set(case.moments))
    questions = [((user,), as_of) for user in (1, 2, STRANGER) for as_of in moments]
    try:
        answered = ask_rows(arrow, computation, questions)
    finally:
        arrow.rollback()
    found: list[Any] = []
    if [question for question, _ in answered] != questions:
        found.append(answered)
    for ((user,), as_of), answer in answered:
        for feature, got in zip(case.view.features, answer, strict=True):
            asked = (case.view, feature, case.rows, user, as_of)
            expected = oracle.value(*asked)
            if not same(got, expected, oracle.uncertainty(*asked)):
                found.append((feature, user, as_of, got, expected))
    return found


def same(got: Any, expected: Any, uncertainty: float) -> bool:
    """The same bits, but for what libraries' exponentials differ by."""
    if isinstance(expected, tuple):
        return len(got) == len(expected) and all(
            same(one, other, uncertainty) for one, other in zip(got, expected, strict=True)
        )
    if isinstance(expected, float | np.floating) and got is not None:
        one, other = float(got), float(expected)
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        if uncertainty:
            return one == other or abs(one - other) <= uncertainty
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return type(got) is type(expected) and bool(got == expected)

"""Stream, batch and backfill log the same values at the same moments, to the bit.

Every path in `tests.asof.paths.PATHS` gets the same history; its log is compared with a direct
spine of the moments of change, and with what the oracle says a reader should see.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pytest

from extensions.asof import Computation, active, changes
from extensions.database import connect, connect_arrow
from tests.asof.asking import QuestionRow, ask, ask_rows
from tests.asof.dense import NOW, dense_history
from tests.asof.loading import load
from tests.asof.paths import PATHS, Schedules, logged, schedule
from tests.asof.test_contract import REGISTERED
from tests.databases import copied
from tests.oracle.answers import VIEWS, Answer, agrees, bits, brief
from tests.oracle.features import Keys
from tests.oracle.records import History

Log: TypeAlias = dict[QuestionRow, Answer]


@pytest.fixture(scope="module")
def history() -> History:
    return dense_history()


@pytest.fixture(scope="module")
def schedules(computations: dict[str, Computation], history: History) -> Schedules:
    return {name: schedule(c, history, NOW) for name, c in computations.items()}


@pytest.fixture(scope="module")
def expected(
    database: str, computations: dict[str, Computation], history: History, schedules: Schedules
) -> dict[str, Log]:
    """By view: what a direct spine answers at the start and at every moment of change."""
    load(database, history)
    answers = {}
    with connect_arrow(database) as conn:
        for name, computation in computations.items():
            plan = schedules[name]
            spines = active(computation, plan.start), changes(computation, plan.start, plan.end)
            rows = [question for spine in spines for question, _ in ask(conn, computation, spine)]
            answers[name] = dict(ask_rows(conn, computation, rows))
    return answers


@pytest.fixture(scope="module", params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def path_database(
    path: str,
    postgres_server: str,
    template_database: str,
) -> Iterator[str]:
    """A fresh database for each path."""
    with copied(postgres_server, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def logs(
    path: str,
    path_database: str,
    computations: dict[str, Computation],
    history: History,
    schedules: Schedules,
) -> dict[str, Log]:
    """By view: the log that the path leaves, with every (entity, moment) in it once."""
    PATHS[path](path_database, computations, history, schedules)
    with connect(path_database) as conn:
        rows = {
            name: [_answer(row, computation) for row in logged(conn, computation)]
            for name, computation in computations.items()
        }
    assert [name for name, log in rows.items() if len(dict(log)) < len(log)] == []
    return {name: dict(log) for name, log in rows.items()}


@pytest.mark.parametrize("name", REGISTERED)
def test_every_path_logs_the_same_values_at_the_same_moments(
    name: str, logs: dict[str, Log], expected: dict[str, Log]
) -> None:
    log, direct = logs[name], expected[name]
    assert log, "the history leaves nothing to compare"
    assert sorted(log.keys() - direct.keys()) == []
    assert sorted(direct.keys() - log.keys()) == []
    differing = [question for question in direct if bits(log[question]) != bits(direct[question])]
    assert not differing


@pytest.mark.parametrize("name", REGISTERED)
def test_a_reader_of_the_log_sees_the_truth_at_every_tick(
    name: str,
    logs: dict[str, Log],
    computations: dict[str, Computation],
    history: History,
    schedules: Schedules,
) -> None:
    view = computations[name].view
    oracle = VIEWS[view]
    moments: dict[Keys, list[datetime]] = defaultdict(list)
    for keys, moment in sorted(logs[name]):
        moments[keys].append(moment)
    stranger = (10**9,) * len(oracle.join_keys)
    default = oracle(history, stranger, NOW)
    plan = schedules[name]
    wrong = []
    for keys in oracle.entities(history)[::3]:
        for tick in (plan.start, *plan.ticks[:: len(plan.ticks) // 20 + 1], plan.end):
            place = bisect_right(moments[keys], tick)
            seen = logs[name][keys, moments[keys][place - 1]] if place else default
            truth = oracle(history, keys, tick)
            if not agrees(seen, truth, oracle.float32_steps):
                wrong.append(f"{keys} at {tick}: {brief(seen)}, by the oracle {brief(truth)}")
    assert not wrong, wrong[:5]


def _answer(row: tuple[Any, ...], computation: Computation) -> tuple[QuestionRow, Answer]:
    width = len(computation.join_keys)
    types = [feature.pg_type for feature in computation.features]
    values = [_value(v, kind) for v, kind in zip(row[width + 1 :], types, strict=True)]
    return (tuple(row[:width]), row[width].astimezone(UTC)), tuple(values)


def _value(value: Any, pg_type: str) -> Any:
    if pg_type == "real[]":
        return tuple(np.float32(part) for part in value)
    return np.float32(value) if pg_type == "real" else value

"""Every spine's answers against the oracle, on thousands of generated histories."""

import itertools
import os
import random

import pytest
from hypothesis import Phase, given, note, seed, settings

from extensions.asof import Computation
from tests.asof.comparison import disagreements
from tests.asof.drawing import drawn_by, every_example
from tests.asof.edge_cases import EDGE_CASES
from tests.asof.histories import Case, cases
from tests.oracle.records import History

HISTORIES, ROUND = 2_000, 500
SEED = int(os.environ.get("SKEWLESS_HISTORIES_SEED") or random.SystemRandom().getrandbits(32))


def _generated() -> dict[Case, int]:
    """Cases with HISTORIES different histories or more, and the seed that brought each."""
    found: dict[History, tuple[Case, int]] = {}
    for round_seed in itertools.count(SEED):
        for case in drawn_by(round_seed, ROUND):
            found.setdefault(case.history, (case, round_seed))
        if len(found) >= HISTORIES:
            return dict(found.values())
    raise AssertionError  # itertools.count does not end


def _raise_smallest(
    url: str, computations: list[Computation], right: set[Case], round_seed: int
) -> None:
    """Generate a round again, this time case by case, and shrink the first that is wrong."""

    @seed(round_seed)
    @settings(every_example(ROUND), phases=[Phase.reuse, Phase.generate, Phase.shrink])
    @given(cases())
    def smallest(case: Case) -> None:
        if case not in right:
            complaints = disagreements(url, computations, [case]).get(0, [])
            note("\n".join([f"SKEWLESS_HISTORIES_SEED={SEED}", case.told(), *complaints[:10]]))
            assert not complaints

    smallest()


@pytest.mark.timeout(600)
def test_every_spine_answers_as_the_oracle_does(
    database: str, computations: dict[str, Computation]
) -> None:
    seed_of = _generated()
    generated = list(seed_of)
    assert len({case.history for case in generated}) >= HISTORIES

    wrong = disagreements(database, computations.values(), generated)
    if wrong:
        right = {case for place, case in enumerate(generated) if place not in wrong}
        _raise_smallest(
            database, list(computations.values()), right, seed_of[generated[min(wrong)]]
        )
    # Reached only if each history, alone in the database, is answered rightly.
    assert not wrong, next(iter(wrong.values()))[:10]


@pytest.mark.parametrize("name", EDGE_CASES)
def test_an_edge_case_is_answered_as_the_oracle_does(
    name: str, database: str, computations: dict[str, Computation]
) -> None:
    wrong = disagreements(database, computations.values(), [EDGE_CASES[name]])
    assert not wrong, wrong[0][:10]

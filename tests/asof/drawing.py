"""Drawing cases from Hypothesis by the hundred, to be checked together."""

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.asof.histories import Case, cases


def every_example(count: int) -> settings:
    """As many examples, however long they take."""
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def drawn_by(round_seed: int, count: int) -> list[Case]:
    """The cases that Hypothesis generates by a seed, in its order; some come twice."""
    drawn: list[Case] = []

    @seed(round_seed)
    @settings(every_example(count), database=None, phases=[Phase.generate])
    @given(cases())
    def collect(case: Case) -> None:
        drawn.append(case)

    collect()
    return drawn

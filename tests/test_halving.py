"""Bisection of a batch: the members that fail are refused, all others taken, each once."""

from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.halving import take_halved


class OfMemberError(Exception):
    """May be one member's fault."""


@given(
    st.integers(0, 200).flatmap(
        lambda n: st.tuples(
            st.just(n), st.sets(st.integers(0, n - 1)) if n else st.just(set()), st.booleans()
        )
    )
)
def test_exactly_the_bad_members_are_refused(drawn: tuple[int, set[int], bool]) -> None:
    count, bad, known = drawn
    asked: list[tuple[int, int]] = []
    refused: list[tuple[int, str]] = []

    def take(begin: int, end: int) -> range:
        asked.append((begin, end))
        if found := sorted(bad & set(range(begin, end))):
            raise OfMemberError(f"{found[0]}")
        return range(begin, end)

    taken = take_halved(
        0, count, take, lambda member, error: refused.append((member, str(error))),
        error_type=OfMemberError, is_members=lambda _: True,
        failed=OfMemberError("known") if known and count > 1 and bad else None,
    )  # fmt: skip
    assert [member for part in taken for member in part] == [
        member for member in range(count) if member not in bad
    ]
    assert refused == [(member, str(member)) for member in sorted(bad)]
    assert len(asked) == len(set(asked))
    assert len(asked) <= 1 + 2 * len(bad) * ceil(log2(max(count, 1)))


def test_a_failure_that_is_no_members_ends_it() -> None:
    asked: list[tuple[int, int]] = []

    def take(begin: int, end: int) -> None:
        asked.append((begin, end))
        if begin == 0 and end > 1:
            raise OfMemberError
        if begin > 1:
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        list(
            take_halved(
                0, 4, take, lambda *_: None, error_type=Exception,
                is_members=lambda error: isinstance(error, OfMemberError),
            )
        )  # fmt: skip
    assert asked == [(0, 4), (0, 2), (0, 1), (1, 2), (2, 4)]


def test_members_that_fail_only_together_are_taken_in_parts() -> None:
    def take(begin: int, end: int) -> tuple[int, int]:
        if begin <= 1 and end > 3:
            raise OfMemberError
        return begin, end

    def refuse(member: int, _: OfMemberError) -> None:
        raise AssertionError(member)

    assert list(
        take_halved(0, 4, take, refuse, error_type=OfMemberError, is_members=lambda _: True)
    ) == [(0, 2), (2, 4)]

"""Many questions at once, over history that is read once: PostgreSQL's answers, however cut."""

from collections.abc import Iterator
from datetime import timedelta

import duckdb
import psycopg
import pytest

from extensions.asof import Computation, active
from extensions.asof.spine import Spine
from extensions.asof.spine_changes import changes
from extensions.database import connect, connect_arrow
from extensions.engines import bulk as module
from extensions.engines.bulk import bulk
from extensions.engines.portability import first_difference
from extensions.engines.postgresql import compute_as_logged, fetched
from extensions.errors import UnavailableError
from tests.asof.dense import NOW, dense_history
from tests.asof.loading import load

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def dense(database: str) -> Iterator[psycopg.Connection]:
    load(database, dense_history(), batches=1)
    with connect(database, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize("pairs", [None, 5_000])
def test_a_given_spine_is_answered(
    pairs: int | None,
    dense: psycopg.Connection,
    database: str,
    computations: dict[str, Computation],
) -> None:
    for computation in computations.values():
        spine = Spine(changes(computation, NOW - 3 * DAY, NOW).query)
        with connect_arrow(database) as arrow:
            asked = fetched(arrow, spine.query)
            expected = compute_as_logged(arrow, computation, spine)
        with bulk(database, computation, NOW - 3 * DAY, NOW) as made:
            if pairs:
                object.__setattr__(made, "pairs", pairs)
            got = made.ask(asked)
            assert got.num_rows == expected.num_rows > 0
            assert first_difference(computation, expected, got) is None
            # A second spine of the same span, and one without rows.
            few = asked.slice(0, 3)
            assert made.ask(few).num_rows == 3
            assert made.ask(asked.slice(0, 0)).num_rows == 0


def test_what_does_not_fit_is_halved(
    dense: psycopg.Connection,
    database: str,
    counts: Computation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask = module.answers
    sizes: list[int] = []

    def limited(session, made, spine):
        sizes.append(spine.num_rows)
        if spine.num_rows > most:
            raise UnavailableError("Out of Memory") from duckdb.OutOfMemoryException("none left")
        return ask(session, made, spine)

    monkeypatch.setattr(module, "answers", limited)
    spine = active(counts, NOW)
    with connect_arrow(database) as arrow:
        asked = fetched(arrow, spine.query)
        expected = compute_as_logged(arrow, counts, spine)
    with bulk(database, counts, NOW, NOW) as made:
        most = 4
        assert first_difference(counts, expected, made.ask(asked)) is None
        assert max(sizes) > most
        most = 0
        with pytest.raises(UnavailableError):
            made.ask(asked)

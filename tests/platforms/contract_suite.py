"""The platform's computations: the contract, the oracle, and one answer on every path."""

import contextlib
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

import psycopg
import pytest
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof import Computation
from extensions.asof.backfill import backfill
from extensions.asof.spine import Spine, active
from extensions.asof.spine_changes import changes, touched
from extensions.database import connect, connect_arrow
from extensions.engines.backfill import duckdb_chunks
from extensions.engines.duckdb import answers, session, spine_rows, use_history
from extensions.engines.portability import first_difference
from extensions.engines.postgresql import compute_as_logged, fetched, history_rows
from tests.asof.asking import ask, ask_rows, questions_of, spine_of
from tests.asof.contract import violations
from tests.oracle.answers import bits
from tests.platforms.conftest import insert
from tests.platforms.description import Keys, Platform, Rows
from tests.platforms.named import PLATFORM

END = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def rows(platform: Platform) -> Rows:
    return platform.history(Random(5), END)


@pytest.fixture(scope="module")
def arrow(database: str, rows: Rows) -> Iterator[dbapi.Connection]:
    with connect(database) as conn:
        insert(conn, rows)
    with connect_arrow(database) as conn:
        yield conn


def _moments(computation: Computation, rows: Rows, number: int) -> list[datetime]:
    """Times at which answers may change, of all sources that the view reads, and just before."""
    rng, found = Random(7), set()
    for source in computation.reads:
        lines = list(rows[source.table])
        early = [row for row in lines if row[source.arrival] < row[source.time]]
        late = [row for row in lines if row[source.arrival] > row[source.time]]
        # A source whose arrival is its time has neither.
        few = [rng.choice(each) for each in (early, late) if each]
        for row in [*rng.sample(lines, min(number, len(lines))), *few]:
            at = row[source.time]
            found |= {at, row[source.arrival]}
            if computation.horizon is not None:
                found |= {at + computation.horizon, at + computation.horizon - _TICK}
    return sorted(found)


_TICK = timedelta(microseconds=1)
NAMES = [f"{view}.v1" for view in PLATFORM.oracle]


def _old(computation: Computation) -> datetime:
    return END + (computation.horizon or timedelta(0)) / 2


def test_all_views_are_named(computations: dict[str, Computation], platform: Platform) -> None:
    assert set(computations) == set(NAMES)
    assert {each.view for each in computations.values()} == set(platform.oracle)


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_the_oracles(
    name: str,
    computations: dict[str, Computation],
    platform: Platform,
    rows: Rows,
    arrow: dbapi.Connection,
) -> None:
    computation = computations[name]
    keys = platform.entities(rows, computation.join_keys)
    questions = [(each, at) for each in keys for at in _moments(computation, rows, 12)]
    answered = ask_rows(arrow, computation, questions)
    assert len(answered) == len(questions)
    oracle = platform.oracle[computation.view]
    wrong = [
        (each, at, answer, true)
        for (each, at), answer in answered
        if not platform.agrees(computation.view, answer, true := oracle(rows, each, at))
    ]
    assert not wrong, wrong[:3]


@pytest.mark.parametrize("name", NAMES)
def test_duckdb_makes_the_same_spines_and_answers(
    name: str,
    computations: dict[str, Computation],
    platform: Platform,
    rows: Rows,
    arrow: dbapi.Connection,
) -> None:
    computation = computations[name]
    keys = platform.entities(rows, computation.join_keys)
    questions = [(each, at) for each in keys for at in _moments(computation, rows, 12)]
    asked = spine_of(computation, questions)
    first, last = END - timedelta(days=9), END - timedelta(days=6)
    with session() as duck:
        use_history(duck, {s.table: history_rows(arrow, s) for s in computation.reads})
        for spine in (
            active(computation, last),
            touched(computation, first, last),
            changes(computation, first, last),
        ):
            made, expected = spine_rows(duck, spine), fetched(arrow, spine.query)
            assert expected.num_rows
            assert sorted(questions_of(made, computation)) == sorted(
                questions_of(expected, computation)
            )
        got = answers(duck, computation, fetched(arrow, asked.query)).read_all()
    expected = compute_as_logged(arrow, computation, asked)
    assert expected.num_rows == len(questions)
    assert first_difference(computation, expected, got) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_backfill_by_duckdb_logs_the_same(
    name: str, computations: dict[str, Computation], arrow: dbapi.Connection, database: str
) -> None:
    computation = computations[name]
    log = sql.Identifier(computation.log_table)
    first, last = END - timedelta(days=9), END - timedelta(days=6)
    logs = []
    with connect(database, autocommit=True) as conn:
        for pairs in (None, 1_000_000_000, 2_000):
            with contextlib.ExitStack() as stack:
                engine = None
                if pairs is not None:
                    engine = stack.enter_context(duckdb_chunks(database, computation))
                    engine.pairs = pairs
                done = backfill(conn, computation, first, last, engine=engine)
            query = sql.SQL("SELECT l::text FROM {} AS l ORDER BY 1").format(log)
            logs.append(conn.execute(query).fetchall())
            assert done.rows == len(logs[-1])
            conn.execute(sql.SQL("TRUNCATE {}").format(log))
            conn.execute("TRUNCATE watermarks, backfills, backfill_chunks, unpublished_rows")
    assert logs[0]
    assert logs[1] == logs[0]
    assert logs[2] == logs[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_is_kept(
    name: str,
    computations: dict[str, Computation],
    platform: Platform,
    rows: Rows,
    arrow: dbapi.Connection,
) -> None:
    computation = computations[name]
    keys = platform.entities(rows, computation.join_keys)
    moments = [*_moments(computation, rows, 2), _old(computation)]
    rng = Random(3)
    questions = [(each, at) for at in moments for each in rng.sample(keys, min(6, len(keys)))]
    assert violations(arrow, computation, questions) == []


@pytest.mark.parametrize("name", NAMES)
def test_whoever_changed_is_found(
    name: str,
    computations: dict[str, Computation],
    platform: Platform,
    rows: Rows,
    arrow: dbapi.Connection,
) -> None:
    """By a tick, and by a backfill: a value never changes where neither would look."""
    computation, oracle = computations[name], platform.oracle[computations[name].view]
    keys = platform.entities(rows, computation.join_keys)
    hours = [END - timedelta(days=50) + timedelta(hours=17 * n) for n in range(120)]
    for after, through in itertools.pairwise(hours):
        before = {each: bits(oracle(rows, each, after)) for each in keys}
        changed = {each for each in keys if bits(oracle(rows, each, through)) != before[each]}
        tick = _found(arrow, computation, touched(computation, after, through))
        assert changed <= tick, f"({after}, {through}]: a tick forgot {sorted(changed - tick)[:2]}"
        logged = _found(arrow, computation, changes(computation, after, through))
        late = computation.freshness.period is not None
        assert late or changed <= logged, f"({after}, {through}]: {sorted(changed - logged)[:2]}"


def _found(arrow: dbapi.Connection, computation: Computation, spine: Spine) -> set[Keys]:
    return {keys for (keys, _), _ in ask(arrow, computation, spine)}


def test_the_tables_refuse_what_is_forbidden(
    fresh_database: str, platform: Platform, rows: Rows
) -> None:
    table, refused = platform.refused
    row = rows[table][0]
    with connect(fresh_database, autocommit=True) as conn:
        for wrong in refused:
            with pytest.raises(psycopg.errors.IntegrityError):
                insert(conn, {table: [row | wrong]})
        insert(conn, {table: [row]})

"""A backfill by DuckDB is the backfill by PostgreSQL, bit for bit, however it is cut or killed."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import duckdb
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from extensions.asof import Computation
from extensions.asof.backfill import backfill
from extensions.asof.backfill_chunks import PostgreSQLChunks
from extensions.asof.failpoints import Fault
from extensions.asof.log_coverage import coverage
from extensions.asof.tick import tick
from extensions.asof.unpublished_ranges import unpublished
from extensions.database import connect
from extensions.database.identifier_limits import BACKFILLED
from extensions.engines import backfill as engine_module
from extensions.engines.backfill import DifferentAnswerError, duckdb_chunks
from extensions.engines.duckdb import Limits
from extensions.errors import UnavailableError
from tests.asof.dense import NOW, dense_history
from tests.asof.histories import Case, cases
from tests.asof.loading import clear, load, watch
from tests.engines.filling import Cuts, StoppedError, fill

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
START, END = NOW - 9 * DAY, NOW + DAY / 3
VIEWS = (
    "item_profile.v1", "item_stats.v1", "user_habits.v1", "user_item_progress.v1",
    "user_preferences.v1", "user_watch_stats.v1",
)  # fmt: skip
CONTROL = ("watermarks", "backfills", "backfill_chunks", "unpublished_rows")
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.engines.filling"])


@pytest.fixture(scope="module")
def dense(database: str) -> Iterator[psycopg.Connection]:
    load(database, dense_history(), batches=1)
    with connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def busy(fresh_database: str) -> Iterator[tuple[psycopg.Connection, str]]:
    load(fresh_database, dense_history(), batches=1)
    with connect(fresh_database, autocommit=True) as conn:
        yield conn, fresh_database


def cleared(conn: psycopg.Connection, computation: Computation) -> None:
    conn.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(computation.log_table)))
    conn.execute(f"TRUNCATE {', '.join(CONTROL)}")


def log_of(conn: psycopg.Connection, computation: Computation) -> list[str]:
    """The log's rows with all their columns; a float's text is exact, and has its sign."""
    log = sql.Identifier(computation.log_table)
    query = sql.SQL("SELECT l::text FROM {} AS l ORDER BY 1").format(log)
    return [row[0] for row in conn.execute(query)]


def control(conn: psycopg.Connection, computation: Computation) -> list[Any]:
    """What else a backfill leaves: how far it came, and whose rows are to be published."""
    known = [
        conn.execute(query).fetchall()
        for query in (
            (
                "SELECT view_name, version, range_start, range_end, done_through, filled_through, "
                "sources FROM backfills"
            ),
            "SELECT view_name, version, live_from, processed_through FROM watermarks",
            "SELECT * FROM backfill_chunks",
        )
    ]
    noted = [(each.start, each.end) for each in unpublished(conn, computation)]
    log = sql.Identifier(computation.log_table)
    rows = conn.execute(sql.SQL("SELECT DISTINCT event_timestamp FROM {}").format(log)).fetchall()
    known.append([at for [at] in rows if not any(a <= at <= b for a, b in noted)])
    return known


def by_postgresql(
    conn: psycopg.Connection,
    computation: Computation,
    start: datetime = START,
    end: datetime = END,
) -> tuple[list[str], list[Any]]:
    cleared(conn, computation)
    backfill(conn, computation, start, end)
    return log_of(conn, computation), control(conn, computation)


@pytest.mark.parametrize("name", VIEWS)
def test_the_log_is_the_same(
    name: str, dense: psycopg.Connection, database: str, computations: dict[str, Computation]
) -> None:
    computation = computations[name]
    expected, state = by_postgresql(dense, computation)
    assert expected
    cleared(dense, computation)
    with duckdb_chunks(database, computation) as engine:
        done = backfill(dense, computation, START, END, engine=engine)
        # A finished one reads nothing.
        again = backfill(dense, computation, START, END, engine=engine)
    assert log_of(dense, computation) == expected
    assert control(dense, computation) == state
    assert done.rows == len(expected)
    assert (again.rows, again.resumed_from) == (0, END)
    [[engine_name]] = dense.execute("SELECT engine FROM backfills").fetchall()
    assert engine_name.startswith("duckdb ")


@pytest.mark.parametrize("name", VIEWS)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.tuples(st.floats(0.05, 1.0), st.integers(1, 5)), min_size=1, max_size=4),
    stops=st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.booleans()), max_size=3),
)
def test_any_cut_and_any_stop_is_the_whole(
    name: str,
    cuts: Sequence[tuple[float, int]],
    stops: Sequence[tuple[int, bool, bool]],
    dense: psycopg.Connection,
    database: str,
    computations: dict[str, Computation],
) -> None:
    """Whichever engine goes on with what another one left."""
    computation = computations[name]
    start = NOW - 3 * DAY
    expected, state = by_postgresql(dense, computation, start)
    cleared(dense, computation)
    told = itertools.cycle([*cuts, (1.0, 2)])
    for chunk, after, in_duckdb in [*stops, (None, False, True)]:
        with duckdb_chunks(database, computation) as duck:
            inner = duck if in_duckdb else PostgreSQLChunks(computation)
            engine = Cuts(inner, told, chunk, after)
            with contextlib.suppress(StoppedError):
                backfill(dense, computation, start, END, engine=engine)
    assert log_of(dense, computation) == expected
    assert control(dense, computation) == state


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases(), name=st.sampled_from(VIEWS), buckets=st.integers(1, 4))
def test_random_histories_give_the_same_log(
    case: Case, name: str, buckets: int, database: str, computations: dict[str, Computation]
) -> None:
    computation = computations[name]
    end = min(case.pivots[-1], datetime.now(NOW.tzinfo))
    start = end - (35 * DAY if computation.freshness.period == DAY else 4 * DAY)
    load(database, case.history)
    with connect(database, autocommit=True) as conn:
        expected, state = by_postgresql(conn, computation, start, end)
        cleared(conn, computation)
        with duckdb_chunks(database, computation) as engine:
            told = itertools.cycle([(0.7, buckets), (1.0, 1)])
            backfill(conn, computation, start, end, engine=Cuts(engine, told))
        assert log_of(conn, computation) == expected
        assert control(conn, computation) == state
    load(database, dense_history(), batches=1)


def test_a_hot_entity_is_cut_by_time(
    busy: tuple[psycopg.Connection, str], computations: dict[str, Computation]
) -> None:
    """Buckets cannot cut one entity: 2,000 watches of a day by one user."""
    conn, url = busy
    clear(conn)
    for n in range(2_000):
        watch(conn, f"hot {n}", 1, NOW - 2 * DAY + n * timedelta(seconds=43))
    for n in range(60):
        watch(conn, f"cold {n}", 2 + n, NOW - 2 * DAY + n * timedelta(minutes=20))
    for name in ("user_watch_stats.v1", "user_item_progress.v1"):
        computation = computations[name]
        expected, state = by_postgresql(conn, computation)
        cleared(conn, computation)
        with duckdb_chunks(url, computation) as engine:
            engine.pairs = 300_000  # of the 2,000 rows with one another there are millions
            recorded = Cuts(engine, iter(()))
            recorded.cut = engine.cut  # type: ignore[method-assign]
            backfill(conn, computation, START, END, engine=recorded)
        assert log_of(conn, computation) == expected
        assert control(conn, computation) == state
        cut = [chunk for chunk in recorded.chunks if not chunk.is_state]
        assert min(chunk.through - chunk.after for chunk in cut) < 12 * HOUR
        assert len(cut) > 5


def test_a_chunk_that_does_not_fit_is_cut(
    dense: psycopg.Connection,
    database: str,
    computations: dict[str, Computation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computation = computations["user_preferences.v1"]
    expected, state = by_postgresql(dense, computation)
    cleared(dense, computation)
    ask = engine_module.answers

    def limited(session, made, spine):
        # As it fails for real (below), at a size that is quick to come to.
        if spine.num_rows > 400:
            session.execute("SELECT 1").fetchall()
            raise UnavailableError("Out of Memory") from duckdb_error()
        return ask(session, made, spine)

    monkeypatch.setattr(engine_module, "answers", limited)
    with duckdb_chunks(database, computation) as engine:
        told = itertools.cycle([(1.0, 1), (1.0, 1), (0.5, 2), (0.4, 2)])
        recorded = Cuts(engine, told)
        backfill(dense, computation, START, END, engine=recorded)
    assert log_of(dense, computation) == expected
    assert control(dense, computation) == state
    assert len({chunk.buckets for chunk in recorded.chunks}) > 1


def duckdb_error() -> Exception:
    return duckdb.OutOfMemoryException("Out of Memory")


def test_memory_that_suffices_for_nothing_is_said(
    dense: psycopg.Connection, database: str, counts: Computation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise UnavailableError("was ended in DuckDB: Out of Memory") from duckdb_error()

    monkeypatch.setattr(engine_module, "answers", none)
    cleared(dense, counts)
    with (
        duckdb_chunks(database, counts) as engine,
        pytest.raises(UnavailableError, match="Out of Memory"),
    ):
        backfill(dense, counts, START, END, engine=engine)
    assert log_of(dense, counts) == []


def test_history_larger_than_the_memory_is_spilled(
    busy: tuple[psycopg.Connection, str], computations: dict[str, Computation], tmp_path: Any
) -> None:
    conn, url = busy
    conn.execute(
        "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, ingested_at, "
        "duration_ms, progress) SELECT repeat(md5(n::text), 8), mod(n, 5000), mod(n, 99), at, at, "
        "n, 0.5 FROM generate_series(1, 250000) AS g (n) CROSS JOIN LATERAL (SELECT "
        "%s::timestamptz - n * interval '5 seconds' AS at) AS t",
        [NOW],
    )
    # Without a horizon all of it is read.
    computation = computations["user_item_progress.v1"]
    end = NOW - HOUR
    expected, state = by_postgresql(conn, computation, end - HOUR / 4, end)
    cleared(conn, computation)
    limits = Limits(threads=1, memory="60MB", spill=tmp_path)
    with duckdb_chunks(url, computation, limits) as engine:
        backfill(conn, computation, end - HOUR / 4, end, engine=engine)
        assert engine.history is not None
        assert engine.history.rows * 256 > 60_000_000
    assert log_of(conn, computation) == expected
    assert control(conn, computation) == state
    assert list(tmp_path.iterdir()) == []


def test_what_was_left_half_done_is_computed_again_where_history_changed_since(
    busy: tuple[psycopg.Connection, str], counts: Computation
) -> None:
    conn, url = busy
    start = NOW - 3 * DAY
    with duckdb_chunks(url, counts) as engine:
        cuts = Cuts(engine, itertools.cycle([(1.0, 3)]), fails_at=5)
        with pytest.raises(StoppedError):
            backfill(conn, counts, start, END, engine=cuts)
    # The state, and two of three buckets; then it is known that a user watched more.
    assert conn.execute("SELECT count(*) FROM backfill_chunks").fetchone() == (2,)
    for user in range(1, 25):
        watch(conn, f"found later {user}", user, NOW - DAY, NOW - DAY)
    with duckdb_chunks(url, counts) as engine:
        backfill(conn, counts, start, END, engine=engine)
    got, state = log_of(conn, counts), control(conn, counts)
    assert by_postgresql(conn, counts, start) == (got, state)


def test_a_view_that_goes_live_meanwhile_keeps_its_live_rows_only(
    busy: tuple[psycopg.Connection, str], counts: Computation
) -> None:
    """Of the slice that was under way, what lies behind the first live row is taken back."""
    conn, url = busy
    start, live = NOW - 3 * DAY, NOW - DAY
    with duckdb_chunks(url, counts) as engine:
        cuts = Cuts(engine, itertools.cycle([(1.0, 3)]), fails_at=5)
        with pytest.raises(StoppedError):
            backfill(conn, counts, start, END, engine=cuts)
        tick(conn, counts, live)
        told = Cuts(engine, itertools.cycle([(1.0, 3)]))
        done = backfill(conn, counts, start, END, engine=told)
    assert done.end == live
    got = log_of(conn, counts)
    cleared(conn, counts)
    tick(conn, counts, live)
    backfill(conn, counts, start, END)
    wanted = log_of(conn, counts)
    # A live row was created when it was computed, which differs.
    assert [row for row in got if row.endswith(",t)")] == [
        row for row in wanted if row.endswith(",t)")
    ]


def test_again_replaces_all_and_starts_anew(
    busy: tuple[psycopg.Connection, str], counts: Computation
) -> None:
    conn, url = busy
    expected, _ = by_postgresql(conn, counts)
    conn.execute("UPDATE user_watch_stats_v1 SET user_watch_count_7d = 99 WHERE user_id % 2 = 0")
    with duckdb_chunks(url, counts) as engine:
        told = itertools.cycle([(0.5, 3)] * 6 + [(1.0, 1)])
        backfill(conn, counts, START, END, engine=Cuts(engine, told), again=True)
    assert log_of(conn, counts) == expected
    assert coverage(conn, counts).gaps == ()


def test_an_answer_that_postgresql_does_not_give_stops_it(
    dense: psycopg.Connection, database: str, counts: Computation
) -> None:
    text = counts.sql.replace("w.n AS user_watch_count_7d", "to_hex(w.n + 170) AS hex")
    assert text != counts.sql
    column = replace(counts.features[0], name="hex", pg_type="text")
    made = replace(counts, sql=text, features=(column,), version=77)
    dense.execute(
        "CREATE TABLE IF NOT EXISTS user_watch_stats_v77 (user_id bigint, event_timestamp "
        f"timestamptz, created_timestamp timestamptz, hex text, {BACKFILLED} boolean)"
    )
    cleared(dense, made)
    with (
        duckdb_chunks(database, made) as engine,
        pytest.raises(DifferentAnswerError, match=r"not portable after all: user_id \d+ as of"),
    ):
        backfill(dense, made, START, END, engine=engine)
    assert log_of(dense, made) == []
    dense.execute("DROP TABLE user_watch_stats_v77")


@pytest.mark.parametrize("fault", [*Fault, None])
@pytest.mark.parametrize("name", ["user_item_progress.v1", "item_stats.v1"])
def test_a_killed_backfill_goes_on(
    name: str,
    fault: Fault | None,
    dense: psycopg.Connection,
    database: str,
    computations: dict[str, Computation],
) -> None:
    """By SIGKILL at each failpoint in turn, and without one after some tenths of a second."""
    computation = computations[name]
    expected, state = by_postgresql(dense, computation)
    cleared(dense, computation)
    kills = 0
    for count in itertools.count(1):
        armed = f"{fault.value}:{1 + count % 3}" if fault and count < 4 else ""
        process = _FORKSERVER.Process(target=fill, args=(database, computation, START, END, armed))
        process.start()
        process.join(120 if fault or count > 5 else 0.2 * count)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        wait_until_gone(dense)
    assert kills
    assert log_of(dense, computation) == expected
    assert control(dense, computation) == state


def wait_until_gone(conn: psycopg.Connection) -> None:
    """PostgreSQL notices that a client is gone, and ends its transaction."""
    for _ in range(200):
        [[others]] = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'killed backfill'"
        ).fetchall()
        if not others:
            return
        time.sleep(0.05)
    raise AssertionError("A killed backfill's session is still there.")


@pytest.mark.parametrize("expression", ["1 / (w.n - 12)", "ln(w.n - 12)::bigint"])
def test_an_entity_that_fails_is_left_out_alike(
    expression: str, busy: tuple[psycopg.Connection, str], counts: Computation
) -> None:
    """An error in PostgreSQL, and in DuckDB an error, a null or an infinity."""
    conn, url = busy
    text = counts.sql.replace("w.n AS user_watch_count_7d", f"{expression} AS user_watch_count_7d")
    assert text != counts.sql
    made = replace(counts, sql=text)
    expected, state = by_postgresql(conn, made)
    refused = conn.execute("SELECT entity, since FROM backfill_refusals ORDER BY 1, 2").fetchall()
    assert refused
    conn.execute("TRUNCATE backfill_refusals")
    cleared(conn, made)
    with duckdb_chunks(url, made) as engine:
        done = backfill(conn, made, START, END, engine=engine)
    assert done.refused == len({entity[0] for entity, _ in refused})
    assert log_of(conn, made) == expected
    assert control(conn, made) == state
    again = conn.execute("SELECT entity, since FROM backfill_refusals ORDER BY 1, 2").fetchall()
    assert again == refused

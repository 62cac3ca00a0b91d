"""Which engine fills a range, and what happens where the chosen one cannot."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pyarrow.compute as pc
import pytest
from feast.repo_config import load_repo_config
from psycopg import sql

from extensions.asof import Computation, Spine, changes
from extensions.asof.definition_fingerprint import Definition
from extensions.cli.output.versions_output import change_json, change_record
from extensions.database import connect
from extensions.engines import backfill as by_duckdb
from extensions.engines.backfill import pairs_of_memory
from extensions.engines.verdict import Verdict, Versions, record, recorded
from extensions.errors import ConflictError, UnavailableError
from extensions.versions import engine_choice
from extensions.versions.cost_estimate import estimate
from extensions.versions.engine_choice import (
    EngineChoice,
    EngineSettings,
    choose,
    definitions_of,
    fill,
)
from extensions.versions.plan import Change, Severity
from extensions.versions.workload import workload
from tests.asof.dense import NOW, dense_history
from tests.asof.loading import load, watch
from tests.engines.test_backfill import END, START, by_postgresql, cleared, log_of

DAY = timedelta(days=1)
VERSIONS = Versions("18.6", "2.0.0", "0123456789abcdef")
PORTABLE = Verdict("portable", 2_000, VERSIONS)
DIFFERS = Verdict("not portable", 100, VERSIONS, "k 1: x is 1 in PostgreSQL and 2 in DuckDB")


@pytest.fixture(scope="module")
def dense(database: str) -> Iterator[psycopg.Connection]:
    load(database, dense_history(), batches=1)
    with connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The history of a test is too small for DuckDB to be chosen for it."""
    monkeypatch.setattr(engine_choice, "LEAST_ROWS", 10)


@pytest.fixture
def definition(dense: psycopg.Connection, counts: Computation, repo_root: Path) -> Definition:
    cleared(dense, counts)
    dense.execute("TRUNCATE engine_verdicts")
    [found] = definitions_of(dense, {counts.name: counts}, repo_root).values()
    assert found.computation() == counts
    return found


def test_auto_takes_duckdb_for_portable_texts_over_long_ranges() -> None:
    week = NOW - 7 * DAY, NOW
    assert choose("auto", PORTABLE, *week).engine == "duckdb"
    for verdict in (DIFFERS, replace(PORTABLE, outcome="not asked", reason="no time"), None):
        assert choose("auto", verdict, *week).engine == "postgresql"
    assert choose("auto", PORTABLE, NOW - DAY / 2, NOW) == EngineChoice(
        "postgresql", "the range is shorter than a day"
    )
    assert choose("postgresql", PORTABLE, *week).engine == "postgresql"
    assert choose("duckdb", None, *week).engine == "duckdb"


def test_settings_come_from_the_file_and_the_command(repo_root: Path) -> None:
    config = load_repo_config(repo_root, repo_root / "feature_store.yaml")
    settings = EngineSettings.of(config.offline_store)
    assert settings == EngineSettings("auto", "2GB", None)
    over = settings.over("duckdb", "8GB")
    assert (over.engine, over.limits.memory) == ("duckdb", "8GB")
    assert EngineSettings.of(object()) == EngineSettings()


def test_a_portable_text_is_filled_by_duckdb(
    dense: psycopg.Connection, definition: Definition, counts: Computation
) -> None:
    expected, _ = by_postgresql(dense, counts)
    cleared(dense, counts)
    done = fill(dense, definition, START, END)
    assert done.engine.startswith("duckdb ")
    assert log_of(dense, counts) == expected
    assert [each.outcome for each in recorded(dense).values()] == ["portable"]
    cleared(dense, counts)
    assert fill(dense, definition, END - DAY / 2, END).engine == "postgresql"


def test_few_rows_stay_in_postgresql(
    dense: psycopg.Connection, definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "LEAST_ROWS", 1_000_000)
    assert fill(dense, definition, START, END).engine == "postgresql"


def test_a_verdict_of_other_versions_is_asked_again(
    dense: psycopg.Connection, definition: Definition
) -> None:
    record(dense, definition, replace(DIFFERS, versions=VERSIONS))
    assert fill(dense, definition, START, END).engine.startswith("duckdb ")


def test_what_is_not_portable_stays_and_says_why(
    dense: psycopg.Connection, definition: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "verdicts", lambda *_: {definition.fingerprint: DIFFERS})
    assert fill(dense, definition, START, END).engine == "postgresql"
    with pytest.raises(ConflictError, match=r"stays in PostgreSQL, not portable: k 1: x is 1"):
        fill(dense, definition, START, END, settings=EngineSettings("duckdb"), again=True)


def test_postgresql_goes_on_where_duckdb_cannot(
    dense: psycopg.Connection,
    definition: Definition,
    counts: Computation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _ = by_postgresql(dense, counts)
    cleared(dense, counts)

    def cannot(*_: object) -> None:
        raise UnavailableError("Reading history was ended in DuckDB: Out of Memory.")

    monkeypatch.setattr("extensions.engines.backfill.HistoryTables.read", cannot)
    told: list[str] = []
    assert fill(dense, definition, START, END, tell=told.append).engine == "postgresql"
    assert log_of(dense, counts) == expected
    [sentence] = told
    assert sentence == (
        "user_watch_stats.v1: PostgreSQL goes on, since Reading history was ended in DuckDB: Out "
        "of Memory."
    )
    with pytest.raises(UnavailableError):
        fill(dense, definition, START, END, settings=EngineSettings("duckdb"), again=True)


def test_a_text_that_differs_after_all_is_filled_anew(
    dense: psycopg.Connection,
    definition: Definition,
    counts: Computation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What DuckDB wrote is replaced, and the verdict says so from then on."""
    expected, _ = by_postgresql(dense, counts)
    cleared(dense, counts)
    ask = by_duckdb.answers

    def wrong(session, computation, spine):
        table = ask(session, computation, spine).read_all()
        place = table.schema.get_field_index("user_watch_count_7d")
        if spine.num_rows > 60:  # of the state at the beginning nothing is wrong yet
            table = table.set_column(place, "user_watch_count_7d", pc.add(table[place], 1))
        return table.to_batches()

    monkeypatch.setattr(by_duckdb, "answers", wrong)
    told: list[str] = []
    done = fill(dense, definition, START, END, tell=told.append)
    assert done.engine == "postgresql"
    assert log_of(dense, counts) == expected
    assert "since it is not portable after all: user_id " in told[0]
    [held] = recorded(dense).values()
    assert held.outcome == "not portable"
    assert fill(dense, definition, START, END, again=True).engine == "postgresql"


def test_a_plan_says_what_a_backfill_takes(dense: psycopg.Connection, counts: Computation) -> None:
    found = estimate(dense, counts, START, END)
    assert found.rows is not None
    assert found.log_bytes > 60 * found.rows
    last_day = Spine(changes(counts, END - DAY, END).query)
    since, until = END - 8 * DAY, END
    [[pairs]] = dense.execute(
        sql.SQL(
            "SELECT count(*) FROM ({}) AS s INNER JOIN watch_events AS e USING (user_id) "
            "WHERE e.watched_at > %s AND e.watched_at <= %s"
        ).format(last_day.query),
        [since, until],
    ).fetchall()
    assert found.pairs == pytest.approx(pairs * ((END - START) / DAY), rel=0.001)
    assert found.hot_keys == ()
    small = workload(counts, found, PORTABLE, EngineSettings("auto", "1MB"))
    assert small is not None
    assert small.engine == "duckdb"
    assert small.chunks == max(2, -(-found.pairs // pairs_of_memory("1MB"))) + 1
    stays = workload(counts, found, DIFFERS, EngineSettings())
    assert stays is not None
    assert (stays.engine, stays.chunks) == ("postgresql", 11)
    assert stays.why.startswith("not portable")
    assert stays.cpu_hours == round((found.seconds or 0) / 3_600, 4)
    nothing = estimate(dense, counts, END, END)
    assert workload(counts, nothing, PORTABLE, EngineSettings()) is None


def test_a_plan_names_hot_keys(fresh_database: str, counts: Computation) -> None:
    with connect(fresh_database, autocommit=True) as conn:
        for user in range(1, 41):
            watch(conn, f"cold {user}", user, NOW - DAY / 2)
        for n in range(60):
            watch(conn, f"hot {n}", 7, NOW - DAY / 2 - n * timedelta(minutes=1))
        found = estimate(conn, counts, NOW - 9 * DAY, NOW)
    [hot] = found.hot_keys
    assert hot.keys == (7,)
    assert hot.share > 0.9
    work = workload(counts, found, PORTABLE, EngineSettings())
    assert work is not None
    change = Change(
        "user_watch_stats",
        2,
        Severity.NEW_VERSION,
        "new",
        found,
        (),
        (),
        verdict=PORTABLE,
        work=work,
    )
    told = change_record(change)
    assert told["hot keys"].startswith("(7) with 9")
    assert "chunks, at most less than 0.01 CPU hours, about " in told["work"]
    assert change_json(change, [])["work"]["hot_keys"][0]["keys"] == (7,)

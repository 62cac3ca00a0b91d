"""The audit: zero differences where there are none, and each injected difference by its name."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from feast import FeatureStore
from feast.data_source import PushMode
from psycopg import sql

from extensions.asof import Computation, Spine
from extensions.asof.engine import answers
from extensions.bitwise_equality import same
from extensions.engines.bulk import Bulk
from extensions.engines.portability import verdicts
from extensions.versions.engine_choice import EngineSettings, definitions_of
from monitoring.audit import reference_values
from monitoring.audit.skew_audit import AuditReport, audit
from tests.served import ask, logged, wait_for

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def served(
    http: httpx.Client, feast_store: FeatureStore, database: str
) -> Iterator[tuple[datetime, datetime]]:
    """A span of requests, all of them in the log."""
    with psycopg.connect(database, autocommit=True) as conn:
        start = datetime.now(UTC)
        ask(http, 25)
        wait_for(lambda: logged(conn) == 25 * 21)
        yield start, datetime.now(UTC)


def run(
    store: FeatureStore,
    computations: Mapping[str, Computation],
    span: tuple[datetime, datetime],
    **more: Any,
) -> AuditReport:
    found = audit(store, computations, *span, entities=0, **more)
    # That, at least, was wished.
    rest = tuple(one for one in found.left_out if one != "No entities were sampled.")
    return replace(found, left_out=rest)


def by_class(report: AuditReport) -> dict[str, int]:
    names = ("lag", "late", "version", "bug")
    return {n: sum(getattr(f, n) for f in report.features) for n in names}


def test_nothing_differs(
    served: tuple[datetime, datetime],
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
) -> None:
    report = run(feast_store, computations, served)
    assert by_class(report) == {"lag": 0, "late": 0, "version": 0, "bug": 0}
    assert report.requests == 50
    # Per ranking of 20: 4 user features, 2 x 20 of items, 20 of the pair, 3 x 20 transforms.
    assert report.compared == report.equal == 25 * (4 + 40 + 20 + 60) + 25 * 4
    assert len(report.features) == 10
    assert report.left_out == ()


def test_duckdb_recomputes_the_same(
    served: tuple[datetime, datetime],
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
    database: str,
    repo_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of history that is read once; a wrong value is a bug in either engine."""
    monkeypatch.setattr("extensions.engines.portability.SECONDS", 60.0)
    with psycopg.connect(database, autocommit=True) as conn:
        definitions = definitions_of(conn, computations, repo_root)
        judged = verdicts(conn, definitions.values(), seconds=600)
        assert {each.outcome for each in judged.values()} == {"portable"}
    by_postgres: list[str] = []
    recompute = reference_values.recomputed

    def counted(arrow: Any, part: Any, computation: Computation) -> Any:
        by_postgres.append(computation.name)
        return recompute(arrow, part, computation)

    monkeypatch.setattr(reference_values, "recomputed", counted)
    settings = EngineSettings("duckdb", "1GB")
    report = run(feast_store, computations, served, definitions=definitions, settings=settings)
    assert by_class(report) == {"lag": 0, "late": 0, "version": 0, "bug": 0}
    assert report.compared == report.equal == 25 * (4 + 40 + 20 + 60) + 25 * 4
    assert by_postgres == []
    # So few values `auto` leaves where they are.
    run(feast_store, computations, served, definitions=definitions, settings=EngineSettings())
    assert set(by_postgres) == {each.name for each in computations.values()}
    # An answer that is another one is seen.
    ask = Bulk.ask

    def wrong(self: Bulk, spine: Any) -> Any:
        table = ask(self, spine)
        for place, name in enumerate(table.column_names):
            if name == "user_watch_count_7d":
                table = table.set_column(place, name, pc.add(table[name], 1))
        return table

    monkeypatch.setattr(Bulk, "ask", wrong)
    report = run(feast_store, computations, served, definitions=definitions, settings=settings)
    bugs = {each.feature: each.bug for each in report.features if each.bug}
    assert set(bugs) == {"user_watch_stats:user_watch_count_7d"}


def test_a_sample_is_whole_requests(
    served: tuple[datetime, datetime],
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
) -> None:
    report = run(feast_store, computations, served, sample=4)
    assert report.requests == 8
    assert report.compared == 4 * 124 + 4 * 4


LOGS = (
    "user_watch_stats_v1", "user_preferences_v1", "user_habits_v1", "item_profile_v1",
    "item_stats_v1", "user_item_progress_v1",
)  # fmt: skip


@pytest.fixture
def altered(conn: psycopg.Connection, served: tuple[datetime, datetime]) -> Iterator[None]:
    """Puts logs, history and the served log back after a test."""
    tables = ("served_features", "watch_events", *LOGS)
    for table in tables:
        conn.execute(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
    yield
    # As if nothing had been: no note, and the logs' rows written after those of history.
    conn.execute("SET skewless.noted = 'on'")
    for table in tables:
        conn.execute(f"DELETE FROM {table}")
        conn.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")
        conn.execute(f"DROP TABLE kept_{table}")
    conn.execute("RESET skewless.noted")
    conn.execute("TRUNCATE history_changes")


def suppose(conn: psycopg.Connection, mutant: Computation) -> None:
    """What was logged and served is what the mutant computes: as if it had run all along."""
    view, keys = mutant.view, mutant.join_keys
    spine = sql.SQL(
        f"SELECT DISTINCT {', '.join(keys)}, {view}__as_of AS as_of FROM served_features "
        f"WHERE {view}__as_of IS NOT NULL"
    )
    same_keys = " AND ".join(f"t.{key} = a.{key}" for key in keys)
    with conn.transaction():
        conn.execute(
            sql.SQL("CREATE TEMPORARY TABLE supposed ON COMMIT DROP AS {} SELECT * FROM answered")
            .format(answers(mutant, Spine(spine)))
        )  # fmt: skip
        for feature in mutant.features:
            conn.execute(
                f"UPDATE served_features AS t SET {view}__{feature.name} = a.{feature.name} "
                f"FROM supposed AS a WHERE {same_keys} AND t.{view}__as_of = a.as_of"
            )
            conn.execute(
                f"UPDATE {mutant.log_table} AS t SET {feature.name} = a.{feature.name} "
                f"FROM supposed AS a WHERE {same_keys} AND t.event_timestamp = a.as_of"
            )


def mutated(computation: Computation, text: str, instead: str) -> Computation:
    assert computation.sql.count(text) == 1
    return replace(computation, sql=computation.sql.replace(text, instead))


MUTATIONS = {
    "off-by-one window": (
        "user_watch_stats.v1", "interval '168 hours'", "interval '167 hours'",
        "user_watch_stats:user_watch_count_7d",
    ),
    "window that ends too early": (
        "user_watch_stats.v1", "e.watched_at <= s.as_of", "e.watched_at < s.as_of - interval '5 h'",
        "user_watch_stats:user_watch_count_7d",
    ),
    "wrong default": (
        "user_habits.v1", "20::bigint", "0::bigint", "user_habits:user_preferred_hour",
    ),
    "wrong ties": (
        "user_item_progress.v1", "w.watched_at DESC", "w.watched_at",
        "user_item_progress:user_item_watch_progress",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_computation_is_caught_by_name(
    name: str,
    served: tuple[datetime, datetime],
    altered: None,
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
    conn: psycopg.Connection,
) -> None:
    """What a wrong computation logged and served is not what the registered one gives."""
    view, text, instead, feature = MUTATIONS[name]
    if name == "wrong default":
        forget(conn, served[0])
    suppose(conn, mutated(computations[view], text, instead))
    report = run(feast_store, computations, served)
    assert recomputed_otherwise(report) == {feature}
    assert report.bugs > 0
    assert by_class(report) == {"lag": 0, "late": 0, "version": 0, "bug": report.bugs}


def test_a_missing_arrival_filter_is_caught_by_its_own_text(
    served: tuple[datetime, datetime],
    altered: None,
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
    conn: psycopg.Connection,
) -> None:
    """It cannot give again what it gave, once an event has come in late."""
    name = "user_watch_stats.v1"
    mutant = mutated(computations[name], "AND e.ingested_at <= s.as_of", "")
    conn.execute(
        "INSERT INTO watch_events "
        "(event_id, user_id, item_id, watched_at, duration_ms, progress) "
        "SELECT 'late-' || u, u, 1, %s, 1000, 0.5 FROM generate_series(1, 5) AS u",
        [served[0] - timedelta(hours=3)],
    )
    assert run(feast_store, computations, served).bugs == 0
    report = run(feast_store, {**computations, name: mutant}, served)
    assert recomputed_otherwise(report) == {"user_watch_stats:user_watch_count_7d"}
    assert report.bugs > 0


def forget(conn: psycopg.Connection, now: datetime) -> None:
    """Users whose events all left the horizon: what is computed of them is the default."""
    # As if it had always been so.
    conn.execute("SET skewless.noted = 'on'")
    conn.execute(
        "UPDATE watch_events SET watched_at = watched_at - interval '60 days', "
        "ingested_at = ingested_at - interval '60 days' WHERE user_id <= 5"
    )
    conn.execute(
        "UPDATE served_features SET user_habits__version = NULL, user_watch_stats__version = NULL "
        "WHERE user_id > 5"
    )
    for view, value in (("user_watch_stats", "user_watch_count_7d = 0"),
                        ("user_habits", "user_avg_watch_duration_min = 0")):  # fmt: skip
        conn.execute(f"UPDATE {view}_v1 SET {value} WHERE user_id <= 5")
        conn.execute(f"UPDATE served_features SET {view}__{value} WHERE user_id <= 5")
    conn.execute(
        "UPDATE served_features SET user_preferences__version = NULL, "
        "user_item_progress__version = NULL, item_stats__version = NULL"
    )
    conn.execute("RESET skewless.noted")


def recomputed_otherwise(report: AuditReport) -> set[str]:
    return {
        one.feature
        for one in report.features
        for case in one.worst
        if case["why"].startswith("recomputed")
    }


def test_a_value_that_was_changed_on_the_way_is_a_bug(
    served: tuple[datetime, datetime],
    altered: None,
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
    conn: psycopg.Connection,
) -> None:
    """By one bit, in one row; the case says all that is needed to look again."""
    conn.execute(
        "UPDATE served_features SET item_stats__item_popularity_score = "
        "item_stats__item_popularity_score * (1 + 1.2e-7) WHERE ctid = (SELECT ctid FROM "
        "served_features WHERE item_stats__item_popularity_score > 0 LIMIT 1)"
    )
    report = run(feast_store, computations, served)
    assert by_class(report) == {"lag": 0, "late": 0, "version": 0, "bug": 1}
    [one] = [f for f in report.features if f.bug]
    [case] = one.worst
    assert one.feature == "item_stats:item_popularity_score"
    assert case["served"] != case["joined"] == case["recomputed"]
    assert set(case["keys"]) == {"item_id"}
    assert case["version"] == 1
    assert served[0] < case["served_at"] < served[1]


def test_a_wrong_default_is_a_bug(
    served: tuple[datetime, datetime],
    altered: None,
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
    conn: psycopg.Connection,
) -> None:
    conn.execute(
        "UPDATE served_features SET user_habits__user_preferred_hour = 21 "
        "WHERE user_habits__as_of IS NULL AND user_habits__version IS NOT NULL"
    )
    report = run(feast_store, computations, served)
    assert {f.feature for f in report.features if f.bug} == {"user_habits:user_preferred_hour"}
    [one] = [f for f in report.features if f.bug]
    assert "default" in one.worst[0]["why"]


def users(conn: psycopg.Connection) -> tuple[int, int]:
    """One that is known online and one that is not, both of them asked for."""
    row = conn.execute(
        "SELECT min(user_id) FILTER (WHERE user_watch_stats__as_of IS NOT NULL), "
        "min(user_id) FILTER (WHERE user_watch_stats__as_of IS NULL) "
        "FROM served_features WHERE row_number = 0"
    ).fetchone()
    assert row is not None
    return row


def newer(conn: psycopg.Connection, user: int, at: datetime, created: datetime) -> None:
    conn.execute("INSERT INTO user_watch_stats_v1 VALUES (%s, %s, %s, 999)", [user, at, created])


def test_what_was_logged_and_not_yet_online_is_lag(
    served: tuple[datetime, datetime],
    altered: None,
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
    conn: psycopg.Connection,
) -> None:
    before = served[0] - timedelta(milliseconds=20)
    known, unknown = users(conn)
    newer(conn, known, before, before + timedelta(milliseconds=5))
    newer(conn, unknown, before, before)  # it was served as a default
    report = run(feast_store, computations, served)
    asked = conn.execute(
        "SELECT count(*) FROM served_features WHERE user_id IN (%s, %s) AND row_number = 0",
        [known, unknown],
    ).fetchone()
    assert asked is not None
    assert by_class(report) == {"lag": asked[0], "late": 0, "version": 0, "bug": 0}
    [one] = [f for f in report.features if f.lag]
    assert one.feature == "user_watch_stats:user_watch_count_7d"
    assert 0.01 < one.longest_lag_seconds < 60


def test_what_was_published_later_or_dated_back_is_late(
    served: tuple[datetime, datetime],
    altered: None,
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
    conn: psycopg.Connection,
) -> None:
    """A push whose created time lies before the requests: the join finds what was not there."""
    before = served[0] - timedelta(milliseconds=20)
    row = {
        "user_id": [users(conn)[0]], "user_watch_count_7d": [999],
        "event_timestamp": [before], "created_timestamp": [before],
    }  # fmt: skip
    feast_store.push("user_watch_stats_push", pd.DataFrame(row), to=PushMode.OFFLINE)
    report = run(feast_store, computations, served)
    found = by_class(report)
    assert found["late"] > 0
    assert found == {"lag": 0, "late": found["late"], "version": 0, "bug": 0}


@pytest.mark.parametrize(("ago", "compared"), [(timedelta(seconds=5), False), (HOUR, True)])
def test_a_transform_that_moved_since_is_left_out_and_said(
    ago: timedelta,
    compared: bool,
    served: tuple[datetime, datetime],
    feast_store: FeatureStore,
    computations: Mapping[str, Computation],
    conn: psycopg.Connection,
) -> None:
    """A row does not say which version of a transform made it: until a minute after a move."""
    conn.execute(
        "INSERT INTO promotions (view_name, kind, from_version, to_version, moved_at, moved_by) "
        "VALUES ('ranking_signals', 'promote', 2, 1, %s, 'test')",
        [served[0] - ago],
    )
    try:
        report = run(feast_store, computations, served)
    finally:
        conn.execute("ALTER TABLE promotions DISABLE TRIGGER USER")
        conn.execute("DELETE FROM promotions WHERE moved_by = 'test'")
        conn.execute("ALTER TABLE promotions ENABLE TRIGGER USER")
    transforms = [f for f in report.features if f.feature.startswith("ranking_signals:")]
    assert len(transforms) == (3 if compared else 0)
    assert len(report.left_out) == (0 if compared else 3)
    assert all("after its last move" in sentence for sentence in report.left_out)
    assert report.bugs == 0


def test_bits() -> None:
    floats = pa.array([0.1, float("nan"), 0.0, None, 1.0], pa.float32())
    other = pa.array(
        [np.nextafter(np.float32(0.1), 1), float("nan"), -0.0, None, None], pa.float32()
    )
    assert same(floats, other).tolist() == [False, True, True, True, False]
    lists = pa.array([[0.1, 0.2], [], None, [1.0], [1.0, 2.0]], pa.list_(pa.float32()))
    more = pa.array([[0.1, 0.2], [], None, [1.0, 2.0], [1.0, 3.0]], pa.list_(pa.float32()))
    assert same(lists, more).tolist() == [True, True, True, False, False]
    assert same(pa.array([1, 2]), pa.array([1, 3])).tolist() == [True, False]
    assert same(pa.array(["a", None]), pa.array(["a", "b"])).tolist() == [True, False]
    assert same(pa.array([1]), pa.array([1.0])).tolist() == [False]

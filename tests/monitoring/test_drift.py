"""Drift checks inside PostgreSQL: verdicts, once per window, errors that are not drift."""

import dataclasses
from collections.abc import Iterator

import psycopg
import pytest

from benchmarks import drift_platform as platform
from benchmarks.drift_platform import DRIFTS, HOUR, SERVICE, START, STATIONARY
from extensions.database import connect
from extensions.errors import SkewlessError
from monitoring.checks import drift_check, drift_store
from monitoring.checks.serving_log_window import Window, whole_windows
from monitoring.verdicts import CRITICAL, ERROR, INSUFFICIENT, OK, WARNING

HOURS = {name: 10 + place for place, name in enumerate(DRIFTS)}
STALE, DEFAULTS, FEW, QUIET = 30, 31, 32, 33


@pytest.fixture(scope="module")
def checked(database: str) -> Iterator[psycopg.Connection]:
    """Windows of every kind in the served log, one per hour."""
    with connect(database, autocommit=True) as conn:
        drift_store.bind(conn, platform.baseline())
        platform.log_tastes(conn, STATIONARY, 0)
        for hour in range(3):
            platform.serve(conn, database, STATIONARY, 1000, hour, seed=hour)
        for seed, (name, world) in enumerate(DRIFTS.items()):
            platform.serve(conn, database, world, 1000, HOURS[name], seed=100 + seed)
        stale = dataclasses.replace(STATIONARY, stale=0.4)
        defaults = dataclasses.replace(STATIONARY, defaults=0.5)
        platform.serve(conn, database, stale, 1000, STALE, seed=200)
        platform.serve(conn, database, defaults, 1000, DEFAULTS, seed=201)
        platform.serve(conn, database, STATIONARY, 120, FEW, seed=202)
        yield conn


def at(hour: int) -> Window:
    return Window(SERVICE, START + hour * HOUR, START + (hour + 1) * HOUR)


def check(url: str, hour: int) -> drift_store.Run:
    run = drift_check.check(url, at(hour))
    assert run.error is None
    return run


@pytest.mark.parametrize("hour", [0, 1, 2])
def test_a_stationary_window_is_ok(database: str, checked: psycopg.Connection, hour: int) -> None:
    run = check(database, hour)
    assert run.verdict == OK, run.findings[0]
    assert run.requests == 1000
    # Something was compared for every feature and view.
    assert {one.feature for one in run.findings} >= {
        *(f.label for f in platform.FEATURES), *platform.VIEWS,
    }  # fmt: skip
    assert {one.statistic for one in run.findings} >= {
        "psi", "mean", "sd", "js", "unseen", "nulls", "defaults", "stale",
        "dimension_mean", "dimension_sd", "anchors",
    }  # fmt: skip


EXPECTED = {
    "mean +10 %": ("item_stats:score", "psi"),
    "count +25 %": ("user_stats:count", "mean"),
    "sd x 1.5": ("item_stats:score", "sd"),
    "drama -> unknown": ("item_stats:genre", "unseen"),
    "nulls 0 -> 5 %": ("item_stats:score", "nulls"),
    "one dimension dead": ("user_taste:taste", "dimension_sd"),
    "embedding rotated": ("user_taste:taste", "anchors"),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_each_drift_is_named(database: str, checked: psycopg.Connection, name: str) -> None:
    if DRIFTS[name].rotation:
        platform.log_tastes(checked, DRIFTS[name], HOURS[name])
    run = check(database, HOURS[name])
    if DRIFTS[name].rotation:
        platform.log_tastes(checked, STATIONARY, HOURS[name] + 1)
    feature, statistic = EXPECTED[name]
    bad = {(f.feature, f.statistic) for f in run.findings if f.verdict in (WARNING, CRITICAL)}
    assert (feature, statistic) in bad
    assert {one for one, _ in bad} == {feature}
    assert run.verdict in (WARNING, CRITICAL)


def test_stale_rows_and_defaults_are_told_from_drift(
    database: str, checked: psycopg.Connection
) -> None:
    for hour, statistic in ((STALE, "stale"), (DEFAULTS, "defaults")):
        run = check(database, hour)
        bad = {(f.feature, f.statistic) for f in run.findings if f.verdict != OK}
        assert bad == {(view, statistic) for view in platform.VIEWS}
        assert run.verdict == CRITICAL


def test_too_few_rows_are_a_verdict_of_their_own(
    database: str, checked: psycopg.Connection
) -> None:
    assert check(database, FEW).verdict == INSUFFICIENT
    nothing = check(database, QUIET)
    assert nothing.verdict == INSUFFICIENT
    assert nothing.requests == 0


def test_a_window_is_compared_once(database: str, checked: psycopg.Connection) -> None:
    first = check(database, 1)
    platform.serve(checked, database, DRIFTS["drama -> unknown"], 3000, 1, seed=300)
    second = check(database, 1)
    assert second.again
    assert second.findings == first.findings
    assert drift_check.check(database, at(1), again=True).verdict == CRITICAL
    row = checked.execute(
        "SELECT count(*) FROM drift_runs WHERE window_start = %s", [at(1).start]
    ).fetchone()
    assert row == (1,)


def test_an_error_is_never_drift_and_is_tried_again(
    database: str, checked: psycopg.Connection
) -> None:
    """Vectors of another length cannot be compared: that is no verdict about their values."""
    window = at(40)
    platform.serve(checked, database, STATIONARY, 1000, 40, seed=400)
    checked.execute(
        "UPDATE served_features SET user_taste__taste = user_taste__taste[1:16] "
        "WHERE served_at >= %s AND served_at < %s", [window.start, window.end]
    )  # fmt: skip
    run = drift_check.check(database, window)
    assert run.verdict == ERROR
    assert "16 to 16 dimensions" in str(run.error)
    checked.execute(
        "UPDATE served_features SET user_taste__taste = user_taste__taste || user_taste__taste "
        "WHERE served_at >= %s AND served_at < %s", [window.start, window.end]
    )  # fmt: skip
    again = drift_check.check(database, window)
    assert not again.again
    assert again.verdict != ERROR


def test_what_is_no_number_counts_as_missing(database: str, checked: psycopg.Connection) -> None:
    """NaN and infinities, in numbers and in vectors: a mean of them would say nothing."""
    window = at(50)
    platform.serve(checked, database, STATIONARY, 1000, 50, seed=500)
    for column, value in (
        ("item_stats__score", "'Infinity'"),
        ("user_stats__mean_minutes", "'NaN'"),
        ("user_taste__taste", "user_taste__taste[1:31] || '{-Infinity}'::real[]"),
        ("user_taste__taste", "'{NaN}'::real[] || user_taste__taste[2:32]"),
    ):
        checked.execute(
            f"UPDATE served_features SET {column} = {value} WHERE served_at >= %s "
            f"AND served_at < %s AND abs(hashtext(request_id::text || {len(value)})) %% 10 = 0",
            [window.start, window.end],
        )
    run = drift_check.check(database, window)
    assert run.error is None
    bad = {(f.feature, f.statistic) for f in run.findings if f.verdict != OK}
    assert bad == {
        (feature, "nulls")
        for feature in ("item_stats:score", "user_stats:mean_minutes", "user_taste:taste")
    }
    shares = {f.feature: f.effect for f in run.findings if f.statistic == "nulls"}
    assert 0.07 < shares["item_stats:score"] < 0.13
    assert 0.15 < shares["user_taste:taste"] < 0.24


@pytest.mark.parametrize("kept", [0, 1])
def test_a_window_with_next_to_no_values_is_judged(
    database: str, checked: psycopg.Connection, kept: int
) -> None:
    window = at(60 + kept)
    platform.serve(checked, database, STATIONARY, 1000, 60 + kept, seed=600)
    checked.execute(
        "UPDATE served_features SET item_stats__score = 'NaN', item_stats__genre = NULL, "
        "user_taste__taste = NULL, user_stats__count = NULL "
        "WHERE served_at >= %(start)s AND served_at < %(end)s AND request_id NOT IN ("
        "SELECT request_id FROM served_features WHERE served_at >= %(start)s "
        "AND served_at < %(end)s ORDER BY served_at LIMIT %(kept)s)",
        {"start": window.start, "end": window.end, "kept": kept},
    )
    run = drift_check.check(database, window)
    assert run.error is None
    bad = {(f.feature, f.statistic) for f in run.findings if f.verdict != OK}
    assert bad == {
        (feature, "nulls")
        for feature in (
            "item_stats:score", "item_stats:genre", "user_taste:taste", "user_stats:count",
        )
    }  # fmt: skip


def test_two_checks_at_once_exclude_each_other(database: str, checked: psycopg.Connection) -> None:
    with (
        drift_store.alone(checked, SERVICE),
        pytest.raises(drift_store.CheckedElsewhereError, match="Another"),
    ):
        drift_check.check(database, at(2))


def test_a_window_that_has_not_ended_is_refused(database: str, checked: psycopg.Connection) -> None:
    with pytest.raises(SkewlessError, match="not come yet"):
        drift_check.check(database, Window(SERVICE, START, START.replace(year=2100)))
    with pytest.raises(SkewlessError, match="no baseline"):
        drift_check.check(database, Window("nobody", START, START + HOUR))


def test_a_feature_that_left_the_service_is_a_matter_of_schema(
    database: str, checked: psycopg.Connection
) -> None:
    found = platform.baseline()
    gone = dataclasses.replace(
        found.features[4],
        feature=dataclasses.replace(found.features[4].feature, name="was_there"),
    )
    other = dataclasses.replace(found, features=(*found.features, gone))
    drift_store.bind(checked, other)
    try:
        run = drift_check.check(database, at(2))
    finally:
        drift_store.bind(checked, found)
    assert (run.verdict, run.findings[0].statistic) == (CRITICAL, "schema")
    assert run.findings[0].feature == "item_stats:was_there"


def test_nothing_is_left_in_the_database(database: str, checked: psycopg.Connection) -> None:
    check(database, 2)
    row = checked.execute("SELECT count(*) FROM pg_views WHERE viewname LIKE 'drift%'").fetchone()
    assert row == (0,)


def test_windows_lie_on_the_epoch() -> None:
    now = START.replace(hour=5, minute=17)
    [last] = whole_windows("s", HOUR, None, now)
    assert (last.start.hour, last.end.hour) == (4, 5)
    behind = whole_windows("s", HOUR, START.replace(hour=2), now)
    assert [one.start.hour for one in behind] == [2, 3, 4]
    assert whole_windows("s", HOUR, START.replace(hour=5), now) == []


def test_missing_requests_are_seen_against_the_same_hour_of_other_days(
    fresh_database: str,
) -> None:
    with connect(fresh_database, autocommit=True) as conn:
        identity = drift_store.bind(conn, platform.baseline())
        for day, requests in enumerate((900, 1000, 1100)):
            start = START + 24 * HOUR * day
            drift_store.record(
                conn, drift_store.Run(SERVICE, start, start + HOUR, identity, OK, requests, ())
            )
        window = at(72)
        assert drift_store.usual_requests(conn, window) == 1000
        assert drift_store.usual_requests(conn, at(73)) is None
        run = drift_check.check(fresh_database, window)
        assert next((f.statistic, f.verdict) for f in run.findings) == ("volume", CRITICAL)

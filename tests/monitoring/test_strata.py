"""Like hours with like: an ordinary day is quiet hour by hour, and a change in an hour is seen."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from feast.types import Float64, Int32, Int64, UnixTimestamp

from benchmarks import drift_hours
from extensions.database import connect, connect_arrow
from extensions.stores.offline.writes import serving_log_table
from monitoring.baseline import Baseline, Feature, baseline_of
from monitoring.baselines.stratified_baselines import HOUR, HOUR_OF_WEEK, WEEKDAY, conditioned
from monitoring.checks import drift_check, drift_store
from monitoring.checks.serving_log_window import Window
from monitoring.reports.drift_report import report
from monitoring.verdicts import CRITICAL, OK, UNWATCHED, WARNING

VIEW, SERVICE = "signals", "hours"
# A Monday.
DAY = datetime(2026, 5, 4, tzinfo=UTC)
HOUR_LONG = timedelta(hours=1)


def closeness(hours: Any, rng: np.random.Generator) -> Any:
    """How near a request's hour is to the hour that its user likes, mostly the evening."""
    liked = np.where(rng.random(len(hours)) < 0.7, rng.integers(17, 24, len(hours)),
                     rng.integers(0, 24, len(hours)))  # fmt: skip
    apart = np.abs(hours - liked)
    return 1 - np.minimum(apart, 24 - apart) / 12


def training(
    rng: np.random.Generator, hours: Any, days: int = 14, *, now: bool = False
) -> Baseline:
    """Labels at these hours; with ``now`` of one moment, and the hour a request's field."""
    n = len(hours)
    at = [DAY - timedelta(days=int(day) + 1, hours=-int(hour)) for day, hour in
          zip(rng.integers(0, days, n), hours, strict=True)]  # fmt: skip
    table = pa.table(
        {
            "event_timestamp": pa.array([DAY] * n if now else at, pa.timestamp("us", "UTC")),
            "asked_hour": pa.array(hours),
            "closeness": closeness(hours, rng),
            "score": rng.normal(10, 2, n),
        }
    )
    fields = ("asked_hour",) if now else ()
    features = [
        Feature(VIEW, "closeness", "DOUBLE", 0, (), ("habits",), fields),
        Feature(VIEW, "score", "DOUBLE", 0, ()),
    ]
    return baseline_of(SERVICE, {}, "none", table, features, {})


def serve(
    conn: psycopg.Connection, url: str, hour: int, rng: np.random.Generator, *,
    shift: int = 0, score: float = 10.0,
) -> Window:  # fmt: skip
    """1,000 requests in an hour of the day after; ``shift``: of users who like other hours."""
    n, start = 1_000, DAY + hour * HOUR_LONG
    moments = np.datetime64(start.replace(tzinfo=None), "us") + rng.integers(
        0, 3_600_000_000, n
    ).astype("timedelta64[us]")
    types = {
        f"{VIEW}__closeness": Float64, f"{VIEW}__score": Float64, "request__asked_hour": Int64,
        f"{VIEW}__version": Int32, f"{VIEW}__as_of": UnixTimestamp,
    }  # fmt: skip
    serving_log_table.ensure_columns(conn, types)
    conn.execute("ALTER TABLE served_features ADD COLUMN IF NOT EXISTS signals__stale boolean")
    serving_log_table.ensure_partitions(conn, start, start)
    asked = np.full(n, hour % 24)
    rows = pa.table(
        {
            "served_at": pa.array(moments, pa.timestamp("us", "UTC")),
            "service": [SERVICE] * n,
            "request_id": rng.integers(-(1 << 62), 1 << 62, n),
            "row_number": np.zeros(n, np.int32),
            f"{VIEW}__closeness": closeness((asked + shift) % 24, rng),
            f"{VIEW}__score": rng.normal(score, 2, n),
            f"{VIEW}__version": np.ones(n, np.int32),
            f"{VIEW}__as_of": pa.array(moments, pa.timestamp("us", "UTC")),
            f"{VIEW}__stale": np.zeros(n, np.bool_),
            "request__asked_hour": asked,
        }
    )
    with connect_arrow(url) as arrow:
        serving_log_table.append_rows(arrow, rows)
    return Window(SERVICE, start, start + HOUR_LONG)


@pytest.mark.parametrize("now", [False, True], ids=["by label time", "by request field"])
def test_an_ordinary_day_is_quiet_hour_by_hour(fresh_database: str, now: bool) -> None:
    rng = np.random.default_rng(1)
    base = training(rng, rng.integers(0, 24, 5_000), now=now)
    strata = {one.feature.name: one.content.get("strata", {}).get("by") for one in base.features}
    assert strata == {"closeness": "request:asked_hour" if now else HOUR, "score": None}
    with connect(fresh_database, autocommit=True) as conn:
        drift_store.bind(conn, base)
        windows = [serve(conn, fresh_database, hour, rng) for hour in range(24)]
        runs = [drift_check.check(fresh_database, one) for one in windows]
        assert [run.error for run in runs] == [None] * 24
        assert [run.verdict for run in runs] == [OK] * 24
        assert all(
            {f.statistic for f in run.findings if f.feature.endswith(":closeness")} >= {"psi", "sd"}
            for run in runs
        )
        moved = drift_check.check(fresh_database, serve(conn, fresh_database, 34, rng, shift=9))
    assert moved.verdict == CRITICAL
    assert {f.feature for f in moved.findings if f.verdict == CRITICAL} == {f"{VIEW}:closeness"}


def test_hours_that_the_training_set_lacks_are_not_watched_and_said(fresh_database: str) -> None:
    rng = np.random.default_rng(2)
    base = training(rng, rng.integers(8, 22, 5_000))
    with connect(fresh_database, autocommit=True) as conn:
        drift_store.bind(conn, base)
        night = drift_check.check(fresh_database, serve(conn, fresh_database, 3, rng))
        assert night.verdict == OK
        [said] = [f for f in night.findings if f.verdict == UNWATCHED]
        assert said.feature == f"{VIEW}:closeness"
        assert "not watched here" in str(said.because)
        assert "not watched here" in report(conn, [SERVICE])
        # What follows no hour is watched at night as well.
        worse = drift_check.check(fresh_database, serve(conn, fresh_database, 4, rng, score=12.0))
    assert {f.feature for f in worse.findings if f.verdict in (WARNING, CRITICAL)} == {
        f"{VIEW}:score"
    }


def test_what_a_feature_follows_is_found() -> None:
    rng = np.random.default_rng(3)
    n = 6_000
    hours, days = rng.integers(0, 24, n), rng.integers(0, 28, n)
    at = [DAY + timedelta(days=int(d), hours=int(h)) for d, h in zip(days, hours, strict=True)]
    columns = {
        "nothing": ("DOUBLE", rng.normal(size=n)),
        "by_hour": ("STRING", np.where(hours > 16, "evening", "day")),
        "by_weekday": ("INT64", np.where(days % 7 > 4, rng.poisson(8, n), rng.poisson(2, n))),
        "by_both": ("DOUBLE", rng.normal(size=n) + (hours > 16) + 2 * (days % 7 > 4)),
        "spread": ("DOUBLE_LIST", None),
        "vector": ("DOUBLE_LIST", None),
    }
    vectors = rng.normal(size=(n, 4)) + np.array([0, 1, 0, 0]) * (hours > 16)[:, None]
    spread = rng.normal(size=(n, 4)) * np.where(days % 7 > 4, 1.5, 1.0)[:, None]
    table = pa.table(
        {
            "event_timestamp": pa.array(at, pa.timestamp("us", "UTC")),
            **{k: v for k, (_, v) in columns.items() if v is not None},
            "spread": pa.array(spread.tolist()),
            "vector": pa.array(vectors.tolist()),
        }
    )
    features = [Feature(VIEW, name, dtype, 0, ()) for name, (dtype, _) in columns.items()]
    base = baseline_of(SERVICE, {}, "none", table, features, {})
    assert Baseline.from_json(eval_json(base.to_json())).identity == base.identity
    held = {one.feature.name: one for one in base.features}
    found = {name: one.content.get("strata", {}).get("by") for name, one in held.items()}
    assert found == {
        "nothing": None, "by_hour": HOUR, "by_weekday": WEEKDAY, "by_both": HOUR_OF_WEEK,
        "spread": WEEKDAY, "vector": HOUR,
    }  # fmt: skip
    # A mixture of hours is the rows of these hours, weighted as the window has them.
    mixed = conditioned(held["vector"], {"20": 300, "3": 100})
    assert not isinstance(mixed, str)
    expected = 0.75 * vectors[hours == 20].mean(axis=0) + 0.25 * vectors[hours == 3].mean(axis=0)
    np.testing.assert_allclose(mixed.content["means"], expected)
    mixed = conditioned(held["by_hour"], {"20": 300, "3": 100})
    assert not isinstance(mixed, str)
    assert mixed.content["frequencies"] == pytest.approx({"evening": 0.75, "day": 0.25})
    everything = conditioned(held["by_hour"], {str(h): int((hours == h).sum()) for h in range(24)})
    assert not isinstance(everything, str)
    assert everything.rows == n
    weekend = conditioned(held["by_weekday"], {"6": 500})
    assert not isinstance(weekend, str)
    assert weekend.content["mean"] == pytest.approx(columns["by_weekday"][1][days % 7 == 5].mean())


def test_an_ordinary_week_of_all_kinds_is_quiet() -> None:
    """At most 0.5 % of windows: of 60, more than 2 never (p = 0.003)."""
    rng = np.random.default_rng(4)
    alarms: list[set[str]] = []
    for _ in range(6):
        watched = drift_hours.Watched(rng)
        for _ in range(10):
            day, hour = int(rng.integers(7)), int(rng.integers(24))
            hours = np.full(drift_hours.ROWS, hour)
            live = drift_hours.draw(drift_hours.ORDINARY, rng, hours, hours * 0 + (day > 4))
            bad, _unwatched = watched.bad(live, hour, day)
            alarms += [bad] * bool(bad)
    assert len(alarms) <= 2, alarms


def eval_json(text: str) -> Any:
    import json  # noqa: PLC0415

    return json.loads(text)

"""The report opens without a network; calibration and the command line around it all."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
from feast import FeatureStore
from typer.testing import CliRunner

from benchmarks import drift_platform as platform
from benchmarks.drift_platform import DRIFTS, GENRES, HOUR, SERVICE, START, STATIONARY
from extensions import addresses
from extensions.cli.app import app
from extensions.cli.duration_option import length_of
from extensions.database import connect
from extensions.errors import InputError, SkewlessError
from extensions.exit_codes import ATTENTION, WRONG
from extensions.stores.offline.writes.serving_log_table import prune
from extensions.training import read_labels, take
from monitoring.alerts import incidents
from monitoring.baseline import Feature, FeatureBaseline, features_of
from monitoring.checks import drift_check, drift_store
from monitoring.checks.calibration import calibrate
from monitoring.checks.serving_log_window import Window
from monitoring.reports.distribution_charts import distribution_chart
from monitoring.reports.drift_report import report
from monitoring.verdicts import Floor
from tests.reports.page import Page
from tests.served import ask, logged, wait_for


@pytest.fixture(scope="module")
def seven_hours(database: str) -> Iterator[psycopg.Connection]:
    with connect(database, autocommit=True) as conn:
        drift_store.bind(conn, platform.baseline())
        for hour in range(7):
            platform.serve(conn, database, STATIONARY, 800, hour, seed=hour)
        yield conn


def test_the_report_is_one_file_that_fetches_nothing(
    seven_hours: psycopg.Connection, database: str
) -> None:
    conn = seven_hours
    platform.serve(conn, database, DRIFTS["drama -> unknown"], 800, 7, seed=7)
    for hour in (5, 6, 7):
        start = START + hour * HOUR
        run = drift_check.check(database, Window(SERVICE, start, start + HOUR))
        incidents.follow(conn, run, ())
    page = report(conn, [SERVICE])
    parsed = Page(page)
    assert (parsed.open, parsed.wrong) == ([], [])
    assert set(parsed.fetched) == {f"#{SERVICE}"}
    assert not re.findall(r"https?://|@import|url\(", page)
    for feature in platform.FEATURES:
        assert feature.label in page
    for said in ("Causes: what changed", "new categories unseen", "Incidents", "How to read this"):
        assert said in parsed.text
    # Each has its distribution and its course over the windows.
    assert page.count("<svg") >= 2 * len(platform.FEATURES)
    # Every category that is drawn has its name and both shares.
    genres = page[page.index("genre: share of rows by category</figcaption>") :]
    drawn = Page(genres[genres.index("<svg") : genres.index("</svg>") + 6])
    for name in (*GENRES, "unknown (not in training)"):
        assert name in drawn.words
    assert "0 %" in drawn.words
    # No figure has more digits than anybody reads.
    figures = re.findall(r"(?<![\w.,])\d[\d,]*\.\d+(?![\w.])", parsed.text.split("How to read")[0])
    assert len(figures) > 50
    assert not [f for f in figures if len(f.replace(".", "").replace(",", "").strip("0")) > 5]
    assert len(page) < 500_000


def test_names_and_categories_are_text() -> None:
    """What comes from data or definitions is never markup."""
    hostile = "<script>alert(1)</script>"
    feature = FeatureBaseline(
        Feature(hostile, hostile, "STRING", 1, ("user_id",)), 100, 0.0, None,
        {"frequencies": {hostile: 1.0}, "other": 0.0, "counted": 100},
    )  # fmt: skip
    page = Page(distribution_chart(feature, {"counts": {hostile: 5, "</svg>": 5}, "other": 0}))
    assert (page.open, page.wrong, page.fetched) == ([], [], [])
    assert "script" not in page.tags
    assert hostile in page.text


def test_rare_categories_are_drawn_together() -> None:
    names = {f"c{i:03}": 1 / 40 for i in range(40)}
    feature = FeatureBaseline(
        Feature("v", "f", "STRING", 1, ("user_id",)), 100, 0.0, None,
        {"frequencies": names, "other": 0.0, "counted": 100},
    )  # fmt: skip
    page = Page(distribution_chart(feature, {"counts": dict.fromkeys(names, 1), "other": 0}))
    assert "all other categories" in page.words
    assert page.words.count("62.5 %") == 2  # 25 of 40, of both sides


def test_calibration_raises_only_what_ordinary_windows_reach(
    seven_hours: psycopg.Connection, database: str
) -> None:
    until = START + 7 * HOUR
    found = calibrate(database, SERVICE, HOUR, START, until)
    assert found.windows == 7
    for one in found.proposals:
        if one.largest * 1.25 <= one.floor.warning:
            assert not one.raised
        else:
            assert one.proposed.warning >= one.largest * 1.25 - 1e-5
    ranges = {one.feature: one for one in found.ranges}
    score = ranges["item_stats:score"]
    assert score.mean is not None
    assert score.mean[0] < 10 < score.mean[1]
    assert score.mean[1] - score.mean[0] < 2
    assert score.minimum is not None
    assert score.minimum < 5
    genre = ranges["item_stats:genre"].top
    assert genre is not None
    assert next(iter(genre)) == "drama"
    assert sum(genre.values()) == pytest.approx(1)
    # Nothing was recorded by it.
    row = seven_hours.execute("SELECT count(*) FROM drift_floors").fetchone()
    assert row == (0,)
    with pytest.raises(SkewlessError, match="longer span"):
        calibrate(database, SERVICE, HOUR, START, START + 2 * HOUR)


def test_calibrated_floors_are_used(seven_hours: psycopg.Connection, database: str) -> None:
    window = Window(SERVICE, START + 9 * HOUR, START + 10 * HOUR)
    platform.serve(seven_hours, database, DRIFTS["sd x 1.5"], 800, 9, seed=9)
    found = drift_check.check(database, window, again=True)
    bad = {f.statistic: f for f in found.findings if f.verdict != "ok"}
    assert set(bad) == {"psi", "sd"}
    floors = {("item_stats:score", name): Floor(5.0, 9.0) for name in bad}
    drift_store.set_floors(seven_hours, SERVICE, floors)
    quiet = drift_check.check(database, window, again=True)
    seven_hours.execute("DELETE FROM drift_floors")
    assert quiet.verdict == "ok"


def test_from_training_set_to_verdict_by_the_command_line(
    http: httpx.Client,
    feast_store: FeatureStore,
    database: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real services: a training set's baseline, served windows, report, metrics, audit."""
    monkeypatch.setenv(addresses.POSTGRES_VARIABLE, database)
    monkeypatch.setenv(addresses.REDIS_VARIABLE, redis_url)
    labels = tmp_path / "labels.csv"
    rng = np.random.default_rng(1)
    with connect(database, autocommit=True) as conn:
        row = conn.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        moment = row[0].isoformat()
    lines = [
        f"{1 + rng.integers(40)},{1 + rng.integers(60)},{rng.integers(24)},{moment}"
        for _ in range(400)
    ]
    labels.write_text("user_id,item_id,request_hour,event_timestamp\n" + "\n".join(lines))
    taken = take(feast_store, "ranking", read_labels(labels), tmp_path / "train.parquet")

    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == code, (result.output, result.exception)
        text = result.stdout.strip()
        return json.loads(text) if text else None

    [made] = run("drift", "baseline", "ranking", "--training-set", str(taken.manifest_path))
    assert made["features"] == 10
    assert made["left_out"] is None

    with connect(database, autocommit=True) as conn:
        before = logged(conn)
        ask(http, 30)
        wait_for(lambda: logged(conn) == before + 30 * 21)
        # The hour is not over: move what was served to the last one.
        conn.execute(
            "UPDATE served_features SET served_at = date_trunc('hour', now()) - interval '30 min' "
            "WHERE service = 'ranking'"
        )
    metrics = tmp_path / "skewless.prom"
    [few] = run("drift", "check", "ranking", "--least-rows", "5000", "--metrics-file", str(metrics))
    assert few["verdict"] == "insufficient"
    assert few["requests"] == 30
    assert 'skewless_drift_verdict{service="ranking"} -1.0' in metrics.read_text()
    # With a bound that so few rows reach, something of so small a world may well have drifted.
    [checked] = run("drift", "check", "ranking", "--least-rows", "25", "--again", code=_any())
    assert {f["feature"] for f in checked["findings"]} >= {
        "item_profile:item_genre", "user_preferences:user_genre_preferences", "user_habits",
        "ranking_signals:user_item_affinity",
    }  # fmt: skip
    assert checked["error"] is None
    out = tmp_path / "drift.html"
    run_plain = CliRunner().invoke(app, ["drift", "report", "--out", str(out)])
    assert run_plain.exit_code == 0
    assert "item_profile:item_genre" in out.read_text()
    [results] = run("drift", "report", "ranking")
    assert results["service"] == "ranking"
    assert results["results"]
    wrong = CliRunner().invoke(app, ["drift", "check", "--window", "soon"])
    assert isinstance(wrong.exception, InputError)
    with connect(database, autocommit=True) as conn:
        prune(conn, START)


def test_a_transform_says_what_it_is_computed_from(feast_store: FeatureStore) -> None:
    """By its views missing rows are told from drift, by the request's fields like hours are."""
    found = {one.name: one for one in features_of(feast_store, "ranking")}
    assert found["hour_closeness"].requests == ("request_hour",)
    assert set(found["hour_closeness"].reads) == {
        "user_preferences", "user_habits", "item_profile", "user_item_progress",
    }  # fmt: skip
    assert (found["item_genre"].reads, found["item_genre"].requests) == ((), ())


class _Any(int):
    def __eq__(self, other: object) -> bool:
        return other in (0, ATTENTION, WRONG)

    __hash__ = int.__hash__


def _any() -> int:
    return _Any()


def test_windows_are_lengths() -> None:
    assert length_of("90m") == timedelta(minutes=90)
    for wrong in ("", "0h", "h", "1w", "-1h"):
        with pytest.raises(SkewlessError, match="reads like"):
            length_of(wrong)

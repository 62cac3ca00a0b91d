"""Missing rows are the finding; what follows from them is shown, and alarms nobody."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from benchmarks import drift_platform as platform
from benchmarks.drift_platform import HOUR, SERVICE, START, STATIONARY, VIEWS
from extensions import addresses
from extensions.cli.app import app
from extensions.database import connect
from extensions.errors import NothingToCheckError
from monitoring.alerts import incidents
from monitoring.baselines.feature_baseline import Feature
from monitoring.checks import drift_check, drift_store
from monitoring.checks.cause_and_symptom import muted
from monitoring.checks.serving_log_window import Window
from monitoring.reports.drift_report import report
from monitoring.verdicts import CRITICAL, OK, SYMPTOM, WARNING, Finding

DEFAULTS = Finding("user_stats", "defaults", 0.6, 0.0, 0.05, 0.2, CRITICAL)


def finding(feature: str, statistic: str = "mean", verdict: str = CRITICAL) -> Finding:
    return Finding(feature, statistic, 0.5, 0.0, 0.1, 0.2, verdict)


def test_what_follows_from_missing_rows_is_a_symptom() -> None:
    features = [
        Feature("user_stats", "count", "INT64", 1, ("user_id",)),
        Feature("user_statistics", "count", "INT64", 1, ("user_id",)),
        Feature("affinity", "score", "DOUBLE", 0, (), ("item_stats", "user_stats")),
        Feature("item_stats", "genre", "STRING", 1, ("item_id",)),
    ]
    found = [
        DEFAULTS,
        finding("user_stats:count"),
        finding("user_stats:count", "psi", OK),
        finding("user_stats:count", "schema"),
        finding("user_statistics:count"),
        finding("affinity:score", verdict=WARNING),
        finding("item_stats:genre"),
    ]
    after = muted(found, features)
    assert [one.verdict for one in after] == [
        CRITICAL, SYMPTOM, OK, CRITICAL, CRITICAL, SYMPTOM, CRITICAL,
    ]  # fmt: skip
    assert after[1].because == after[5].because == "follows from `defaults` of user_stats"
    # A warning of missing rows is not what all the rest follows from.
    mild = dataclasses.replace(DEFAULTS, verdict=WARNING)
    assert muted([mild, *found[1:]], features) == [mild, *found[1:]]


@pytest.fixture
def conn(fresh_database: str) -> Iterator[psycopg.Connection]:
    with connect(fresh_database, autocommit=True) as conn:
        yield conn


def test_a_window_of_defaults_names_the_views_and_nothing_else(
    conn: psycopg.Connection, fresh_database: str
) -> None:
    drift_store.bind(conn, platform.baseline())
    gone = dataclasses.replace(STATIONARY, defaults=0.6, score_mean=0.0)
    platform.serve(conn, fresh_database, gone, 1000, 0, seed=1)
    run = drift_check.check(fresh_database, Window(SERVICE, START, START + HOUR))
    assert run.verdict == CRITICAL
    assert {(f.feature, f.statistic) for f in incidents.bad(run)} == {
        (view, "defaults") for view in VIEWS
    }
    assert {f.feature for f in run.findings if f.verdict == SYMPTOM} == {"item_stats:score"}
    assert "score" not in incidents.summary(run)
    page = report(conn, [SERVICE])
    causes, symptoms = page.index("Causes: what changed"), page.index("Symptoms: what follows")
    assert causes < symptoms
    follows = "It follows from <code>defaults</code> of item_stats."
    assert follows in page[symptoms:]
    assert "item_stats:score" not in page[causes:symptoms]
    [kept] = drift_store.recent_runs(conn, SERVICE, 1)
    assert kept.findings == run.findings


def test_without_a_baseline_nothing_is_watched_and_that_is_said(
    conn: psycopg.Connection, fresh_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(addresses.POSTGRES_VARIABLE, fresh_database)
    platform.serve(conn, fresh_database, STATIONARY, 600, 0, seed=1)
    out = tmp_path / "drift.html"
    checked = CliRunner().invoke(app, ["drift", "check"])
    reported = CliRunner().invoke(app, ["drift", "report", "--out", str(out)])
    for done in (checked, reported):
        assert isinstance(done.exception, NothingToCheckError)
        assert "Nothing is watched" in f"{done.exception} {done.output}"
    page = out.read_text()
    assert "Nothing is watched" in page
    assert f'<th scope="row">{SERVICE}</th><td><span>not watched' in page
    named = CliRunner().invoke(app, ["drift", "report", SERVICE, "--out", str(out)])
    assert isinstance(named.exception, NothingToCheckError)
    assert "Not watched: it has no baseline" in out.read_text()
    drift_store.bind(conn, platform.baseline())
    assert CliRunner().invoke(app, ["drift", "report", "--out", str(out)]).exit_code == 0
    assert "not watched" not in out.read_text().lower()


def test_findings_of_an_earlier_release_are_read(conn: psycopg.Connection) -> None:
    """They had a limit, and no reason."""
    old = {**finding("a:b").to_json(), "limit": 0.1}
    old.pop("because")
    assert Finding.from_json(json.loads(json.dumps(old))) == finding("a:b")

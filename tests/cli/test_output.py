"""What commands print fits 80 columns and is written for people, not for Python.

Each command's rows are of the worst sort: long names, whole hashes, errors, nothing known. What
needs a store is in tests/versions/test_output.py.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from typer.testing import CliRunner

import extensions.operations.doctor
import streaming.stream_status
from extensions.cli import console
from extensions.cli.app import app
from extensions.cli.output import monitoring_output
from extensions.cli.output.versions_output import markdown, show_plan, show_versions
from extensions.consistency.consistency_report import Difference, ViewComparison
from extensions.database.refused_of_views import RefusedOfView
from extensions.exit_codes import ATTENTION
from extensions.operations.doctor import Finding as Check
from extensions.value_text import bytes_text, duration_text, number_text, value_text
from extensions.versions.cost_estimate import Estimate
from extensions.versions.listing import Version
from extensions.versions.plan import Change, Plan, Severity
from monitoring.audit.skew_audit import AuditReport, FeatureReport
from monitoring.checks.calibration import Calibration, Proposal, Range
from monitoring.checks.drift_store import Run
from monitoring.verdicts import Finding, Floor
from streaming.stream_status import PartitionStatus, Status, ViewStatus, WorkerStatus

AT = datetime(2026, 1, 31, 8, 0, 0, 123456, tzinfo=UTC)
FINGERPRINT = "0123456789abcdef" * 4
FEATURE = "user_preferences:user_genre_preferences"
ITEM = "item_stats:item_popularity_score"
# What only Python says, and what a truncated cell ends in.
PYTHON = re.compile(r"None|datetime\(|Decimal\(|True|False|[\[{]'|PosixPath|<[A-Z]\w+[.:]")


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (console.out, console.err):
        monkeypatch.setattr(each, "_width", 80)


def readable(text: str) -> str:
    assert text.strip()
    for line in text.splitlines():
        assert len(line) <= 80, line
        assert "…" not in re.sub(r"… \d+ elements", "", line), line
    assert not PYTHON.search(text), PYTHON.search(text)
    return text


RUN = Run(
    service="ranking",
    window_start=AT,
    window_end=AT + timedelta(hours=1),
    baseline_id=FINGERPRINT,
    verdict="critical",
    requests=1_234_567,
    findings=(
        Finding(FEATURE, "dimension_mean", 0.123456789, 1e-9, 0.15, 0.5, "critical"),
        Finding(ITEM, "psi", 12.3456789, 0.0123, 0.1, 0.2, "warning"),
        Finding("ranking_signals:user_item_affinity", "mean", 0.5, 0.5, 0.1, 0.2, "symptom",
                f"follows from {FEATURE} and {ITEM}, which it is computed from, and says no more"),
    ),
    error='the connection to the server at "127.0.0.1", port 5432 failed: refused ' * 2,
)  # fmt: skip


def case(kind: str) -> dict[str, Any]:
    return {
        "class": kind, "behind_seconds": 12.5, "request_id": 12345678901, "user_id": 1234567,
        "served_at": AT, "as_of": None, "served": 0.1 + 0.2, "trained": None,
        "recomputed": [0.30000000000000004, 1.0, 2.0, 3.0], "price": Decimal("1.50"),
    }  # fmt: skip


def audit(**counts: int) -> AuditReport:
    difference = Difference(
        "user_watch_stats", 1, "not computed", "log", "history gives a value that the log lacks",
        {"user_id": 1234567}, AT, {"spent": 0.30000000000000004, "last": AT, "vector": [1.5] * 9},
        {"spent": Decimal("1.5"), "last": None}, AT, None, None,
    )  # fmt: skip
    view = ViewComparison(
        "user_watch_stats", 1, AT, 200, {"log": 200}, {"not computed": 1}, 0, (difference,),
        ("The log of user_watch_stats.v1 has no row.",),
    )  # fmt: skip
    worst = [case("bug"), case("overdue")] if counts else []
    return AuditReport(
        since=AT, until=AT + timedelta(days=1), requests=1_234_567,
        features=(
            FeatureReport(FEATURE, 1_234_567, 1_234_560, worst=worst, **counts),
            FeatureReport(ITEM, 12, 12),
        ),
        left_out=("ranking_signals was compared from a minute after its last move on.",),
        views=(view,),
    )  # fmt: skip


def test_a_difference_names_the_sides_that_were_looked_at() -> None:
    difference = audit().views[0].worst[0]
    assert "log of 2026" in difference.sentence()
    assert "online" not in difference.sentence()
    missing = replace(difference, cause="online lost", side="online")
    assert missing.sentence().endswith("online has no row")


CALIBRATION = Calibration(
    "ranking", 168,
    (Proposal(FEATURE, "dimension_mean", 168, 0.1234567, 0.5, Floor(0.15, 0.5), Floor(0.2, 0.6)),
     Proposal(ITEM, "psi", 168, 0.01, 0.05, Floor(0.1, 0.2), Floor(0.1, 0.2))),
    (Range(ITEM, (0.1, 12345.678), (1.0, 2.0), 0.0, 99.123456789),
     Range("item_profile:item_genre", top={"drama": 0.3456, "comedy": 0.21, "unknown": 0.1})),
)  # fmt: skip

VERSIONS = [
    Version("user_item_progress", 2, "active", AT, FINGERPRINT, ("ranking", "home_page") * 4,
            1_234_567, 345_678, 123_456_789, 12.3456, "somebody", "it fades faster " * 8),
    Version("ranking_signals", 1, "live", AT, FINGERPRINT, (), None, None, None, None, None, None),
]  # fmt: skip

DIFF = "--- item_stats.v1.sql (published)\n+++ item_stats.v2.sql (file)\n@@ -1 +1 @@\n-a\n+b"
CHANGES = (
    Change("item_stats", 2, Severity.NEW_VERSION, "new version beside v1 (differs in SQL)",
           Estimate(AT, AT + timedelta(days=30), 1_234_567, 754.3), ("ranking",) * 9,
           ("ranking_signals",), ("home_page",), ("ranker_1 (v1)",), DIFF),
    Change("user_preferences", 1, Severity.UNFINISHED, "is not filled yet",
           Estimate(AT, AT, None, None, "counting took longer than 15 s"), (), ()),
    Change("ranking", None, Severity.METADATA, "the service names other views", None, (), ()),
)  # fmt: skip
PLAN = Plan(CHANGES, ("The files name item_stats v2; v1 is the default (rollback by a).",))
TRAINED = {"item_stats": ["ranking was trained on v1, training set\n" + FINGERPRINT]}


PRINTED: dict[str, Callable[[], object]] = {
    "drift check": lambda: monitoring_output.show([RUN, RUN], as_json=False),
    "drift calibrate": lambda: monitoring_output.show_calibration(CALIBRATION, as_json=False),
    "drift baseline": lambda: console.emit(
        [{"service": "ranking", "baseline": FINGERPRINT, "rows": 400, "features": 10,
          "versions": ", ".join(f"view_{i} v1" for i in range(9)), "left_out": None}], False),
    "audit, nothing differs": lambda: monitoring_output.show_audit(audit(), as_json=False),
    "audit, all classes": lambda: monitoring_output.show_audit(
        audit(lag=1, late=2, overdue=3, version=4, bug=5), as_json=False),
    "versions": lambda: show_versions(VERSIONS),
    "plan": lambda: show_plan(PLAN, TRAINED),
}  # fmt: skip


@pytest.mark.parametrize("name", PRINTED)
def test_output_is_readable_at_80_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    PRINTED[name]()
    printed = capsys.readouterr()
    readable(printed.out + printed.err)


def test_hashes_are_whole_and_identifiers_plain(capsys: pytest.CaptureFixture[str]) -> None:
    show_versions(VERSIONS)
    PRINTED["drift baseline"]()
    monitoring_output.show_audit(audit(bug=1), as_json=False)
    printed = capsys.readouterr().out
    assert printed.count(FINGERPRINT) == 3
    assert "since 2026-01-31T08:00:00Z" in printed
    assert re.search(r"request id +12345678901\n", printed)
    assert re.search(r"served +0\.30000000000000004\n", printed)
    assert "1,234,567" in printed


def test_the_plan_says_who_is_downstream_and_what_is_not_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_plan(PLAN, TRAINED)
    printed = capsys.readouterr().out
    words = " ".join(printed.split())
    assert "\n  -a\n  +b\n" in printed
    assert "not counted because counting took longer than 15 s" in words
    assert "about 1,234,567 rows in 12 min 34 s" in words
    assert "ranking was trained on v1" in words
    assert "pinned by ranker_1 (v1)" in words
    assert "Next: `skewless apply`" in words
    told = markdown(PLAN, TRAINED)
    assert "### item_stats v2: new_version" in told
    assert f"```diff\n{DIFF}\n```" in told


def test_status_is_readable_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Status(
        "watch-events", "skewless-ingest",
        [PartitionStatus(0, 12345678, 12345999, 321, AT, 12.3456789),
         PartitionStatus(1, 12345678, None, None, None, None, "an unknown codec (7) in a batch")],
        [WorkerStatus("a-host-with-a-long-name:12345:0", [0, 1], 0.123456, 1_234_567, 12, 3, 45,
                      1234.5, 0, 12.3456, None)],
        [ViewStatus("user_item_progress", 1, AT, 1.23456)],
        [RefusedOfView("user_item_progress", 1, 3, AT, "user_id=7, item_id=9", "out of range")],
    )  # fmt: skip
    monkeypatch.setattr(streaming.stream_status, "status", lambda _: found)
    monkeypatch.setattr(streaming.stream_status, "known_streams", lambda settings: [settings])
    for name in ("POSTGRES_URL", "REDIS_URL", "KAFKA_BOOTSTRAP"):
        monkeypatch.setenv(f"SKEWLESS_{name}", "postgresql://a@127.0.0.1:1/x")
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == 0, result.exception
    printed = readable(result.output)
    assert "12345678 " in printed
    assert "user_id=7," in printed
    assert "they are tried again every minute" in " ".join(printed.split())
    assert "2026-01-31 08:00:00Z" in " ".join(printed.split())
    [told] = json.loads(CliRunner().invoke(app, ["status", "--json"]).stdout)
    assert told["partitions"][0]["behind_seconds"] == 12.3456789


def test_the_doctor_marks_what_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        Check("postgres", True, "version 18.6"),
        Check("values of user_watch_stats.v1", False, audit().views[0].worst[0].sentence(),
              "Run `skewless refresh --full --view user_watch_stats.v1`."),
    ]  # fmt: skip
    monkeypatch.setattr(extensions.operations.doctor, "examine", lambda _, **_more: checks)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == ATTENTION
    printed = readable(result.output)
    assert printed.startswith("✓ postgres: version 18.6\n✗ values of user_watch_stats.v1: ")
    assert "  → Run `skewless refresh --full" in printed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "✓"),
        (False, "✗"),
        (1234567, "1234567"),
        (0.123456, "0.1235"),
        (12345.678, "12,346"),
        (float("nan"), "nan"),
        (Decimal("1.50"), "1.5"),
        (AT, "2026-01-31 08:00:00Z"),
        (AT.replace(tzinfo=None), "2026-01-31 08:00:00Z"),
        (timedelta(hours=26, seconds=5), "1 d 2 h"),
        (["a", None], "a, –"),
        ({"a": 1, "b": [True]}, "a=1, b=✓"),
        ([], "–"),
        (b"\xffa", "\\xffa"),
        (Severity.REFUSED, "6"),
    ],
)
def test_values_are_written_for_people(value: object, text: str) -> None:
    assert value_text(value) == text


def test_sizes_and_durations() -> None:
    assert [bytes_text(n) for n in (999, 12_345, 4_560_000_000)] == ["999 B", "12.3 kB", "4.56 GB"]
    assert [duration_text(s) for s in (0.05, 65, 3600, 90_061, -65)] == [
        "0.05 s", "1 min 5 s", "1 h", "1 d 1 h", "-1 min 5 s",
    ]  # fmt: skip
    assert number_text(-1234.5) == "-1,234"

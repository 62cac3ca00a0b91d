"""The alert rules, by Prometheus' own tool: each fires when it should, and not otherwise."""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from extensions.cli.app import app
from tests.deploy.prometheus import programs

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """Series that fire a rule and such that do not, after so many minutes.

    ``step``: minutes from one value to the next, and from one look at the rules to the next.
    ``labels``: of the alert; ``value``: as the summary prints it.
    """

    fires: Series
    quiet: Series
    minutes: int
    labels: dict[str, str] = field(default_factory=dict)
    value: str = ""
    step: int = 1


def gauge(series: str, fires: float, quiet: float, minutes: int, **labels: str) -> Case:
    return Case(
        {series: f"{fires}x{minutes + 5}"}, {series: f"{quiet}x{minutes + 5}"}, minutes, labels
    )


def days(series: str, fires: str, quiet: Series, **labels: str) -> Case:
    """Looked at each half hour, after two days and two hours."""
    return Case({series: fires}, quiet, 2 * 1440 + 120, labels, step=30)


VERDICT = 'skewless_drift_verdict{service="rank"}'
CASES = {
    "SkewlessDriftCritical": gauge(VERDICT, 2, 1, 5, service="rank"),
    "SkewlessDriftWarning": gauge(VERDICT, 1, 0, 125, service="rank"),
    "SkewlessDriftCheckFails": gauge(VERDICT, 3, 2, 35, service="rank"),
    "SkewlessTooFewRows": gauge(VERDICT, -1, 0, 365, service="rank"),
    "SkewlessDriftNotChecked": gauge(
        'skewless_drift_last_window_end_seconds{service="rank"}', 0, 7_200, 200, service="rank"
    ),
    "SkewlessAlertsDoNotArrive": gauge(
        'skewless_alert_messages_waiting{channel="slack"}', 1, 0, 20, channel="slack"
    ),
    "SkewlessRolledBack": Case(
        {'skewless_drift_rollbacks_total{view="v",outcome="done"}': "0x10 1x10"},
        {'skewless_drift_rollbacks_total{view="v",outcome="done"}': "1x20"},
        15,
        {"view": "v", "outcome": "done"},
    ),
    "SkewlessSkew": gauge('skewless_audit_values{result="bug"}', 1, 0, 5, result="bug"),
    "SkewlessNotAudited": days(
        "skewless_audit_finished_seconds", "0x110", {"skewless_audit_finished_seconds": "86400x110"}
    ),
    "SkewlessServedLogSheds": Case(
        {'skewless_served_log_rows_total{outcome="shed"}': "0+5x30"},
        {'skewless_served_log_rows_total{outcome="written"}': "0+5x30"},
        20,
        {"outcome": "shed"},
    ),
    "SkewlessStaleValues": Case(
        {'skewless_rows_served_total{view="v",status="stale"}': "0+120x30"},
        {'skewless_rows_served_total{view="v",status="default"}': "0+120x30"},
        20,
        {"view": "v"},
    ),
    "SkewlessServingFails": Case(
        {
            'skewless_answers_total{route="r",status="200"}': "0+90x30",
            'skewless_answers_total{route="r",status="503"}': "0+10x30",
        },
        {
            'skewless_answers_total{route="r",status="200"}': "0+1000x30",
            'skewless_answers_total{route="r",status="503"}': "0+1x30",
        },
        20,
    ),
    "SkewlessMonitoringDown": gauge("skewless_monitoring_up", 0, 1, 15),
    "SkewlessServerThreadDead": gauge(
        'skewless_thread_alive{thread="watcher"}', 0, 1, 5, thread="watcher"
    ),
    "SkewlessStreamBehind": Case(
        # Moves, and stays two minutes behind.
        {'skewless_stream_watermark_seconds{stream="s",partition="0"}': "-120+60x30"},
        {'skewless_stream_watermark_seconds{stream="s",partition="0"}': "-5+60x30"},
        20,
        {"stream": "s"},
    ),
    "SkewlessPartitionStopped": gauge(
        'skewless_stream_stopped{stream="s",partition="1"}', 1, 0, 5, stream="s", partition="1"
    ),
    "SkewlessWorkerStuck": Case(
        {'skewless_stream_last_seconds{stream="s",work="turn"}': "60x30"},
        {'skewless_stream_last_seconds{stream="s",work="turn"}': "0+60x30"},
        20,
        {"stream": "s", "work": "turn"},
    ),
    "SkewlessWorkerThreadDead": gauge(
        'skewless_stream_thread_alive{stream="s",thread="sweeper"}',
        0,
        1,
        5,
        stream="s",
        thread="sweeper",
    ),
    "SkewlessDeadLetters": Case(
        {
            'skewless_stream_events_total{stream="s"}': "0+1000x40",
            'skewless_stream_dead_letters_total{stream="s",reason="not-json"}': "0+20x40",
        },
        {
            'skewless_stream_events_total{stream="s"}': "0+1000x40",
            'skewless_stream_dead_letters_total{stream="s",reason="not-json"}': "0+5x40",
        },
        30,
        {"stream": "s"},
    ),
    "SkewlessViewFails": Case(
        {'skewless_stream_view_failures_total{stream="s",view="v"}': "0+1x40"},
        {'skewless_stream_view_failures_total{stream="s",view="v"}': "7x40"},
        30,
        {"view": "v"},
    ),
    "SkewlessEntitiesRefused": Case(
        {'skewless_stream_refused_entities{stream="s",view="v"}': "3x80"},
        {'skewless_stream_refused_entities{stream="s",view="v"}': "0x80"},
        70,
        {"view": "v"},
        "3",
    ),
    "SkewlessViewNotRefreshed": days(
        'skewless_view_published_seconds{view="v",version="1"}',
        "0x110",
        # A version that is no longer maintained does not count while another is.
        {
            'skewless_view_published_seconds{view="v",version="1"}': "0x110",
            'skewless_view_published_seconds{view="v",version="2"}': "0+1800x110",
        },
        view="v",
    ),
}


def test_each_rule_has_a_case() -> None:
    assert CASES.keys() == {rule["alert"] for rule in RULES}


def test_rules_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    if isinstance(found := programs(), str):
        pytest.skip(found)
    for step in {case.step for case in CASES.values()}:
        tests: list[Any] = []
        for rule in RULES:
            case = CASES[rule["alert"]]
            if case.step == step:
                tests.append(checked(rule, case, case.fires, fires=True))
                tests.append(checked(rule, case, case.quiet, fires=False))
        assert run(tmp_path, tests, step) == ""
    # Red: a rule that should have fired and has not.
    never = checked(RULES[0], CASES[RULES[0]["alert"]], {}, fires=True)
    assert "FAILED" in run(tmp_path, [never], 1)


def checked(rule: dict[str, Any], case: Case, series: Series, *, fires: bool) -> dict[str, Any]:
    """A case as promtool reads it."""
    said = {name: filled(text, case) for name, text in rule["annotations"].items()}
    return {
        "interval": f"{case.step}m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {
                "eval_time": f"{case.minutes}m",
                "alertname": rule["alert"],
                "exp_alerts": [
                    {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": said}
                ][: int(fires)],
            }
        ],
    }


def filled(text: str, case: Case) -> str:
    text = text.replace("{{ $value }}", case.value)
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: case.labels[found.group(1)], text)


def run(folder: Path, tests: list[Any], step: int) -> str:
    """What promtool complains of; nothing where all is as expected."""
    programs_here = programs()
    assert not isinstance(programs_here, str)
    path = folder / "alerts.test.yml"
    path.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(MONITORING / "alerts.yml")],
                "evaluation_interval": f"{step}m",
                "tests": tests,
            }
        )
    )
    done = subprocess.run(
        [programs_here[1], "test", "rules", path], capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_action_names_commands_that_exist(rule: dict[str, Any]) -> None:
    """What an operator is told to do at three in the morning can be done."""
    root: Any = get_command(app)
    for words in re.findall(r"skewless ((?:[a-z-]+ ?)+)", rule["annotations"]["action"]):
        first, *rest = words.split()
        assert first in root.commands, words
        below = getattr(root.commands[first], "commands", None)
        if below is not None:
            assert rest[0] in below, words


def test_the_scrape_configuration_is_valid() -> None:
    if isinstance(found := programs(), str):
        pytest.skip(found)
    done = subprocess.run(
        [found[1], "check", "config", MONITORING / "prometheus.yml"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

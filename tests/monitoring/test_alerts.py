"""Incidents, channels against local servers, rollback by verdict, metrics and their rules."""

import json
import re
import socketserver
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from email import message_from_string
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import promql_parser
import psycopg
import pytest
import yaml
from typer.main import get_command

from benchmarks import drift_platform as platform
from benchmarks.drift_platform import HOUR, SERVICE, START
from extensions.cli.app import app
from extensions.database import connect
from extensions.errors import SkewlessError
from monitoring import prometheus_exporter
from monitoring.alerts import automatic_rollback, incidents
from monitoring.alerts.automatic_rollback import Policy, command
from monitoring.alerts.notifiers import EMAIL, SLACK, WEBHOOK, Channel, channels
from monitoring.checks import drift_store
from monitoring.checks.drift_schedule import MOST_BEHIND, due
from monitoring.checks.drift_store import Run
from monitoring.verdicts import CRITICAL, ERROR, INSUFFICIENT, OK, WARNING, Finding
from tests.deploy.metrics import queried

VIEW = "item_stats"
DEPLOY = Path(__file__).parent.parent.parent / "deploy" / "monitoring"


class Receiver(ThreadingHTTPServer):
    """A webhook's other end; answers with ``status``."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        received = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received.bodies.append(json.loads(body))
                self.send_response(received.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/secret-token"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def conn(fresh_database: str) -> Iterator[psycopg.Connection]:
    with connect(fresh_database, autocommit=True) as conn:
        yield conn


class Story:
    """Windows one after the other, with the verdicts that a test tells."""

    def __init__(self, conn: psycopg.Connection, url: str) -> None:
        self.conn, self.url, self.hour = conn, url, 0
        self.identity = drift_store.bind(conn, platform.baseline(rows=500))

    def window(self, verdict: str, view: str = VIEW, *, skip: int = 0, seen: bool = True) -> Run:
        self.hour += 1 + skip
        start = START + self.hour * HOUR
        finding = Finding(f"{view}:genre", "unseen", 0.3, 1e-9, 0.01, 0.03, verdict)
        bad = verdict in (WARNING, CRITICAL)
        run = Run(
            SERVICE, start, start + HOUR, self.identity, verdict, 1000, (finding,) if bad else ()
        )
        if seen:
            drift_store.record(self.conn, run)
        return run


@pytest.fixture
def story(conn: psycopg.Connection, fresh_database: str) -> Story:
    return Story(conn, fresh_database)


def tell(story: Story, verdict: str, to: list[Channel]) -> list[incidents.Delivery]:
    run = story.window(verdict)
    incidents.follow(story.conn, run, to)
    return incidents.deliver(story.conn, SERVICE, to)


def slack(receiver: Receiver) -> list[Channel]:
    return list(channels({SLACK: receiver.url}))


def test_one_message_when_it_begins_and_one_when_it_ends(story: Story, receiver: Receiver) -> None:
    to = slack(receiver)
    for verdict in (OK, CRITICAL, CRITICAL, INSUFFICIENT, ERROR, CRITICAL, WARNING, OK, OK):
        tell(story, verdict, to)
    begun, ended = receiver.bodies
    assert begun["text"].startswith("Critical drift of made")
    assert "item_stats:genre: unseen 0.3" in begun["text"]
    assert "has ended" in ended["text"]
    for verdict in (WARNING, WARNING, CRITICAL):  # a warning that becomes critical says so
        tell(story, verdict, to)
    assert [body["text"].split()[0] for body in receiver.bodies[2:]] == ["Warning", "Critical"]


def test_a_channel_that_fails_changes_nothing_and_is_told(
    story: Story, receiver: Receiver, fresh_database: str
) -> None:
    receiver.status = 500
    to = slack(receiver)
    [failed] = tell(story, CRITICAL, to)
    assert failed.error == "it answered 500"
    assert 'skewless_alert_messages_waiting{channel="slack"} 1.0' in exported(fresh_database)
    receiver.status = 200
    [sent] = tell(story, CRITICAL, to)
    assert sent.error is None
    assert tell(story, CRITICAL, to) == []
    assert len(receiver.bodies) == 2
    assert 'skewless_alert_messages_waiting{channel="slack"} 0.0' in exported(fresh_database)


def test_a_channel_that_is_away_does_not_tell_its_secret(story: Story) -> None:
    to = list(channels({SLACK: "http://127.0.0.1:1/services/secret-token"}))
    [failed] = tell(story, CRITICAL, to)
    assert failed.error is not None
    assert "secret" not in failed.error
    kept = story.conn.execute("SELECT error FROM drift_notifications").fetchone()
    assert kept == (failed.error,)


def test_a_webhook_gets_everything(story: Story, receiver: Receiver) -> None:
    tell(story, WARNING, list(channels({WEBHOOK: receiver.url})))
    [body] = receiver.bodies
    assert {"incident", "kind", "service", "severity", "title", "lines", "text"} <= set(body)
    assert (body["service"], body["severity"], body["kind"]) == (SERVICE, WARNING, "opened")


class Mailbox(socketserver.StreamRequestHandler):
    """As much of SMTP as a mail needs."""

    mails: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go\r\n")
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line.decode())
                self.mails.append("".join(lines))
            self.wfile.write(b"250 fine\r\n")
            if line.upper().startswith(b"QUIT"):
                return


def test_mail_is_one_message_to_all(story: Story) -> None:
    mails: list[str] = []
    handler = type("Handler", (Mailbox,), {"mails": mails})
    with socketserver.TCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        to = list(channels({EMAIL: f"smtp://127.0.0.1:{port}?from=a@b.c&to=d@e.f,g@h.i"}))
        tell(story, CRITICAL, to)
        server.shutdown()
    [mail] = [message_from_string(text) for text in mails]
    assert mail["Subject"] == "Critical drift of made"
    assert mail["To"] == "d@e.f, g@h.i"
    assert "item_stats:genre" in str(mail.get_payload())


@pytest.mark.parametrize(
    "wrong", [{SLACK: "ftp://x"}, {EMAIL: "smtp://host"}, {EMAIL: "mailto:a@b"}]
)
def test_channels_that_cannot_be_read_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(SkewlessError, match="must"):
        channels(wrong)


def test_a_check_of_the_past_opens_nothing(story: Story, receiver: Receiver) -> None:
    tell(story, OK, slack(receiver))
    old = replace(
        story.window(CRITICAL, seen=False), window_start=START - 9 * HOUR,
        window_end=START - 8 * HOUR,
    )  # fmt: skip
    drift_store.record(story.conn, old)
    assert incidents.follow(story.conn, old, slack(receiver)) is None
    assert receiver.bodies == []


class Calls(list[tuple[str, str]]):
    def __call__(self, view: str, reason: str, evidence: Any) -> str:
        self.append((view, reason))
        assert len(evidence["windows"]) == 2
        return "v2 -> v1"


def act(story: Story, calls: Any, verdict: str, view: str = VIEW, skip: int = 0) -> list[Any]:
    run = story.window(verdict, view, skip=skip)
    incident = incidents.follow(story.conn, run, ())
    policy = Policy(frozenset({VIEW}), 2)
    return automatic_rollback.follow(story.conn, run, incident, policy, calls)


def test_two_critical_windows_in_a_row_roll_back_once(story: Story) -> None:
    calls = Calls()
    for verdict in (OK, CRITICAL, CRITICAL, CRITICAL, CRITICAL):
        act(story, calls, verdict)
    [(view, reason)] = calls
    assert view == VIEW
    assert "2 windows in a row" in reason
    evidence, outcome = story.conn.execute(
        "SELECT evidence, outcome FROM drift_rollbacks"
    ).fetchone() or (None, None)
    assert outcome == "v2 -> v1"
    assert evidence is not None
    assert [w["findings"][0]["statistic"] for w in evidence["windows"]] == ["unseen", "unseen"]
    act(story, calls, OK)
    act(story, calls, CRITICAL)
    act(story, calls, CRITICAL)
    assert len(calls) == 2  # another incident


@pytest.mark.parametrize(
    "verdicts",
    [
        (CRITICAL, ERROR, CRITICAL),
        (CRITICAL, INSUFFICIENT, CRITICAL),
        (CRITICAL, OK, CRITICAL),
        (CRITICAL, WARNING, CRITICAL),
        (WARNING, WARNING, WARNING),
        (ERROR, ERROR, ERROR),
        (INSUFFICIENT, INSUFFICIENT),
    ],
)
def test_nothing_else_rolls_back(story: Story, verdicts: tuple[str, ...]) -> None:
    calls = Calls()
    for verdict in verdicts:
        act(story, calls, verdict)
    assert calls == []


def test_neither_a_gap_nor_another_view_nor_another_baseline_counts(story: Story) -> None:
    calls = Calls()
    act(story, calls, CRITICAL)
    act(story, calls, CRITICAL, skip=1)
    act(story, calls, CRITICAL, view="user_stats")
    act(story, calls, CRITICAL)
    story.identity = drift_store.bind(story.conn, platform.baseline(rows=600))
    act(story, calls, CRITICAL)
    assert calls == []
    act(story, calls, CRITICAL)
    assert len(calls) == 1


def test_a_rollback_that_failed_is_recorded_and_tried_again(story: Story) -> None:
    def refuses(*_: Any) -> str:
        raise SkewlessError("Another operator is at it.")

    act(story, refuses, CRITICAL)
    [failed] = act(story, refuses, CRITICAL)
    assert failed.error == "Another operator is at it."
    calls = Calls()
    [done] = act(story, calls, CRITICAL)
    assert done.outcome == "v2 -> v1"
    act(story, calls, CRITICAL)
    assert len(calls) == 1


def test_a_command_rolls_back_by_contract(tmp_path: Path) -> None:
    program = tmp_path / "roll.py"
    program.write_text(
        "import json, os, sys\n"
        "seen = json.load(sys.stdin)['windows']\n"
        "print('noise')\n"
        "print(sys.argv[1], os.environ['SKEWLESS_VIEW'], os.environ['SKEWLESS_REASON'], seen)\n"
    )
    roll_back = command(f"{sys.executable} {program} {{view}}")
    assert roll_back("v", "why", {"windows": [1]}) == "v v why [1]"
    program.write_text("import sys; sys.exit('no such view')")
    with pytest.raises(SkewlessError, match="no such view"):
        roll_back("v", "why", {})
    with pytest.raises(SkewlessError, match="could not be run"):
        command("/nonexistent/program")("v", "why", {})


def exported(url: str) -> str:
    return prometheus_exporter.text(url).decode()


def test_metrics_say_what_the_tables_hold(
    story: Story, fresh_database: str, tmp_path: Path
) -> None:
    run = story.window(CRITICAL)
    incidents.follow(story.conn, run, ())
    text = exported(fresh_database)
    assert 'skewless_drift_verdict{service="made"} 2.0' in text
    assert 'skewless_drift_incident{service="made",severity="critical"} 1.0' in text
    ended = re.search(r'last_window_end_seconds{service="made"} (\S+)', text)
    assert ended is not None
    assert float(ended.group(1)) == run.window_end.timestamp()
    prometheus_exporter.write_file(fresh_database, tmp_path / "skewless.prom")
    assert "skewless_drift_verdict" in (tmp_path / "skewless.prom").read_text()
    away = exported("postgresql://nobody@127.0.0.1:1/none")
    assert "skewless_monitoring_up 0.0" in away
    assert "skewless_drift_verdict" not in away


def test_metrics_say_how_far_views_are_and_how_large_tables(
    conn: psycopg.Connection, fresh_database: str
) -> None:
    conn.execute(
        "INSERT INTO watermarks (view_name, version, processed_through, published_through) "
        "VALUES ('v', 2, 'epoch'::timestamptz + interval '7 s', NULL), "
        "('w', 1, 'epoch'::timestamptz + interval '9 s', 'epoch'::timestamptz + interval '8 s')"
    )
    conn.execute(
        "CREATE TABLE halves (n int, t text) PARTITION BY LIST (n); "
        "CREATE TABLE half_1 PARTITION OF halves FOR VALUES IN (1); "
        "CREATE TABLE half_2 PARTITION OF halves FOR VALUES IN (2); "
        "INSERT INTO halves SELECT 1 + n % 2, repeat('x', 1000) FROM generate_series(1, 1000) AS n"
    )
    text = exported(fresh_database)
    assert 'skewless_view_computed_seconds{version="2",view="v"} 7.0' in text
    assert 'skewless_view_published_seconds{version="1",view="w"} 8.0' in text
    assert 'skewless_view_published_seconds{version="2",view="v"}' not in text
    found = re.search(r'skewless_table_bytes{table="halves"} (\S+)', text)
    assert found is not None
    assert 1_000_000 < float(found.group(1)) < 3_000_000
    assert "half_1" not in text
    # A table that is locked whole keeps nobody waiting.
    with conn.transaction():
        conn.execute("LOCK TABLE half_2 IN ACCESS EXCLUSIVE MODE")
        text = exported(fresh_database)
    assert "skewless_table_bytes" not in text
    assert "skewless_view_computed_seconds" in text
    assert "skewless_monitoring_up 1.0" in text


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_a_rule_is_promql_over_metrics_that_exist(rule: dict[str, Any]) -> None:
    promql_parser.parse(rule["expr"])
    assert {"summary", "action"} == set(rule["annotations"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert queried(rule["expr"])


@pytest.mark.parametrize(
    ("verdict", "alert"),
    [
        (CRITICAL, "SkewlessDriftCritical"),
        (WARNING, "SkewlessDriftWarning"),
        (ERROR, "SkewlessDriftCheckFails"),
        (INSUFFICIENT, "SkewlessTooFewRows"),
        (OK, None),
    ],
)
def test_each_verdict_fires_its_own_rule(
    verdict: str, alert: str | None, story: Story, fresh_database: str
) -> None:
    """The comparisons with the exported verdict, evaluated: exactly one holds."""
    story.window(verdict)
    found = re.search(r'skewless_drift_verdict{service="made"} (\S+)', exported(fresh_database))
    assert found is not None
    firing = []
    for rule in rules():
        compared = re.fullmatch(r"skewless_drift_verdict == (-?\d)", rule["expr"])
        if compared and float(compared.group(1)) == float(found.group(1)):
            firing.append(rule["alert"])
    assert firing == ([alert] if alert else [])


def test_schedules_name_commands_that_exist() -> None:
    """The cron and systemd forms are parsed, and their options are ours."""
    texts = [(DEPLOY / name).read_text() for name in ("crontab", "skewless-drift.service")]
    root: Any = get_command(app)
    commands = {
        ("drift", name): {o for p in one.params for o in p.opts}
        for name, one in root.commands["drift"].commands.items()
    }
    commands["audit",] = {o for p in root.commands["audit"].params for o in p.opts}
    used = [
        re.findall(r"skewless (drift \w+|audit)((?: --[\w-]+(?: [^\s|>-]\S*)?)*)", text)
        for text in texts
    ]
    assert all(used)
    for name, options in (pair for pairs in used for pair in pairs):
        assert set(re.findall(r"--[\w-]+", options)) <= commands[tuple(name.split())]


def test_the_windows_that_are_due(story: Story, fresh_database: str) -> None:
    assert len(due(fresh_database, None, HOUR)) == 1  # never checked: the last whole hour
    story.window(OK)
    behind = due(fresh_database, [SERVICE], HOUR)
    assert len(behind) == MOST_BEHIND
    assert all(b.start - a.end == timedelta(0) for a, b in pairwise(behind))

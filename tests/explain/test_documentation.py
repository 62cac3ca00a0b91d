"""The example in docs/monitoring.md prints what it prints there; ids may hold anything."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from extensions.cli import console
from extensions.cli.output.explain_output import show
from extensions.exit_codes import WRONG
from extensions.explain.report import (
    NOW,
    Comparison,
    Effect,
    Event,
    Explanation,
    LoggedRow,
    SourceEvents,
)
from tests.conftest import REPO_ROOT
from tests.consistency.conftest import World
from tests.consistency.test_commands import run
from tests.consistency.test_comparison import insert

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
HOSTILE = ["<script>alert(1)</script>", "", "a\nb", "\x1b[31m", "\u202eabc", "[bold]x[/bold]"]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (console.out, console.err):
        monkeypatch.setattr(each, "_width", 80)


def told(text: str) -> str:
    """Words without times, however their lines are broken."""
    return " ".join(TIME.sub("TIME", text).split())


def test_the_example_prints_what_the_page_says(world: World) -> None:
    now = datetime.now(UTC).replace(microsecond=123456)
    for name, days in (("e-1", 9), ("e-2", 3), ("e-3", 1)):
        insert(world.conn, name, 81, now - timedelta(days=days), item=7)
    at = now - timedelta(days=2.5)
    world.conn.execute(
        "INSERT INTO user_watch_stats_v1 "
        "(user_id, event_timestamp, created_timestamp, user_watch_count_7d) "
        "VALUES (81, %s, %s, 2)",
        [at, at],
    )
    world.refresh(full=True)
    page = (REPO_ROOT / "docs" / "monitoring.md").read_text()
    [(command, printed)] = re.findall(
        r"```console\n\$ skewless (explain .*)\n((?:.*\n)*?)```", page
    )
    result = run(*command.split())
    assert result.exit_code == 0, result.output
    print(result.output)  # noqa: T201 - what the page should say
    assert told(result.output) == told(printed)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_texts(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 1, 31, 8, 0, 0, 123456, tzinfo=UTC)
    event = Event(
        {"key": text}, at, at + timedelta(hours=2), at + timedelta(hours=2), at, True,
        {"key": text, "at": at.isoformat()}, {"word": Effect(True, text, None)},
    )  # fmt: skip
    found = Explanation(
        view="visits", version=2, state="live", entity={"key": text}, as_of=at, served=None,
        logged=LoggedRow(at, at, {"word": text, "vector": [text] * 9}),
        before=(LoggedRow(at, None, {"word": text, "vector": [0.1 + 0.2] * 9}),),
        recomputed={"word": text * 40, "vector": None},
        comparisons=(Comparison(NOW, ("word",), "bug", "nothing explains the difference"),),
        sources=(SourceEvents("visits", "own", 3, (event,), 1, 1, (event,)),),
        additive={"word": False}, notes=(f"A note on {text}.",),
    )  # fmt: skip
    assert found.exit_code == WRONG
    show(found)
    printed = capsys.readouterr()
    whole = printed.out + printed.err
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", whole)
    assert all(len(line) <= 80 for line in printed.out.splitlines()), printed.out
    if "<" in text or "[bold]" in text:
        assert text in whole
    assert '"a\\nb"' in whole or "\n" not in text

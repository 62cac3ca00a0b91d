"""The commands, as an operator types them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from extensions.cli import exit_code_of
from extensions.cli.app import app
from extensions.errors import SkewlessError
from extensions.operations import doctor
from extensions.repository import REPO_VARIABLE
from extensions.versions import retirement
from tests.versions.conftest import World


@pytest.fixture(autouse=True)
def repository(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REPO_VARIABLE, str(world.root))
    monkeypatch.setattr(retirement, "NOTICED_AFTER_SECONDS", 0.0)


def run(world: World, *words: str) -> Result:
    with world.repository.current():
        return CliRunner().invoke(app, list(words))


def answer(world: World, *words: str) -> Any:
    result = run(world, *words, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_a_version_from_plan_to_retirement(world: World, tmp_path: Path) -> None:
    assert run(world, "plan").stdout == "No changes.\n"
    assert run(world, "apply").stdout == "No changes.\n"
    world.repository.second_version("item_stats")

    [made] = answer(world, "plan")
    [change] = made["changes"]
    assert change["severity"] == "new_version"
    assert change["services"] == ["ranking"]
    assert change["rows"] > 0
    assert change["seconds"] is not None
    [done] = answer(world, "apply")
    assert [(f["view"], f["version"], f["state"]) for f in done["filled"]] == [
        ("item_stats", 2, "live")
    ]
    report = tmp_path / "diff.html"
    [found] = answer(world, "diff", "item_stats", "v1", "v2", "--html", str(report))
    assert found["features"][0]["differing"] > 0
    assert report.read_text().startswith("<!doctype html>")
    assert "item_popularity_score" in run(world, "diff", "item_stats", "v1", "v2").stdout

    [moved] = answer(world, "promote", "item_stats", "v2", "--why", "faster")
    assert (moved["from"], moved["to"], moved["why"]) == ("v1", "v2", "faster")
    rows = {row["version"]: row for row in answer(world, "versions", "item_stats")}
    assert rows[2]["state"] == "active"
    assert rows[2]["reason"] == "faster"
    assert rows[2]["services"] == ["ranking"]
    assert rows[1]["services"] == []
    assert rows[1]["log_rows"] > 0
    assert rows[1]["entities"] == 24
    # A section of one float: tag, length, fingerprint, flags, two times, the value.
    assert 24 * 12 < rows[1]["redis_bytes"] < 24 * 40
    [back] = answer(world, "rollback", "item_stats")
    assert back["to"] == "v1"
    notes = run(world, "plan").stdout
    assert notes.startswith("No changes. The files name item_stats v2; v1 is the default (rollback")
    assert notes.count("\n") == 2  # wrapped, and nothing else
    answer(world, "promote", "item_stats", "2")
    [retired] = answer(world, "retire", "item_stats", "v1", "--keep-log-days", "0")
    assert retired["log_drops_at"] is None
    assert [row["version"] for row in answer(world, "versions", "item_stats")] == [2]
    assert len(answer(world, "versions", "item_stats", "--all")) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["promote", "item_stats", "two"], "A version reads like v2, not 'two'."),
        (["promote", "item_stats", "v7"], "item_stats v7 was never published"),
        (["promote", "item_stat", "v2"], "no published view item_stat: .* Did you mean item_stats"),
        (["rollback", "item_stat"], "Did you mean item_stats?"),
        (["versions", "itemstats"], "Did you mean item_stats?"),
        (["refresh", "--view", "item_stat"], "Did you mean item_stats?"),
        (["training-set", "rankin", "SELECT 1", "x.parquet"], "Did you mean ranking?"),
        (["retire", "item_stats", "v1"], "is used by ranking"),
        (["rollback", "item_stats"], "There is no version of item_stats to go back to"),
    ],
)
def test_a_refusal_is_one_sentence(world: World, words: list[str], sentence: str) -> None:
    result = run(world, *words)
    assert isinstance(result.exception, SkewlessError)
    assert re.search(sentence.replace("?", r"\?"), result.exception.message)
    assert exit_code_of(result.exception) in (1, 2)


def test_a_refused_plan_says_so_and_fails(world: World) -> None:
    world.repository.edit("computations/item_stats.v1.sql", "exp(-0.1", "exp(-0.3")
    result = run(world, "plan")
    assert result.exit_code == 1
    assert "refused" in result.stdout
    assert "make v2" in " ".join(result.stdout.split())


def test_the_doctor_finds_what_disagrees(world: World) -> None:
    def findings() -> dict[str, bool]:
        with world.repository.current():
            return {f.what: f.ok for f in doctor.examine() if f.what.startswith("versions")}

    assert findings() == {"versions": True}
    world.conn.execute("DELETE FROM feature_view_version_history "
                       "WHERE feature_view_name = 'item_stats'")  # fmt: skip
    assert findings() == {"versions of item_stats": False}
    world.apply()
    assert findings() == {"versions": True}

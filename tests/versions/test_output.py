"""What commands print about a real store fits 80 columns and is written for people."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from extensions.cli import console
from extensions.cli.app import app
from extensions.cli.output.versions_output import next_step
from extensions.exit_codes import ATTENTION
from extensions.repository import REPO_VARIABLE
from extensions.stores.registry.version_store import published
from extensions.training import read_manifest
from extensions.versions.plan import make_plan
from tests.cli.test_output import readable
from tests.versions.conftest import World


@pytest.fixture(autouse=True)
def eighty_columns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REPO_VARIABLE, str(world.root))
    for each in (console.out, console.err):
        monkeypatch.setattr(each, "_width", 80)


def printed(world: World, *words: str, code: int = 0) -> str:
    with world.repository.current():
        result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    return readable(result.output)


def test_the_commands_of_versions(world: World) -> None:
    world.repository.second_version("item_stats")
    planned = printed(world, "plan")
    assert "item_stats v2: new_version" in planned
    assert "  --- item_stats.v1 (published)" in planned
    assert "  +++ item_stats.v2 (file)" in planned
    assert " rows in " in planned
    with world.repository.current():
        plan = make_plan(world.conn, world.store().project, world.root)
    assert next_step(plan) in " ".join(planned.split())
    printed(world, "plan", "--exit-code", code=ATTENTION)
    with world.repository.current():
        told = CliRunner().invoke(app, ["plan", "--format", "markdown"])
    assert "### item_stats v2: new_version" in told.stdout
    assert "```diff" in told.stdout

    printed(world, "apply")
    assert printed(world, "plan", "--exit-code").startswith("No changes.")
    printed(world, "diff", "item_stats", "v1", "v2")
    printed(world, "promote", "item_stats", "v2", "--why", "faster")
    listed = printed(world, "versions")
    for one in published(world.conn):
        assert f"{one.view_name} v{one.version}: {one.state} since" in listed
        assert one.fingerprint in listed
    printed(world, "rollback", "item_stats")
    printed(world, "doctor", code=ATTENTION)


def test_training_sets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.root)
    at = datetime.now(UTC) - timedelta(minutes=1)
    rows = [f"{1 + i % 8},{1 + i % 24},3,{at.isoformat()}" for i in range(100)]
    Path("labels.csv").write_text(
        "\n".join(["user_id,item_id,request_hour,event_timestamp", *rows])
    )
    taken = printed(world, "training-set", "ranking", "labels.csv", "train.parquet")
    manifest = read_manifest(Path("train.parquet"))
    assert f"sha256    {manifest.sha256}\n" in taken
    based = printed(world, "drift", "baseline", "ranking", "--training-set", "train.manifest.json")
    assert "baseline" in based
    world.repository.second_version("item_stats")
    planned = printed(world, "plan")
    assert f"ranking was trained on v1, training set {manifest.sha256}" in " ".join(planned.split())

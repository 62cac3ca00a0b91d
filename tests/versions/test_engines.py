"""Plan and apply ask both engines: what they say and record, and that nothing fails by it."""

import json

import pytest
from typer.testing import CliRunner

from extensions.cli import console
from extensions.cli.app import app
from extensions.engines.verdict import recorded
from extensions.repository import REPO_VARIABLE
from extensions.stores.registry.version_store import published
from extensions.versions import apply as apply_module
from extensions.versions.plan import Plan, make_plan
from tests.versions.conftest import World
from tests.versions.test_output import printed


def plan(world: World) -> Plan:
    with world.repository.current():
        return make_plan(world.conn, "skewless", world.root)


def unportable(world: World) -> None:
    """item_stats v2 is a sum of reals."""
    world.repository.second_version("item_stats")
    path = world.repository.path("computations/item_stats.v2.sql")
    path.write_text(
        "SELECT\n    s.item_id,\n    s.as_of,\n"
        "    coalesce(w.x, 0::real) AS item_popularity_score\n"
        "FROM spine AS s\nCROSS JOIN LATERAL (\n"
        "    SELECT sum(e.progress ORDER BY e.watched_at, e.event_id) AS x\n"
        "    FROM watch_events AS e\n    WHERE e.item_id = s.item_id\n"
        "    AND e.watched_at > s.as_of - interval '336 hours'\n"
        "    AND e.watched_at <= s.as_of AND e.ingested_at <= s.as_of\n) AS w\n"
    )


def command(world: World, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setenv(REPO_VARIABLE, str(world.root))
    with world.repository.current():
        result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_the_first_apply_recorded_a_verdict_of_each_text(world: World) -> None:
    found = recorded(world.conn)
    kept = {one.fingerprint for one in published(world.conn) if one.kind == "computation"}
    assert set(found) == kept
    # On a busy machine there may be no time for all of them.
    outcomes = {verdict.outcome for verdict in found.values()}
    assert "portable" in outcomes
    assert "not portable" not in outcomes


def test_a_new_version_is_told_portable(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.repository.second_version("user_watch_stats")
    [change] = plan(world).changes
    assert change.verdict is not None
    assert change.verdict.outcome == "portable"
    assert change.warnings == ()
    assert "portable: equal in DuckDB for" in command(world, monkeypatch, "plan")
    [row] = json.loads(command(world, monkeypatch, "plan", "--json"))
    assert row["changes"][0]["portable"] == "portable"


def test_a_text_that_differs_is_applied_and_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    unportable(world)
    [change] = plan(world).changes
    assert change.verdict is not None
    assert change.verdict.outcome == "not portable"
    [warning] = change.warnings
    assert warning.startswith(
        "feature_repo/computations/item_stats.v2.sql, line 7: sum(progress) of a real is a real"
    )
    told = command(world, monkeypatch, "plan")
    for part in ("not portable: item_id ", "in PostgreSQL and", "progress::double precision"):
        assert part in told
    assert "in DuckDB" in command(world, monkeypatch, "plan", "--format", "markdown")
    applied = command(world, monkeypatch, "apply")
    assert "item_stats.v2 stays in PostgreSQL, not portable: item_id" in applied
    assert world.states("item_stats") == {1: "active", 2: "live"}
    assert "not portable: item_id" in command(world, monkeypatch, "versions", "item_stats")


def test_an_apply_does_not_fail_by_what_keeps_the_engines_from_being_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.repository.second_version("user_watch_stats")
    world.conn.execute("ALTER TABLE engine_verdicts RENAME COLUMN verdict TO was_verdict")
    applied = world.apply()
    assert [filled.state for filled in applied.filled] == ["live"]
    [sentence] = applied.engines
    assert "The engines were not compared" in sentence
    world.conn.execute("DROP TABLE engine_verdicts")
    world.repository.second_version("item_stats")
    monkeypatch.setattr(apply_module, "construct_warnings", lambda *_: ())
    assert [filled.view for filled in world.apply().filled] == ["item_stats"]


def test_what_is_printed_fits_and_is_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REPO_VARIABLE, str(world.root))
    for each in (console.out, console.err):
        monkeypatch.setattr(each, "_width", 80)
    unportable(world)
    assert "not portable" in printed(world, "plan")
    assert "not portable" in " ".join(printed(world, "apply").split())
    assert "not portable" in printed(world, "versions", "item_stats")

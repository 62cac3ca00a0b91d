"""What `skewless audit` and `skewless doctor` say of a healthy store, and of spoilt ones."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from extensions import addresses
from extensions.cli.app import app
from extensions.exit_codes import ATTENTION, NOT_CHECKED, WRONG
from tests.consistency.conftest import World
from tests.consistency.test_comparison import insert


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def values(result: Result) -> list[dict[str, Any]]:
    findings = json.loads(result.stdout)
    return [one for one in findings if one["what"].startswith(("values of", "epoch of"))]


def test_a_healthy_store(world: World) -> None:
    audit = run("audit", "--since", "10m")
    assert audit.exit_code == 0, audit.output
    assert "served = trained = recomputed: 0 differences" in audit.output
    assert "No request was logged in that time" in audit.output
    doctor = run("doctor", "--json")
    assert values(doctor)
    assert all(one["ok"] for one in values(doctor)), values(doctor)


def test_history_that_nobody_computed_is_named_by_both(world: World) -> None:
    insert(world.conn, "of a new user", 900, datetime.now(UTC) - timedelta(days=1))
    audit = run("audit", "--since", "10m", "--entities", "5000")
    assert audit.exit_code == WRONG
    assert "user_watch_stats.v1 user_id=900: not computed" in audit.output
    assert "skewless refresh --full --view user_watch_stats.v1" in audit.output
    assert "served = trained = recomputed: BROKEN" in audit.output
    doctor = run("doctor", "--json", "--sample", "5000")
    assert doctor.exit_code == ATTENTION
    told = [one for one in values(doctor) if "user_id=900: not computed" in one["found"]]
    assert "values of user_watch_stats.v1" in {one["what"] for one in told}


def test_what_lags_beyond_its_budget_has_an_exit_code_of_its_own(world: World) -> None:
    world.conn.execute(
        "UPDATE watermarks SET processed_through = processed_through - interval '10 minutes', "
        "live_from = live_from - interval '10 minutes' WHERE view_name = 'user_watch_stats'"
    )
    audit = run("audit", "--since", "10m")
    assert audit.exit_code == ATTENTION, audit.output
    assert "user_watch_stats.v1" in audit.output
    assert "overdue" in audit.output


def test_nothing_seen_is_not_all_well(world: World) -> None:
    audit = run("audit", "--since", "10m", "--entities", "0")
    assert audit.exit_code == NOT_CHECKED
    assert "No entities were sampled." in audit.output


def test_an_emptied_redis_is_named_by_both(world: World) -> None:
    world.redis.flushdb()
    audit = run("audit", "--since", "10m")
    assert audit.exit_code == WRONG
    assert "online behind the log" in audit.output
    doctor = run("doctor", "--json")
    epochs = [one for one in values(doctor) if one["what"].startswith("epoch of")]
    assert len(epochs) == len(world.computations)
    assert "Redis has lost what was published" in epochs[0]["found"]


def test_a_redis_that_is_away_is_a_finding_and_ends_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(addresses.REDIS_VARIABLE, "redis://127.0.0.1:1/0")
    doctor = run("doctor", "--json")
    assert doctor.exit_code == ATTENTION
    told = {one["what"]: one["ok"] for one in json.loads(doctor.stdout)}
    assert told["redis"] is False
    assert told["migrations"] is True
    assert not any(ok for what, ok in told.items() if what.startswith(("values", "epochs")))

"""`skewless labels`: a sample of history with a service's keys; ranges without history."""

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from extensions import addresses
from extensions.asof import Computation
from extensions.asof.backfill import backfill
from extensions.cli import exit_code_of
from extensions.cli.app import app
from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.exit_codes import USAGE
from extensions.history.simulate import simulate
from extensions.training import read_labels, read_manifest
from feature_repo.simulator import Simulation
from tests.asof.loading import media_sources
from tests.online.repository import applied

# The platform's last three days have logs; the eight before have none.
UNTIL = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
COVERED_FROM = UNTIL - timedelta(days=3)


@pytest.fixture(scope="module")
def redis_url(redis_server: str) -> str:
    return redis_server.rpartition("/")[0] + "/12"


@pytest.fixture(scope="module")
def platform(
    database: str, redis_url: str, repo_root: Path, computations: dict[str, Computation]
) -> Iterator[str]:
    """The URL of a database with a small platform, whose services are registered."""
    with applied(database, redis_url, repo_root):
        simulate(
            database,
            Simulation(users=40, items=30, days=11, events=3_000, seed=3, until=UNTIL),
            media_sources(database),
        )
        with connect(database, autocommit=True) as conn:
            for computation in computations.values():
                backfill(conn, computation, COVERED_FROM, UNTIL)
        yield database


@pytest.fixture(autouse=True)
def addressed(monkeypatch: pytest.MonkeyPatch, platform: str, redis_url: str) -> None:
    monkeypatch.setenv(addresses.POSTGRES_VARIABLE, platform)
    monkeypatch.setenv(addresses.REDIS_VARIABLE, redis_url)


def labels(out: Path, *options: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["labels", str(out), *options])
    error = result.exception
    seen = exit_code_of(error) if isinstance(error, SkewlessError) else result.exit_code
    assert seen == code, result.output
    return f"{result.output} {result.exception}"


def test_labels_are_events_of_the_range_that_has_logs(tmp_path: Path, platform: str) -> None:
    out = tmp_path / "labels.csv"
    said = labels(out, "--sample", "200")
    assert "200 labels for ranking" in said
    assert "where the logs of all its views are complete" in said
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200
    assert set(rows[0]) == {"user_id", "item_id", "event_timestamp", "request_hour"}
    with psycopg.connect(platform) as conn:
        events = {
            (user, item, at)
            for user, item, at in conn.execute(
                "SELECT user_id, item_id, watched_at FROM watch_events"
            )
        }
    for row in rows:
        at = datetime.fromisoformat(row["event_timestamp"])
        assert (int(row["user_id"]), int(row["item_id"]), at) in events
        assert COVERED_FROM <= at <= UNTIL
        assert int(row["request_hour"]) == at.hour


def test_the_same_seed_gives_the_same_labels(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.csv" for name in ("first", "again", "other")]
    for file, seed in zip(files, ("7", "7", "8"), strict=True):
        labels(file, "--sample", "100", "--seed", seed)
    first, again, other = (file.read_text() for file in files)
    assert first == again
    assert len(set(first.splitlines()) & set(other.splitlines())) < 60


def test_any_service_and_any_range(tmp_path: Path) -> None:
    out = tmp_path / "labels.parquet"
    begins = UNTIL - timedelta(days=10)
    said = labels(out, "--service", "home_page", "--from", begins.isoformat(),
                  "--to", (begins + timedelta(days=2)).isoformat())  # fmt: skip
    assert "complete" not in said
    table = pq.read_table(out)
    assert table.column_names == ["user_id", "event_timestamp"]
    assert 0 < table.num_rows < 3_000
    times = table["event_timestamp"].to_pylist()
    assert begins < min(times) <= max(times) <= begins + timedelta(days=2)


def test_training_sets_take_them_without_a_warning(tmp_path: Path) -> None:
    labels(tmp_path / "labels.csv", "--sample", "300")
    done = CliRunner().invoke(
        app, ["training-set", "ranking", str(tmp_path / "labels.csv"), str(tmp_path / "t.parquet")]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert "rows      300" in done.output
    manifest = read_manifest(tmp_path / "t.manifest.json")
    assert manifest.sha256 in done.output
    assert manifest.warnings == ()
    assert read_labels(tmp_path / "labels.csv").rows.num_rows == 300


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--service", "nobody"], "no feature service nobody"),
        (["--sample", "0"], "--sample 1"),
        (["--from", "2031-01-01", "--to", "2031-02-01"], "the data of watch_events ends on"),
        (["--to", "2001-01-01"], "the data of watch_events begins on"),
    ],
)
def test_what_cannot_be_sampled_is_one_sentence(
    options: list[str], expected: str, tmp_path: Path
) -> None:
    out = tmp_path / "labels.csv"
    assert expected in labels(out, *options, code=USAGE)
    assert not out.exists()


def test_an_empty_backfill_says_where_the_data_ends() -> None:
    done = CliRunner().invoke(
        app, ["backfill", "user_watch_stats", "--from", "2001-01-01", "--to", "2001-01-03"]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert "No events between 2001-01-01T00:00:00Z and 2001-01-03T00:00:00Z" in done.output
    assert "begins on" in done.output


def test_without_dates_a_backfill_begins_with_history(platform: str) -> None:
    done = CliRunner().invoke(app, ["backfill", "user_watch_stats", "--json"])
    [made] = json.loads(done.stdout)
    with psycopg.connect(platform) as conn:
        row = conn.execute("SELECT date_trunc('day', min(watched_at)) FROM watch_events").fetchone()
    assert row is not None
    assert datetime.fromisoformat(made["start"]) == row[0]

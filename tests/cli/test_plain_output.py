"""What `import`, `simulate` and `migrate` print for a person: sentences, no Python literals."""

import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from extensions import addresses
from extensions.cli.app import app
from extensions.exit_codes import INTERRUPTED
from tests.databases import copied

PROGRAM = Path(sys.executable).parent / "skewless"
# Lists, dicts, None and datetimes as Python writes them.
LITERAL = re.compile(r"\[\]|\['|\{'|\{\}|\bNone\b|datetime\(|Path\(|\bTrue\b|\bFalse\b")


def run(*arguments: str) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, (done.output, done.exception)
    assert LITERAL.search(done.output) is None, done.output
    return done


def test_an_import_says_what_became_of_every_row(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(addresses.POSTGRES_VARIABLE, fresh_database)
    file = tmp_path / "plays.csv"
    at = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    rows = [f"{user},1,{at}" for user in (1, 2, 3)]
    file.write_text("\n".join(["user_id,item_id,watched_at", *rows, "4,1,yesterday"]) + "\n")
    said = run("import", "events", str(file)).output
    assert "4 rows read = 3 inserted + 0 duplicates + 1 rejected" in said
    assert f"Rejected rows are in {file.with_suffix('.csv.rejected.csv')}" in said.replace("\n", "")
    assert "1 x watched_at" in said
    assert "event_id: derived from" in said
    again = run("import", "events", str(file)).output
    assert "4 rows read = 0 inserted + 3 duplicates + 1 rejected" in again


def test_a_simulation_says_its_range(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(addresses.POSTGRES_VARIABLE, fresh_database)
    said = run(
        "simulate", "--users", "20", "--items", "10", "--days", "3", "--events", "200",
        "--until", "2026-03-01T00:00:00Z",
    ).output  # fmt: skip
    assert "watch_events: 201 rows read = 200 inserted + 1 duplicates, in " in said


def test_migrate_says_what_it_did(postgres_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with copied(postgres_server, "template1") as url:
        monkeypatch.setenv(addresses.POSTGRES_VARIABLE, url)
        said = run("migrate").output
        assert "migrations applied: 0002.control, " in said
        assert "logs made: item_profile_v1, " in said
        assert re.search(r"rows of seeds recorded: \d+", said)
        assert "The database is up to date." in run("migrate").output


def test_an_empty_history_is_explained(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(addresses.POSTGRES_VARIABLE, fresh_database)
    assert "has no rows: bring history in" in run("refresh", "--no-online").output
    done = CliRunner().invoke(app, ["backfill", "all"])
    assert "has no rows: bring history in" in str(done.exception)


def test_ctrl_c_in_a_load_says_what_is_kept_and_how_to_go_on(fresh_database: str) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SKEWLESS_")}
    command = [PROGRAM, "simulate", "--users", "2000", "--events", "5000000"]
    with (
        subprocess.Popen(
            command,
            env={**kept, addresses.POSTGRES_VARIABLE: fresh_database},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process,
        psycopg.connect(fresh_database, autocommit=True) as conn,
    ):  # fmt: skip
        deadline = time.monotonic() + 90
        loading = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE 'COPY%%' AND pid <> pg_backend_pid()"
        )
        while conn.execute(loading).fetchone() == (0,):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert said.splitlines()[-1].startswith("Interrupted. Whole chunks")
    assert "The same command again adds what is missing" in said
    assert "Traceback" not in said

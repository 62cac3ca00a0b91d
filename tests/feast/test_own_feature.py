"""A feature of one's own, as the README shows it: its very text, in a copy of the repository."""

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from extensions import addresses
from extensions.database import connect

COPIED = ("extensions", "feature_repo", "streaming", "monitoring")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """The repository with the README's two files added where the README says."""
    folder = tmp_path_factory.mktemp("clone")
    for name in COPIED:
        shutil.copytree(
            repo_root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("feature_store.yaml", ".feastignore"):
        shutil.copy(repo_root / name, folder / name)
    readme = (repo_root / "README.md").read_text()
    files = re.findall(
        r"```(?:sql|python) (feature_repo/[\w./]+)\n(.*?)```", readme, flags=re.DOTALL
    )
    assert len(files) == 2
    for path, block in files:
        (folder / path).write_text(block)
    return folder


def run(clone: Path, environment: dict[str, str], program: str, *arguments: str) -> str:
    """Run `skewless` or `feast` in the clone and return its output."""
    entry = {
        "skewless": "from extensions.cli import main; main()",
        "feast": "from feast.cli.cli import cli; cli()",
    }[program]
    result = subprocess.run(
        [sys.executable, "-c", entry, *arguments],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_one_sql_file_and_one_view_are_all_it_takes(
    clone: Path, environment: dict[str, str]
) -> None:
    now = datetime.now(UTC)
    assert "user_variety_v1" in run(clone, environment, "skewless", "migrate", "--json")
    run(clone, environment, "feast", "apply")
    with connect(environment[addresses.POSTGRES_VARIABLE]) as conn:
        conn.execute(
            "INSERT INTO watch_events "
            "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
            "SELECT 'v' || n, 77, n %% 3, t, t, 60000, 0.5 FROM (SELECT n, "
            "%(now)s::timestamptz - n * interval '1 hour' AS t FROM generate_series(1, 6) AS n) x",
            {"now": now},
        )
    yesterday = (now - timedelta(days=1)).isoformat()
    backfilled = run(
        clone, environment, "skewless",
        "backfill", "user_variety", "--from", yesterday, "--to", now.isoformat(), "--json",
    )  # fmt: skip
    # The state at the start, and the hours in which the answer may have changed.
    assert json.loads(backfilled)[0]["rows"] >= 3
    run(clone, environment, "skewless", "refresh", "--view", "user_variety")
    served = run(
        clone, environment, "feast", "get-online-features",
        "-e", "user_id=77", "-f", "user_variety:user_distinct_items_1d",
    )  # fmt: skip
    assert "3" in served

"""A store as a user has it: a prepared database with a small history, applied with Feast."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from feast import FeatureStore

from extensions import addresses
from extensions.database import connect
from extensions.operations.database_setup import prepare_database

NOW = datetime.now(UTC)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(database: str, redis_server: str) -> Iterator[dict[str, str]]:
    """The addresses of a database and a Redis of this module's own."""
    redis_url = redis_server.rpartition("/")[0] + "/14"
    redis.Redis.from_url(redis_url).flushdb()
    mine = {addresses.POSTGRES_VARIABLE: database, addresses.REDIS_VARIABLE: redis_url}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mine.items():
            patch.setenv(name, value)
        yield {**os.environ, **mine}


@pytest.fixture(scope="module")
def feast(environment: dict[str, str], repo_root: Path) -> Run:
    """Runs a Feast command in the repository and returns what it printed."""

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [Path(sys.executable).parent / "feast", *arguments],
            cwd=repo_root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check:
            assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run


@pytest.fixture(scope="module")
def prepared(environment: dict[str, str]) -> None:
    """A prepared database with a little history, of which Feast knows nothing yet."""
    prepare_database(environment[addresses.POSTGRES_VARIABLE])
    with connect(environment[addresses.POSTGRES_VARIABLE]) as conn:
        conn.execute(
            "INSERT INTO items (item_id, genre, valid_from, ingested_at) VALUES "
            "(7, 'drama', %(old)s, %(old)s), (8, 'comedy', %(old)s, %(old)s)",
            {"old": NOW - timedelta(days=100)},
        )
        conn.execute(
            "INSERT INTO watch_events "
            "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
            "SELECT 'e' || n, 1, 7 + n %% 2, t, t, 600000, 0.5 FROM (SELECT n, "
            "%(now)s::timestamptz - n * interval '1 hour' AS t FROM generate_series(1, 5) AS n) x",
            {"now": NOW},
        )


@pytest.fixture(scope="module")
def applied(prepared: None, feast: Run) -> Run:
    """Runs a Feast command after `feast apply`."""
    feast("apply")
    return feast


@pytest.fixture
def store(applied: Run, repo_root: Path) -> FeatureStore:
    """The Python entry to the same store."""
    return FeatureStore(str(repo_root))

"""A served repository whose every request is logged, and a small window of live rows."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from feast import FeatureStore

from extensions.asof import Computation
from extensions.database import connect
from extensions.serving.settings import Settings
from tests.online.repository import applied, watch
from tests.serving.conftest import bring_online, serving

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def redis_url(redis_server: str) -> str:
    return redis_server.rpartition("/")[0] + "/13"


@pytest.fixture(scope="module")
def feast_store(
    database: str, redis_url: str, repo_root: Path, computations: dict[str, Computation]
) -> Iterator[FeatureStore]:
    with applied(database, redis_url, repo_root) as store:
        watch(database, users=40, items=60, events=1500, at=NOW - timedelta(minutes=5))
        bring_online(store, database, computations)
        yield store


@pytest.fixture(scope="module")
def http(feast_store: FeatureStore, repo_root: Path) -> Iterator[httpx.Client]:
    settings = Settings(repo=repo_root, max_items=500, log_rate=1.0)
    for url in serving(settings, feast_store):
        with httpx.Client(base_url=url, timeout=10) as client:
            yield client


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with connect(database, autocommit=True) as conn:
        yield conn


def ask(http: httpx.Client, requests: int, items: int = 20, first: int = 0) -> None:
    """Rank, and fetch single users, one of whom nobody knows."""
    for number in range(first, first + requests):
        ids = [1 + (number * 7 + i) % 70 for i in range(items)]
        body: dict[str, Any] = {"userId": 1 + number * 7 % 45, "itemIds": ids}
        assert http.post("/v1/features/rank", json=body).status_code == 200
        assert http.get(f"/v1/features/user/{1 + number * 7 % 45}").status_code == 200


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def logged(conn: psycopg.Connection) -> int:
    row = conn.execute("SELECT count(*) FROM served_features").fetchone()
    assert row is not None
    return int(row[0])

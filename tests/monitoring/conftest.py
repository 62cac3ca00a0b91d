"""A served repository whose every request is logged, and a small window of live rows."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from feast import FeatureStore

from extensions.asof import Computation
from extensions.database import connect
from extensions.serving.settings import Settings
from tests.served import filled, serving


@pytest.fixture(scope="module")
def redis_url(redis_server: str) -> str:
    return redis_server.rpartition("/")[0] + "/13"


@pytest.fixture(scope="module")
def feast_store(
    database: str, redis_url: str, repo_root: Path, computations: dict[str, Computation]
) -> Iterator[FeatureStore]:
    with filled(database, redis_url, repo_root, computations, users=40, events=1500) as store:
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

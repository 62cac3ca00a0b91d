"""A server over an applied repository with a little history, in a thread of this process."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from feast import FeatureStore

from extensions.asof import Computation
from extensions.serving.settings import Settings
from tests.served import filled, serving


@pytest.fixture(scope="module")
def redis_url(redis_server: str) -> str:
    return redis_server.rpartition("/")[0] + "/11"


@pytest.fixture(scope="module")
def feast_store(
    database: str, redis_url: str, repo_root: Path, computations: dict[str, Computation]
) -> Iterator[FeatureStore]:
    with filled(database, redis_url, repo_root, computations, users=20, events=900) as store:
        yield store


@pytest.fixture(scope="module")
def url(feast_store: FeatureStore, repo_root: Path) -> Iterator[str]:
    yield from serving(Settings(repo=repo_root, max_items=200), feast_store)


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=10) as client:
        yield client

"""A server over an applied repository with a little history, in a thread of this process."""

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from feast import FeatureStore

from extensions.asof import Computation
from extensions.asof.tick import tick
from extensions.database import connect
from extensions.serving.application import Application
from extensions.serving.server import http_server
from extensions.serving.settings import Settings
from extensions.stores.publish_log import publish
from tests.online.repository import applied, watch

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def redis_url(redis_server: str) -> str:
    return redis_server.rpartition("/")[0] + "/11"


@pytest.fixture(scope="module")
def feast_store(
    database: str, redis_url: str, repo_root: Path, computations: dict[str, Computation]
) -> Iterator[FeatureStore]:
    with applied(database, redis_url, repo_root) as store:
        watch(database, users=20, items=60, events=900, at=NOW - timedelta(minutes=5))
        bring_online(store, database, computations)
        yield store


def bring_online(store: FeatureStore, database: str, computations: dict[str, Computation]) -> None:
    """Compute every view as of now, and publish it."""
    with connect(database, autocommit=True) as conn:
        for computation in computations.values():
            assert tick(conn, computation).rows
            assert publish(store, conn, computation)


def serving(settings: Settings, store: FeatureStore) -> Iterator[str]:
    """Serve in a thread; yields the base URL."""
    application = Application(settings, store)
    listening = socket.create_server((settings.host, 0))
    server = http_server(application, settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://{settings.host}:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=20)


@pytest.fixture(scope="module")
def url(feast_store: FeatureStore, repo_root: Path) -> Iterator[str]:
    yield from serving(Settings(repo=repo_root, max_items=200), feast_store)


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=10) as client:
        yield client

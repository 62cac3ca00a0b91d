"""A server over the applied repository, in a thread of this process, and what tests ask of it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
from feast import FeatureStore

from extensions.asof import Computation
from extensions.asof.tick import tick
from extensions.database import connect
from extensions.serving.application import Application
from extensions.serving.server import http_server
from extensions.serving.settings import Settings
from extensions.stores.log_publishing import publish
from tests.online.repository import applied, watch

NOW = datetime.now(UTC)


@contextmanager
def filled(
    database: str,
    redis_url: str,
    repo_root: Path,
    computations: dict[str, Computation],
    *,
    users: int,
    events: int,
    **ids: str,
) -> Iterator[FeatureStore]:
    """The applied repository with a history that ends 5 minutes ago, all views online.

    ``ids``: as `watch` takes them.
    """
    with applied(database, redis_url, repo_root) as store:
        at = NOW - timedelta(minutes=5)
        watch(database, users=users, items=60, events=events, at=at, **ids)
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

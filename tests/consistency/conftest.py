"""A store of a test's own with a month of history, every view computed and published."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import redis
from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from extensions import addresses
from extensions.asof import Computation
from extensions.asof.backfill import backfill
from extensions.consistency import ViewComparison, view_comparison
from extensions.database import connect
from extensions.operations.refresh import Refresher
from tests.databases import copied, create, cut
from tests.online.repository import watch

USERS, ITEMS, EVENTS = 30, 20, 1_500


@dataclass
class World:
    """One healthy store, to be spoilt."""

    url: str
    redis_url: str
    store: FeatureStore
    computations: dict[str, Computation]
    conn: psycopg.Connection

    @property
    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(self.redis_url)

    def refresh(self, *, full: bool = False) -> None:
        with Refresher.open(online=True) as refresher:
            refresher.refresh(refresher.choose(None), None, full=full)

    def compare(self) -> dict[str, ViewComparison]:
        """Every entity of every view, by the version's name."""
        found = view_comparison.compare_views(
            self.store, self.computations.values(), entities=5_000
        )
        return {one.name: one for one in found}

    def causes(self) -> dict[str, set[str]]:
        """The causes of the views that have findings."""
        return {name: set(one.counts) for name, one in self.compare().items() if one.counts}


@dataclass(frozen=True)
class Template:
    """A healthy store to be copied: a database's name, and the keys of Redis."""

    database: str
    redis_url: str
    keys: dict[bytes, bytes]


@pytest.fixture(scope="session")
def healthy(
    postgres_server: str,
    template_database: str,
    redis_server: str,
    repo_root: Path,
    computations: dict[str, Computation],
) -> Template:
    redis_url = redis_server.rpartition("/")[0] + "/11"
    client = redis.Redis.from_url(redis_url)
    client.flushdb()
    name = f"template_healthy_{uuid.uuid4().hex[:8]}"
    url = create(postgres_server, name, template_database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(addresses.POSTGRES_VARIABLE, url)
        patch.setenv(addresses.REDIS_VARIABLE, redis_url)
        patch.chdir(repo_root)
        config = load_repo_config(repo_root, repo_root / "feature_store.yaml")
        apply_total(config, repo_root, skip_source_validation=True)
        now = datetime.now(UTC)
        watch(url, USERS, ITEMS, EVENTS, now - timedelta(minutes=1))
        with connect(url, autocommit=True) as conn:
            for computation in computations.values():
                backfill(conn, computation, now - timedelta(days=3), now)
            World(url, redis_url, FeatureStore(config=config), computations, conn).refresh()
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        cut(conn, name)
    return Template(name, redis_url, {key: client.dump(key) for key in client.scan_iter()})


@pytest.fixture
def world(
    postgres_server: str,
    healthy: Template,
    repo_root: Path,
    computations: dict[str, Computation],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    client = redis.Redis.from_url(healthy.redis_url)
    client.flushdb()
    for key, value in healthy.keys.items():
        client.restore(key, 0, value)
    with copied(postgres_server, healthy.database) as url:
        monkeypatch.setenv(addresses.POSTGRES_VARIABLE, url)
        monkeypatch.setenv(addresses.REDIS_VARIABLE, healthy.redis_url)
        monkeypatch.chdir(repo_root)
        monkeypatch.setattr(view_comparison, "SECOND_LOOK_SECONDS", 0.05)
        store = FeatureStore(str(repo_root))
        with connect(url, autocommit=True) as conn:
            world = World(url, healthy.redis_url, store, computations, conn)
            world.refresh()
            yield world

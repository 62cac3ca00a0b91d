"""An applied store with a little history, whose files can be edited; one for each test."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import psycopg
import pytest
import redis
from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from extensions import addresses
from extensions.asof.tick import tick
from extensions.database import connect
from extensions.stores.log_publishing import publish
from extensions.stores.rebuild import rebuild_online
from extensions.stores.registry.version_store import hold_pointer
from extensions.versions.apply import Applied, apply
from extensions.versions.maintained_versions import live_computations
from tests.databases import create, cut, drop
from tests.online.repository import watch
from tests.versions.repositories import Repository

NOW = datetime.now(UTC)
# More than a day of history is backfilled for each view; an hour of it is not in a full hour.
HISTORY = timedelta(days=2)


class World:
    """One store: its files, its database, its Redis."""

    def __init__(self, repository: Repository, database: str) -> None:
        self.repository, self.database = repository, database
        self.conn: psycopg.Connection = connect(database, autocommit=True)

    @property
    def root(self) -> Path:
        return self.repository.root

    def store(self) -> FeatureStore:
        return FeatureStore(str(self.root))

    def apply(self) -> Applied:
        with self.repository.current():
            return apply(self.conn, self.root)

    def feast_apply(self) -> None:
        """`feast apply`, in this process."""
        with self.repository.current(), redirect_stdout(StringIO()):
            config = load_repo_config(self.root, self.root / "feature_store.yaml")
            apply_total(config, self.root, skip_source_validation=False)

    def refresh(self) -> None:
        """Tick and publish every live version, as of now."""
        store = self.store()
        for computation in live_computations(self.conn, {}).values():
            tick(self.conn, computation)
            publish(store, self.conn, computation)

    def online(self, *features: str, **entity: int) -> dict[str, object]:
        """What Feast reads online, with the registry as it is now."""
        read = self.store().get_online_features(features=list(features), entity_rows=[entity])
        return {name: values[0] for name, values in read.to_dict().items()}

    def states(self, view: str) -> dict[int, str]:
        return dict(
            self.conn.execute(
                "SELECT version, state FROM view_versions WHERE view_name = %s", [view]
            ).fetchall()
        )


def between_moves() -> datetime:
    """A moment that is clearly later than what came before, and earlier than what comes."""
    time.sleep(0.02)
    at = datetime.now(UTC)
    time.sleep(0.02)
    return at


@contextmanager
def held_by_another(world: World, view: str) -> Iterator[None]:
    """While another operator is changing a view."""
    with connect(world.database) as other:
        hold_pointer(other, view, wait=False)
        yield


@pytest.fixture(scope="session")
def published_database(
    postgres_server: str,
    template_database: str,
    redis_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """The name of a database with history, the first versions published and filled; to copy."""
    name = f"template_published_{uuid.uuid4().hex[:8]}"
    url = create(postgres_server, name, template_database)
    repository = Repository.copy(tmp_path_factory.mktemp("published"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(addresses.POSTGRES_VARIABLE, url)
        patch.setenv(addresses.REDIS_VARIABLE, redis_server.rpartition("/")[0] + "/12")
        watch(url, users=8, items=24, events=400, at=NOW - timedelta(minutes=5))
        world = World(repository, url)
        with repository.current():
            apply(world.conn, repository.root, since=NOW - HISTORY)
        world.conn.close()
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        cut(conn, name)
    return name


@pytest.fixture
def world(
    postgres_server: str,
    published_database: str,
    redis_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """A store of the test's own, first versions published, Redis filled."""
    redis_url = redis_server.rpartition("/")[0] + "/12"
    redis.Redis.from_url(redis_url).flushdb()
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = create(postgres_server, name, published_database)
    monkeypatch.setenv(addresses.POSTGRES_VARIABLE, url)
    monkeypatch.setenv(addresses.REDIS_VARIABLE, redis_url)
    world = World(Repository.copy(tmp_path / "repository"), url)
    # The copied history has not changed since, however long ago the first test made it.
    world.conn.execute("UPDATE watermarks SET processed_through = now(), published_through = now()")
    rebuild_online(world.store(), computations=live_computations(world.conn, {}).values())
    yield world
    world.conn.close()
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        drop(conn, name)

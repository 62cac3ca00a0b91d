"""Small healthy stores to be spoilt: each a copy of one, on servers that can go back in time."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import redis
from feast import FeatureStore
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total
from psycopg import sql

from benchmarks.versions_setup import REPO
from extensions import addresses
from extensions.asof import Computation, load_computations
from extensions.asof.backfill import backfill
from extensions.consistency import ViewComparison, view_comparison
from extensions.database import connect
from extensions.history.declared_tables import declared_sources
from extensions.history.simulate import simulate
from extensions.local import postgres, valkey
from extensions.operations.database_setup import prepare_database
from extensions.operations.refresh import Refresher
from feature_repo.simulator import Simulation
from monitoring.audit.skew_audit import AuditReport, audit

# Every entity is compared.
EVERYBODY = 5_000
DAY = timedelta(days=1)
BACKFILLED = 3 * DAY
HEALTHY = "healthy"


@dataclass
class World:
    """One store whose database and Redis can each go back to an earlier copy."""

    url: str
    conn: psycopg.Connection
    computations: dict[str, Computation]
    servers: "Servers"

    @property
    def store(self) -> FeatureStore:
        """Opened anew: nothing is remembered of a server that was put back."""
        return FeatureStore(str(REPO))

    @property
    def redis(self) -> "redis.Redis":
        """A client of its Redis."""
        return redis.Redis.from_url(self.servers.redis.url)

    def refresh(self, *, full: bool = False, view: str | None = None) -> None:
        """What `skewless refresh` does."""
        refresher = Refresher(self.conn, self.computations, self.store)
        refresher.refresh(refresher.choose(view), None, full=full)

    def audit(self) -> AuditReport:
        """What `skewless audit` finds over all entities."""
        now = datetime.now(UTC)
        return audit(
            self.store, self.computations, now - timedelta(minutes=1), now, entities=EVERYBODY
        )

    def watch(self, name: str, user: int, at: datetime, arrived: datetime | None = None) -> None:
        """An event that is known from now on, or claims an earlier arrival: that leaves a note."""
        self.conn.execute(_EVENT, [name, user, at, arrived])

    def claim(self, name: str, user: int, at: datetime) -> None:
        """An event that claims to have arrived as it happened, past every note."""
        with self.conn.transaction():
            self.conn.execute("SET LOCAL skewless.noted = 'on'")
            self.watch(name, user, at, at)

    def dump(self, name: str) -> None:
        """A copy of the database as it is now."""
        self.conn.close()
        self.servers.copy(self.url.rpartition("/")[2], name)
        self._connect()

    def restore(self, name: str) -> None:
        """The database as that copy has it."""
        self.conn.close()
        self.servers.copy(name, self.url.rpartition("/")[2])
        self._connect()

    def _connect(self) -> None:
        self.conn = connect(self.url, autocommit=True)


# A missing arrival is the database's clock.
_EVENT = (
    "INSERT INTO watch_events "
    "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
    "VALUES (%s, %s, 1, %s, coalesce(%s, clock_timestamp()), 60000, 0.5)"
)


class Servers:
    """PostgreSQL and Redis for worlds, one at a time; their URLs are in the environment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.postgres = postgres.start(folder / "postgres", durable=False)
        self._home = folder / "redis"
        self._home.mkdir()
        self.redis = valkey.start(self._home)
        self.computations = load_computations(REPO)
        self._healthy()

    def stop(self) -> None:
        """Both."""
        self.redis.stop()
        self.postgres.stop()

    @contextmanager
    def world(self) -> Iterator[World]:
        """A healthy store; what is done to it is gone afterwards."""
        self.put_redis_back(HEALTHY)
        self.copy(HEALTHY, "world")
        with _environment(self._url("world"), self.redis.url):
            world = World(
                self._url("world"),
                connect(self._url("world"), autocommit=True),
                self.computations,
                self,
            )
            try:
                world.refresh()
                yield world
            finally:
                world.conn.close()

    def copy(self, name: str, to: str) -> None:
        """Database ``to`` is what ``name`` is now; whoever is connected to them is cut off."""
        with psycopg.connect(self.postgres.url, autocommit=True) as conn:
            for one in (to, name):
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s "
                    "AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
                    [one],
                )
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(to)))
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                    sql.Identifier(to), sql.Identifier(name)
                )
            )

    def copy_redis(self, name: str) -> None:
        """Its files, with all that was written."""
        self.redis.stop()
        shutil.copytree(self._home, self._folder / name, dirs_exist_ok=True)
        self.redis = valkey.start(self._home, self.redis.ports[0])

    def put_redis_back(self, name: str) -> None:
        """To that copy."""
        self.redis.stop()
        shutil.rmtree(self._home)
        shutil.copytree(self._folder / name, self._home)
        self.redis = valkey.start(self._home, self.redis.ports[0])

    def _url(self, name: str) -> str:
        return self.postgres.url.rpartition("/")[0] + "/" + name

    def _healthy(self) -> None:
        with psycopg.connect(self.postgres.url, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(HEALTHY)))
        url, now = self._url(HEALTHY), datetime.now(UTC)
        with _environment(url, self.redis.url), contextlib.chdir(REPO):
            prepare_database(url, REPO)
            config = load_repo_config(REPO, REPO / "feature_store.yaml")
            apply_total(config, REPO, skip_source_validation=True)
            until = now - timedelta(minutes=1)
            history = Simulation(users=40, items=20, days=40, events=3_000, until=until)
            simulate(url, history, declared_sources(url, REPO))
            with connect(url, autocommit=True) as conn:
                for computation in self.computations.values():
                    backfill(conn, computation, now - BACKFILLED, now)
                World(url, conn, self.computations, self).refresh()
        self.copy_redis(HEALTHY)


@contextmanager
def worlds() -> Iterator[Servers]:
    """Servers and a healthy store on them, for as long as the block lasts."""
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        # Nothing else runs, so that nothing is under way; and every difference is told.
        for name, value in (("SECOND_LOOK_SECONDS", 0.05), ("WORST", EVERYBODY)):
            exits.enter_context(mock.patch.object(view_comparison, name, value))
        servers = Servers(folder)
        exits.callback(servers.stop)
        yield servers


def told(views: tuple[ViewComparison, ...]) -> list[Any]:
    """Every difference of a comparison."""
    return [one for view in views for one in view.worst]


@contextmanager
def _environment(url: str, redis_url: str) -> Iterator[None]:
    names = addresses.POSTGRES_VARIABLE, addresses.REDIS_VARIABLE
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(zip(names, (url, redis_url), strict=True))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

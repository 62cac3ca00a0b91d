"""Servers and databases for the tests: real ones, started once, stopped with the session."""

import importlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from extensions.addresses import project_name
from extensions.asof import Computation, load_computations
from extensions.asof.computation_loading import read_repository
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.history_changes import follow_sources
from extensions.database import connect, migrate
from extensions.local import apache_kafka, postgres, tansu, valkey
from extensions.sources import load_sources
from extensions.sources.storage import ensure_id_tables
from extensions.version_names import HISTORY
from tests.databases import copied, create

# Another repository can be tested by tests of its own (`tests.text_ids`).
OTHER = os.environ.get("SKEWLESS_TESTED_REPOSITORY")
REPO_ROOT = Path(OTHER) if OTHER else Path(__file__).resolve().parent.parent
if OTHER:
    sys.path.insert(0, OTHER)
    importlib.import_module("feature_repo")  # pytest puts this folder before it

# Feast and Great Expectations report usage when they can; tests never do.
os.environ["FEAST_USAGE"] = "False"
os.environ["GX_ANALYTICS_ENABLED"] = "false"

# A shell without job control ignores SIGINT for what it runs in the background (POSIX, "Signals
# and Error Handling"), and children inherit that: the programs that tests interrupt would go on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers, files of few tests come first: those start whole programs.

    One that takes a minute and begins last is waited for by all other workers.
    """
    if hasattr(config, "workerinput"):
        tests_in = Counter(item.path for item in items)
        items.sort(key=lambda item: tests_in[item.path])


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The Feast repository that is tested."""
    return REPO_ROOT


@pytest.fixture(scope="session")
def computations() -> dict[str, Computation]:
    """Every registered computation, by ``view.vN``."""
    return load_computations(REPO_ROOT)


@pytest.fixture
def counts(computations: dict[str, Computation]) -> Computation:
    """The shortest of them: a user's watches of seven days."""
    return computations["user_watch_stats.v1"]


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server's maintenance database."""
    server = postgres.start(tmp_path_factory.mktemp("postgres"), durable=False)
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def template_database(postgres_server: str, computations: dict[str, Computation]) -> str:
    """The name of a migrated database with empty logs, to copy from."""
    name = "template_migrated"
    url = create(postgres_server, name)
    migrate(url, REPO_ROOT / HISTORY)
    with connect(url) as conn:
        project = project_name(REPO_ROOT) or ""
        sources = load_sources(read_repository(REPO_ROOT), conn, project)
        ensure_id_tables(conn, sources.tables.values())
        ensure_log_tables(conn, computations.values())
        follow_sources(conn, computations.values())
    return name


@pytest.fixture(scope="module")
def database(postgres_server: str, template_database: str) -> Iterator[str]:
    """The URL of a fresh, migrated database with empty logs, for one test module."""
    with copied(postgres_server, template_database) as url:
        yield url


@pytest.fixture
def fresh_database(postgres_server: str, template_database: str) -> Iterator[str]:
    """As `database`, for one test."""
    with copied(postgres_server, template_database) as url:
        yield url


@pytest.fixture
def conn(fresh_database: str) -> Iterator[psycopg.Connection]:
    """A connection to it, each statement a transaction of its own."""
    with connect(fresh_database, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis-compatible server."""
    server = valkey.start(tmp_path_factory.mktemp("valkey"), durable=False)
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of the in-memory broker that speaks Kafka's protocol."""
    server = tansu.start(tmp_path_factory.mktemp("tansu"))
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def apache_kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bootstrap address of genuine Apache Kafka; skips with the reason where it cannot run."""
    if reason := apache_kafka.available():
        pytest.skip(reason)
    server = apache_kafka.start(tmp_path_factory.mktemp("kafka"))
    yield server.url
    server.stop()

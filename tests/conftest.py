"""Servers and databases for the tests: real ones, started once, stopped with the session."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from extensions.asof import Computation, load_computations
from extensions.asof.log_tables import ensure_log_tables
from extensions.database import connect, migrate
from extensions.local import apache_kafka, postgres, tansu, valkey

REPO_ROOT = Path(__file__).resolve().parent.parent

# Feast and Great Expectations report usage when they can; tests never do.
os.environ["FEAST_USAGE"] = "False"
os.environ["GX_ANALYTICS_ENABLED"] = "false"


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The Feast repository that is tested."""
    return REPO_ROOT


@pytest.fixture(scope="session")
def computations() -> dict[str, Computation]:
    """Every registered computation, by ``view.vN``."""
    return load_computations(REPO_ROOT)


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
    url = _create(postgres_server, name)
    migrate(url)
    with connect(url) as conn:
        ensure_log_tables(conn, computations.values())
    return name


@pytest.fixture(scope="module")
def database(postgres_server: str, template_database: str) -> Iterator[str]:
    """The URL of a fresh, migrated database with empty logs, for one test module."""
    yield from copy_database(postgres_server, template_database)


@pytest.fixture
def fresh_database(postgres_server: str, template_database: str) -> Iterator[str]:
    """As `database`, for one test."""
    yield from copy_database(postgres_server, template_database)


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


def copy_database(server: str, template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield _create(server, name, template)
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _create(server: str, name: str, template: str = "template1") -> str:
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    return server.rpartition("/")[0] + "/" + name

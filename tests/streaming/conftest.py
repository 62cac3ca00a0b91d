"""Databases with the repository applied, topics of their own, and workers to run."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from streaming.settings import Settings
from tests.databases import create, cut, drop
from tests.streaming.fleet import Fleet

REPO_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def applied_database(postgres_server: str, template_database: str, redis_server: str) -> str:
    """The name of a database with the registry filled, to copy from."""
    # Rooms that borrow this fixture each make one.
    name = f"template_applied_{uuid.uuid4().hex[:8]}"
    url = create(postgres_server, name, template_database)
    with Addresses(url, redis_server):
        config = load_repo_config(REPO_ROOT, REPO_ROOT / "feature_store.yaml")
        apply_total(config, REPO_ROOT, skip_source_validation=False)
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        cut(conn, name)
    return name


@pytest.fixture
def settings(
    postgres_server: str, applied_database: str, redis_server: str, kafka_server: str
) -> Iterator[Settings]:
    """Settings of a stream of its own: database, topic, group; an empty Redis."""
    yield from stream_settings(postgres_server, applied_database, redis_server, kafka_server)


@pytest.fixture
def genuine(
    postgres_server: str, applied_database: str, redis_server: str, apache_kafka_server: str
) -> Iterator[Settings]:
    """As `settings`, on genuine Apache Kafka.

    Workers are killed on this broker only: Tansu 0.1.2 keeps a member that died while the group
    formed as the group's leader for ever, and all others wait for its assignment.
    """
    yield from stream_settings(
        *(postgres_server, applied_database, redis_server, apache_kafka_server),
        session_timeout=1.5,
    )


@pytest.fixture
def fleet(settings: Settings) -> Iterator[Fleet]:
    """Workers as processes, ended with the test."""
    with Fleet(settings) as fleet:
        yield fleet


def stream_settings(
    postgres_server: str, applied: str, redis_server: str, kafka: str, **changes: object
) -> Iterator[Settings]:
    """As the fixture `settings`, for a broker of the caller's choice."""
    name = f"stream_{uuid.uuid4().hex[:12]}"
    url = create(postgres_server, name, applied)
    redis.Redis.from_url(redis_server).flushall()
    values = {"session_timeout": 1.0, "sweep_every": 0.5, "idle_every": 0.3, "report_every": 0.5}
    with Addresses(url, redis_server):
        yield Settings(
            postgres_url=url,
            kafka_bootstrap=kafka,
            topic=name.replace("_", "-"),
            group=name,
            **{**values, **changes},  # type: ignore[arg-type]
        )
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        drop(conn, name)


class Addresses:
    """The addresses that Feast's configuration finds, for a while."""

    def __init__(self, postgres: str, redis: str) -> None:
        self._wanted = {"SKEWLESS_POSTGRES_URL": postgres, "SKEWLESS_REDIS_URL": redis}

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._wanted}
        os.environ.update(self._wanted)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

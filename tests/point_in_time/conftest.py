"""One database with the suite's logs, and Feast stores over it: ours and stock."""

from collections.abc import Iterator

import psycopg
import pytest
from feast import FeatureStore

from tests.point_in_time.views import LOGS, OBJECTS, OURS, TABLES, store_at


@pytest.fixture(scope="module")
def logs(database: str) -> str:
    """The URL of a database with the suite's empty logs."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(TABLES)
    return database


@pytest.fixture(scope="module")
def registry(logs: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry that knows the suite's views."""
    path = str(tmp_path_factory.mktemp("registry") / "registry.db")
    store_at(logs, path, OURS).apply(OBJECTS)
    return path


@pytest.fixture(scope="module")
def ours(logs: str, registry: str) -> FeatureStore:
    """Feast over our offline store."""
    return store_at(logs, registry, OURS)


@pytest.fixture(scope="module")
def stock(logs: str, registry: str) -> FeatureStore:
    """Feast over its own PostgreSQL store."""
    return store_at(logs, registry, "postgres")


@pytest.fixture
def conn(logs: str) -> Iterator[psycopg.Connection]:
    """A connection that commits at once; the logs are empty when the test begins."""
    with psycopg.connect(logs, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(LOGS)}")
        yield connection

"""Saved datasets: written where they are read, whatever the reference, and over what they read."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore, FeatureView, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
    SavedDatasetPostgreSQLStorage,
)
from feast.types import Int64

from extensions.errors import SkewlessError
from tests.exact.conftest import user

AT = datetime(2026, 1, 1, tzinfo=UTC)
stats = FeatureView(
    name="dataset_stats",
    entities=[user],
    ttl=timedelta(0),
    schema=[Field(name="user_id", dtype=Int64), Field(name="x", dtype=Int64)],
    source=PostgreSQLSource(
        name="dataset_stats",
        table="dataset_stats",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    ),
)


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "DROP TABLE IF EXISTS dataset_stats; CREATE TABLE dataset_stats (user_id bigint, "
            "event_timestamp timestamptz, created_timestamp timestamptz, x bigint);"
            "INSERT INTO dataset_stats VALUES (1, '2026-01-01Z', '2026-01-01Z', 5);"
            'CREATE SCHEMA IF NOT EXISTS archive; CREATE SCHEMA IF NOT EXISTS "Old & new"'
        )
        yield connection


@pytest.fixture
def applied(store: FeatureStore, conn: psycopg.Connection) -> FeatureStore:
    store.apply([stats])
    return store


def asked(store: FeatureStore, labels: Any = None) -> Any:
    frame = pd.DataFrame({"user_id": [1], "event_timestamp": [AT + timedelta(days=1)]})
    chosen = frame if labels is None else labels
    return store.get_historical_features(entity_df=chosen, features=["dataset_stats:x"])


@pytest.mark.parametrize(
    "reference",
    ["Winter", '"Winter"', "archive.winter", '"Old & new"."it\'s 100%"', 'public."a.b"', "über"],
)
def test_what_is_written_is_read(
    applied: FeatureStore, conn: psycopg.Connection, reference: str
) -> None:
    storage = SavedDatasetPostgreSQLStorage(table_ref=reference)
    applied.create_saved_dataset(from_=asked(applied), name="d", storage=storage)
    assert applied.get_saved_dataset("d").to_df()["x"].tolist() == [5]
    assert conn.execute(f"SELECT x FROM {reference}").fetchall() == [(5,)]
    with pytest.raises(SkewlessError, match="exists: choose another name"):
        asked(applied).persist(storage)
    conn.execute("UPDATE dataset_stats SET x = 6")
    asked(applied).persist(storage, allow_overwrite=True)
    assert conn.execute(f"SELECT x FROM {reference}").fetchall() == [(6,)]
    conn.execute(f"DROP TABLE {reference}")


@pytest.mark.parametrize("reference", ["a-b", "a b", "1st", 'a."b', "a.b.c", "x" * 64, ""])
def test_what_is_no_name_is_refused(applied: FeatureStore, reference: str) -> None:
    with pytest.raises(SkewlessError, match="is no name of a table"):
        asked(applied).persist(SavedDatasetPostgreSQLStorage(table_ref=reference))


def test_a_dataset_takes_the_place_of_its_own_labels(
    applied: FeatureStore, conn: psycopg.Connection
) -> None:
    """The older set was dropped before its rows were read, by a transaction that waited for it."""
    conn.execute("DROP TABLE IF EXISTS again")
    storage = SavedDatasetPostgreSQLStorage(table_ref="again")
    asked(applied).persist(storage)
    conn.execute("UPDATE dataset_stats SET x = 7")
    labels = "SELECT user_id, event_timestamp FROM again"
    asked(applied, labels).persist(storage, allow_overwrite=True, timeout=20)
    assert conn.execute("SELECT x FROM again").fetchall() == [(7,)]


def test_a_failure_leaves_the_older_dataset(
    applied: FeatureStore, conn: psycopg.Connection
) -> None:
    conn.execute("DROP TABLE IF EXISTS kept")
    storage = SavedDatasetPostgreSQLStorage(table_ref="kept")
    asked(applied).persist(storage)
    broken = "SELECT 1 / 0 AS user_id, now() AS event_timestamp"
    with pytest.raises(SkewlessError):
        asked(applied, broken).persist(storage, allow_overwrite=True)
    assert conn.execute("SELECT count(*) FROM kept").fetchone() == (1,)

"""Names that PostgreSQL would cut, fold or read as something else come back as they were given."""

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
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64

from extensions.errors import SkewlessError
from tests.exact.conftest import user

AT = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = pd.DataFrame({"user_id": [1], "event_timestamp": [AT + timedelta(days=1)]})
QUERY = "SELECT 1::bigint AS user_id, timestamptz '2026-01-02Z' AS event_timestamp"
TV, PHONE = (f"distinct_items_watched_last_thirty_days_{one}" for one in ("tv", "phone"))


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "DROP TABLE IF EXISTS named; CREATE TABLE named (user_id bigint, "
            "event_timestamp timestamptz, created_timestamp timestamptz, "
            f'{TV} bigint, {PHONE} bigint, "Od-d%\'s" bigint);'
            "INSERT INTO named VALUES (1, '2026-01-01Z', '2026-01-01Z', 11, 22, 44)"
        )
        yield connection


def view(name: str, *features: str) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[user],
        ttl=timedelta(0),
        schema=[Field(name=one, dtype=Int64) for one in ("user_id", *features)],
        source=PostgreSQLSource(
            name=name,
            table="named",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


@pytest.mark.parametrize("labels", [LABELS, QUERY], ids=["frame", "query"])
def test_long_names_stay_whole(store: FeatureStore, conn: psycopg.Connection, labels: Any) -> None:
    """Two columns were cut to one name, and details to the name of a third."""
    long = "user_engagement_statistics_of_all_the_devices_that_there_are"
    stats = view(long, TV, PHONE)

    @on_demand_feature_view(
        sources=[stats], schema=[Field(name="total", dtype=Int64)], mode="pandas"
    )
    def total_of(inputs: pd.DataFrame) -> pd.DataFrame:
        total = (
            inputs["distinct_items_watched_last_thirty_days_tv"]
            + inputs["distinct_items_watched_last_thirty_days_phone"]
        )
        return pd.DataFrame({"total": total})

    store.apply([stats, total_of])
    job: Any = store.get_historical_features(
        labels, [f"{long}:{TV}", f"{long}:{PHONE}", "total_of:total"], full_feature_names=True
    )
    [row] = job.in_full().to_arrow().to_pylist()
    assert (row[f"{long}__{TV}"], row[f"{long}__{PHONE}"], row["total_of__total"]) == (11, 22, 33)
    assert row[f"{long}__age_seconds"] == timedelta(days=1).total_seconds()
    assert row[f"{long}__found"] is True


def test_a_view_of_any_name_is_trained_and_served(
    store: FeatureStore, conn: psycopg.Connection
) -> None:
    name, feature = 'We-ird 100%\'s "View"', "Od-d%'s"
    store.apply([view(name, feature)])
    asked = [f"{name}:{feature}"]
    assert store.get_historical_features(LABELS, asked).to_df()[feature].tolist() == [44]
    full = store.get_historical_features(QUERY, asked, full_feature_names=True).to_df()
    assert full[f"{name}__{feature}"].tolist() == [44]
    store.materialize(AT - timedelta(1), AT + timedelta(1), feature_views=[name])
    assert store.get_online_features(asked, [{"user_id": 1}]).to_dict()[feature] == [44]


def test_a_name_in_the_labels_query_that_would_be_cut(
    store: FeatureStore, conn: psycopg.Connection
) -> None:
    store.apply([view("short", TV)])
    long = "x" * 64
    query = QUERY.replace("SELECT", f"SELECT 1 AS {long}, ")
    with pytest.raises(SkewlessError, match=f"has a column {long}, which PostgreSQL cuts"):
        store.get_historical_features(query, [f"short:{TV}"])
    two = QUERY.replace("SELECT", f"SELECT 1 AS {long}a, 2 AS {long}b, ")
    with pytest.raises(SkewlessError, match="more than one column x"):
        store.get_historical_features(two, [f"short:{TV}"])


def test_a_dataset_whose_columns_would_be_cut(
    store: FeatureStore, conn: psycopg.Connection
) -> None:
    long = "v" * 60
    store.apply([view(long, TV)])
    job = store.get_historical_features(LABELS, [f"{long}:{TV}"], full_feature_names=True)
    with pytest.raises(SkewlessError, match="of which PostgreSQL keeps 63"):
        job.persist(SavedDatasetPostgreSQLStorage(table_ref="cut"))
    assert conn.execute("SELECT to_regclass('cut')").fetchone() == (None,)

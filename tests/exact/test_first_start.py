"""Several programs on an empty registry, and a schema whose name must be quoted."""

import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
from feast import FeatureService, FeatureStore, FeatureView, Field, PushSource, RepoConfig
from feast.data_source import PushMode
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Int64

from extensions.addresses import connection_string_of
from tests.databases import create, drop
from tests.exact.conftest import user
from tests.point_in_time.views import OURS, address

AT = datetime(2026, 1, 1, tzinfo=UTC)


def source(name: str) -> PostgreSQLSource:
    return PostgreSQLSource(
        name=name,
        table="stats",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


def view(name: str, of: Any = None) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[user],
        ttl=timedelta(0),
        schema=[Field(name="user_id", dtype=Int64), Field(name="x", dtype=Int64)],
        source=of or source(name),
    )


def opened(database: str, redis: str, registry: str, **offline: Any) -> FeatureStore:
    path = database.replace("postgresql://", "postgresql+psycopg://")
    settings = {"registry_type": "sql", "path": path} if not registry else {"path": registry}
    return FeatureStore(
        config=RepoConfig(
            project="first",
            provider="local",
            registry={**settings, "cache_ttl_seconds": 600},
            offline_store={"type": OURS, **address(database), **offline},
            online_store={
                "type": "extensions.stores.online.store.SkewlessRedisOnlineStore",
                "connection_string": connection_string_of(redis),
            },
            entity_key_serialization_version=3,
        )
    )


def test_several_programs_are_the_first(postgres_server: str, redis_server: str) -> None:
    """All but one ended with an IntegrityError: Feast looks, and then makes what is missing."""
    name = f"first_{uuid.uuid4().hex[:8]}"
    database = create(postgres_server, name)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "CREATE TABLE stats (user_id bigint, event_timestamp timestamptz, "
            "created_timestamp timestamptz, x bigint)"
        )
    together, failures = threading.Barrier(5), []

    def start(number: int) -> None:
        together.wait()
        try:
            store = opened(database, redis_server, "")
            mine, shared = view(f"view{number}"), view("shared")
            service = FeatureService(name=f"service{number}", features=[mine, shared])
            store.apply([user, mine, shared, service])
        except Exception as error:  # noqa: BLE001 - reported below, by the main thread
            failures.append(error)

    programs = [threading.Thread(target=start, args=(number,)) for number in range(5)]
    for program in programs:
        program.start()
    for program in programs:
        program.join()
    assert failures == []
    store = opened(database, redis_server, "")
    assert {one.name for one in store.list_feature_views()} == {
        "shared", *(f"view{number}" for number in range(5)),
    }  # fmt: skip
    store.registry.write_engine.dispose()  # type: ignore[attr-defined]
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        drop(conn, name)


def test_a_schema_that_must_be_quoted(
    fresh_database: str, redis_server: str, tmp_path: Path
) -> None:
    """The join read it; pushes and inference looked at the table of that name in public."""
    with psycopg.connect(fresh_database, autocommit=True) as conn:
        conn.execute(
            'CREATE SCHEMA "Feature-Store, new";'
            "CREATE TABLE public.stats (user_id bigint, x text);"
            'CREATE TABLE "Feature-Store, new".stats (user_id bigint, event_timestamp timestamptz, '
            "created_timestamp timestamptz, x bigint, "
            "UNIQUE (user_id, event_timestamp, created_timestamp));"
            """INSERT INTO "Feature-Store, new".stats VALUES (1, '2026-01-01Z', '2026-01-01Z', 5)"""
        )
    registry = str(tmp_path / "registry.db")
    store = opened(fresh_database, redis_server, registry, db_schema="Feature-Store, new")
    inferred = FeatureView(
        name="inferred", entities=[user], ttl=timedelta(0), source=source("inferred")
    )
    store.apply([user, view("stats", PushSource(name="push", batch_source=source("s"))), inferred])
    assert [field.dtype for field in store.get_feature_view("inferred").features] == [Int64]
    row = pd.DataFrame(
        {"user_id": [2], "event_timestamp": [AT], "created_timestamp": [AT], "x": [6]}
    )
    store.push("push", row, to=PushMode.ONLINE_AND_OFFLINE)
    labels = pd.DataFrame({"user_id": [1, 2], "event_timestamp": [AT + timedelta(days=1)] * 2})
    assert store.get_historical_features(labels, ["stats:x"]).to_df()["x"].tolist() == [5, 6]

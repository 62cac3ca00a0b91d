"""A feature store of a user's own: one table, one view, nothing of ours computed."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, PushSource, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from sqlalchemy import make_url

TIMES = "event_timestamp timestamptz, created_timestamp timestamptz"
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)


def open_store(folder: Path, url: str, redis_url: str, **more: Any) -> FeatureStore:
    """A store over a database and a Redis, with our stores and a project of its own."""
    at, redis_at = make_url(url), make_url(redis_url)
    config: dict[str, Any] = {
        "project": at.database,
        "provider": "local",
        "entity_key_serialization_version": 3,
        "registry": {
            "registry_type": "sql",
            "cache_ttl_seconds": 1,
            "path": url.replace("postgresql://", "postgresql+psycopg://"),
            "serve_features_while_materializing": True,
        },
        "materialization": {"pull_latest_features": True},
        "batch_engine": {"type": "extensions.stores.batch_engine.SkewlessBatchEngine"},
        "offline_store": {
            "type": "extensions.stores.offline.store.SkewlessPostgresOfflineStore",
            "host": at.host,
            "port": at.port,
            "database": at.database,
            "user": at.username,
            "password": str(at.password),
            "sslmode": "prefer",
        },
        "online_store": {
            "type": "extensions.stores.online.store.SkewlessRedisOnlineStore",
            "connection_string": f"{redis_at.host}:{redis_at.port},db={redis_at.database}",
        },
    }
    for part, settings in more.items():
        config[part] |= settings
    folder.mkdir(exist_ok=True)
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    return FeatureStore(repo_path=str(folder))


def stats(features: dict[str, Any], *entities: Entity, **more: Any) -> FeatureView:
    """The view ``stats`` of the table of that name, which can be pushed to."""
    log = PostgreSQLSource(
        name="stats_log",
        table="stats",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    return FeatureView(
        name="stats",
        entities=list(entities or [user]),
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=dtype) for name, dtype in features.items()],
        source=PushSource(name="stats_push", batch_source=log),
        **more,
    )


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        for one in statements:
            conn.execute(one)


@contextmanager
def quiet() -> Iterator[None]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def materialize(store: FeatureStore, start: datetime, end: datetime) -> None:
    with quiet():
        store.materialize(start, end)


def online(store: FeatureStore, features: list[str], **ids: int) -> list[Any]:
    """The values of one entity, in the order of ``features``."""
    refs = [f"stats:{name}" for name in features]
    found = store.get_online_features(features=refs, entity_rows=[ids]).to_dict()
    return [found[name][0] for name in features]


def hours_ago(hours: float) -> datetime:
    return (datetime.now(UTC) - timedelta(hours=hours)).replace(microsecond=0)

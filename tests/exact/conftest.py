"""A Feast store over our stores, without versions: views are made by the tests."""

import uuid
from pathlib import Path

import pytest
from feast import Entity, FeatureStore, RepoConfig, ValueType

from extensions.addresses import connection_string_of
from tests.point_in_time.views import OURS, address

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)


@pytest.fixture
def store(database: str, redis_server: str, tmp_path: Path) -> FeatureStore:
    """Ours on both sides, with an entity and nothing else."""
    made = FeatureStore(
        config=RepoConfig(
            project="p" + uuid.uuid4().hex[:8],
            provider="local",
            registry={"path": str(tmp_path / "registry.db"), "cache_ttl_seconds": 600},
            offline_store={"type": OURS, **address(database), "connections": 1},
            online_store={
                "type": "extensions.stores.online.store.SkewlessRedisOnlineStore",
                "connection_string": connection_string_of(redis_server),
            },
            batch_engine={"type": "extensions.stores.batch_engine.SkewlessBatchEngine"},
            materialization={"pull_latest_features": True},
            entity_key_serialization_version=3,
        )
    )
    made.apply([user])
    return made

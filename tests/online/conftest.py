"""Stores over one real Redis: ours and Feast's, each with its own project and database."""

import uuid
from typing import Any

import pytest
import redis
from feast import RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig

from extensions.addresses import connection_string_of
from extensions.stores.online.store import SkewlessRedisOnlineStore, SkewlessRedisOnlineStoreConfig


def config_of(url: str, project: str, *, feast: bool = False, **settings: Any) -> RepoConfig:
    """A configuration without a repository: the online store is all it has."""
    kind = RedisOnlineStoreConfig if feast else SkewlessRedisOnlineStoreConfig
    return RepoConfig(
        project=project,
        provider="local",
        registry={
            "registry_type": "file",
            "path": "/dev/null",
            "enable_online_feature_view_versioning": True,
        },
        online_store=kind(connection_string=connection_string_of(url), **settings),
        entity_key_serialization_version=3,
    )


@pytest.fixture
def config(redis_server: str) -> RepoConfig:
    """Ours, in a project of its own."""
    return config_of(redis_server, f"p{uuid.uuid4().hex[:8]}")


@pytest.fixture
def feast_config(redis_server: str) -> RepoConfig:
    """Feast's own Redis store, in a project of its own."""
    return config_of(redis_server, f"p{uuid.uuid4().hex[:8]}", feast=True)


@pytest.fixture
def store() -> SkewlessRedisOnlineStore:
    return SkewlessRedisOnlineStore()


@pytest.fixture
def feast_store() -> RedisOnlineStore:
    return RedisOnlineStore()


@pytest.fixture
def client(redis_server: str) -> redis.Redis:
    return redis.Redis.from_url(redis_server)

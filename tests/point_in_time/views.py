"""The suite's own views: every type of key and feature, composite keys, a short TTL."""

from datetime import timedelta

from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.repo_config import RegistryConfig
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from sqlalchemy import make_url

TTL = timedelta(hours=1)
NOWHERE = "[0.5, -0.5]"

TABLES = """
CREATE TABLE pairs_v1 (
    user_id bigint NOT NULL, item_id bigint NOT NULL,
    event_timestamp timestamptz NOT NULL, created_timestamp timestamptz NOT NULL,
    seen bigint, score real, word text, place real[]
);
CREATE INDEX ON pairs_v1 (user_id, item_id, event_timestamp DESC, created_timestamp DESC);
CREATE TABLE names_log (
    name text NOT NULL,
    event_timestamp timestamptz NOT NULL, created_timestamp timestamptz NOT NULL,
    rank integer, weight double precision, flag boolean
);
CREATE UNIQUE INDEX ON names_log (name, event_timestamp DESC, created_timestamp DESC);
CREATE TABLE kinds_log (
    k_int integer NOT NULL, k_bytes bytea NOT NULL, k_bool boolean NOT NULL,
    k_time timestamptz NOT NULL, k_float double precision NOT NULL, k_uuid uuid NOT NULL,
    event_timestamp timestamptz NOT NULL, created_timestamp timestamptz NOT NULL,
    kind bigint
);
"""

LOGS = ("pairs_v1", "names_log", "kinds_log")


def _source(table: str) -> PostgreSQLSource:
    return PostgreSQLSource(
        name=table,
        table=table,
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
name = Entity(name="name", join_keys=["name"], value_type=ValueType.STRING)
KINDS = {
    "k_int": ValueType.INT32,
    "k_bytes": ValueType.BYTES,
    "k_bool": ValueType.BOOL,
    "k_time": ValueType.UNIX_TIMESTAMP,
    "k_float": ValueType.DOUBLE,
    "k_uuid": ValueType.STRING,
}
kinds_entities = [
    Entity(name=key, join_keys=[key], value_type=value_type) for key, value_type in KINDS.items()
]

pairs = FeatureView(
    name="pairs",
    entities=[user, item],
    ttl=timedelta(0),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="item_id", dtype=Int64),
        Field(name="seen", dtype=Int64, tags={"default": "0"}),
        Field(name="score", dtype=Float32, tags={"default": "-1.5"}),
        Field(name="word", dtype=String, tags={"default": '"it\'s \\\\ \\"none\\""'}),
        Field(name="place", dtype=Array(Float32), tags={"default": NOWHERE}),
    ],
    source=_source("pairs_v1"),
)

names = FeatureView(
    name="names",
    entities=[name],
    ttl=TTL,
    schema=[
        Field(name="name", dtype=String),
        Field(name="rank", dtype=Int32),
        Field(name="weight", dtype=Float64),
        Field(name="flag", dtype=Bool),
    ],
    source=_source("names_log"),
)

_FIELDS = {
    "k_int": Int32,
    "k_bytes": Bytes,
    "k_bool": Bool,
    "k_time": UnixTimestamp,
    "k_float": Float64,
    "k_uuid": String,
}
kinds = FeatureView(
    name="kinds",
    entities=kinds_entities,
    ttl=timedelta(0),
    schema=[
        *(Field(name=key, dtype=dtype) for key, dtype in _FIELDS.items()),
        Field(name="kind", dtype=Int64),
    ],
    source=_source("kinds_log"),
)

OBJECTS = [user, item, name, *kinds_entities, pairs, names, kinds]
PAIRS = ["pairs:seen", "pairs:score", "pairs:word", "pairs:place"]
NAMES = ["names:rank", "names:weight", "names:flag"]


def address(url: str) -> dict[str, object]:
    """A PostgreSQL URL as Feast's configuration wants it."""
    parsed = make_url(url)
    return {
        "host": parsed.host,
        "port": parsed.port,
        "database": parsed.database,
        "user": parsed.username,
        "password": str(parsed.password or ""),
        "sslmode": "prefer",
    }


OURS = "extensions.stores.offline.store.SkewlessPostgresOfflineStore"


def store_at(url: str, registry: str, offline: str, **options: object) -> FeatureStore:
    """A Feast store on the database at ``url``; ``offline`` is ours or ``postgres``."""
    return FeatureStore(
        config=RepoConfig(
            project="suite",
            provider="local",
            registry=RegistryConfig(
                path=registry, cache_ttl_seconds=600, enable_online_feature_view_versioning=True
            ),
            offline_store={"type": offline, **address(url), **options},
            online_store={"type": "sqlite", "path": registry + ".online"},
            entity_key_serialization_version=3,
        )
    )

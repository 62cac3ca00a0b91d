"""What the training benchmark measures on: two stores, a log, labels, and how to compare."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.repo_config import RegistryConfig
from feast.types import Float32, Int64
from sqlalchemy import make_url

from extensions.addresses import connection_string_of
from extensions.database import migrate
from extensions.repository import repo_root
from extensions.stores.offline.retrieval_job import SkewlessRetrievalJob
from extensions.version_names import HISTORY

OURS = "extensions.stores.offline.store.SkewlessPostgresOfflineStore"
ENGINE = "extensions.stores.batch_engine.SkewlessBatchEngine"
REPO = Path(__file__).resolve().parent.parent
START = datetime(2026, 1, 1, tzinfo=UTC)
SPAN = timedelta(days=60)
TTL = timedelta(days=30)
INDEX = "unique index (user_id, event_timestamp DESC, created_timestamp DESC)"


@dataclass(frozen=True)
class Size:
    """How much is measured: one log of ``users`` (the demo's number), one of ``many_users``.

    ``materialized``: numbers of users whose rows are taken from a log to Redis.
    """

    users: int
    many_users: int
    log_rows: int
    labels: int
    many_labels: int
    service_labels: int
    events: int
    materialized: tuple[int, ...]
    runs: int
    stock_runs: int


MATERIALIZED = (100_000, 1_000_000)
FULL = Size(20_000, 100_000, 5_000_000, 100_000, 1_000_000, 10_000, 1_000_000, MATERIALIZED, 3, 3)
QUICK = Size(1_000, 5_000, 200_000, 5_000, 50_000, 500, 4_000, (20_000,), 3, 1)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)


def _view(name: str) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[user],
        ttl=TTL,
        schema=[Field(name="user_id", dtype=Int64), Field(name="seen", dtype=Int64)],
        source=PostgreSQLSource(
            name=f"{name}_v1",
            table=f"{name}_v1",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


# The same number of log rows: many of few users, and few of many.
watched, sparse = _view("watched"), _view("sparse")


def habits(users: int) -> FeatureView:
    """Three features; the newest row of each user is what goes online."""
    view = _view(f"habits_{users}")
    return FeatureView(
        name=view.name,
        entities=[user],
        ttl=timedelta(0),
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="watched", dtype=Int64),
            Field(name="minutes", dtype=Float32),
            Field(name="hour", dtype=Int64),
        ],
        source=view.batch_source,
    )


@dataclass(frozen=True)
class Stores:
    """Feast twice over one database and one registry; ``relaxed``: ours, arrival not asked."""

    ours: FeatureStore
    stock: FeatureStore
    relaxed: FeatureStore
    url: str


def open_stores(url: str, redis: str, folder: Path, objects: list[Any]) -> Stores:
    """Apply ``objects`` once and open them through both offline stores."""
    parsed = make_url(url)
    address = {
        "host": parsed.host,
        "port": parsed.port,
        "database": parsed.database,
        "user": parsed.username,
        "password": str(parsed.password or ""),
        "sslmode": "prefer",
    }

    def opened(offline: str, online: str, engine: str, **options: Any) -> FeatureStore:
        return FeatureStore(
            config=RepoConfig(
                project="training",
                provider="local",
                registry=RegistryConfig(path=str(folder / "registry.db"), cache_ttl_seconds=3600),
                offline_store={"type": offline, **address, **options},
                batch_engine={"type": engine},
                online_store={"type": online, "connection_string": connection_string_of(redis)},
                entity_key_serialization_version=3,
            )
        )

    online = "extensions.stores.online.store.SkewlessRedisOnlineStore"
    stores = Stores(
        ours=opened(OURS, online, ENGINE),
        stock=opened("postgres", "redis", "local"),
        relaxed=opened(OURS, online, ENGINE, bitemporal=False),
        url=url,
    )
    with quiet():
        stores.ours.apply(objects)
    stores.ours.config.materialization_config.pull_latest_features = True
    for store in (stores.ours, stores.stock, stores.relaxed):
        store.refresh_registry()  # type: ignore[no-untyped-call]
    return stores


def fill_log(url: str, table: str, users: int, size: Size) -> None:
    """A log of ``log_rows`` rows over 60 days; each is published within two minutes."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            f"CREATE TABLE {table} (user_id bigint NOT NULL, event_timestamp timestamptz NOT "
            "NULL, created_timestamp timestamptz NOT NULL, seen bigint)"
        )
        conn.execute("SELECT setseed(0.5)")
        conn.execute(
            f"INSERT INTO {table} SELECT floor(random() * %s)::bigint, at, "
            "at + random() * interval '2 minutes', floor(random() * 50)::bigint FROM "
            "(SELECT %s::timestamptz + g * (%s::interval / %s) AS at "
            "FROM generate_series(1, %s) AS g) AS s",
            [users, START, SPAN, size.log_rows, size.log_rows],
        )
        conn.execute(
            f"CREATE UNIQUE INDEX ON {table} "
            "(user_id, event_timestamp DESC, created_timestamp DESC)"
        )
        conn.execute(f"VACUUM ANALYZE {table}")


def fill_habits(url: str, users: int) -> None:
    """One row of each user, of the last hour, in no order."""
    table = f"habits_{users}_v1"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            f"CREATE TABLE {table} (user_id bigint NOT NULL, event_timestamp timestamptz NOT NULL, "
            "created_timestamp timestamptz NOT NULL, watched bigint, minutes real, hour bigint)"
        )
        conn.execute("SELECT setseed(0.5)")
        conn.execute(
            f"INSERT INTO {table} SELECT g, at, at + interval '2 seconds', floor(random() * 90), "
            "random() * 60, floor(random() * 24) FROM (SELECT g, now() - random() * interval "
            "'1 hour' AS at FROM generate_series(1, %s) AS g ORDER BY random()) AS s",
            [users],
        )
        conn.execute(
            f"CREATE UNIQUE INDEX ON {table} "
            "(user_id, event_timestamp DESC, created_timestamp DESC)"
        )
        conn.execute(f"VACUUM ANALYZE {table}")


def random_labels(count: int, users: int, seed: int = 1) -> pd.DataFrame:
    """Distinct labels over the log's last 40 days, in no order."""
    random = np.random.default_rng(seed)
    micros = np.int64(START.timestamp() * 1e6) + random.integers(
        20 * 86_400_000_000, 60 * 86_400_000_000, count
    )
    return pd.DataFrame(
        {
            "user_id": random.integers(0, users, count),
            "event_timestamp": pd.to_datetime(micros, unit="us", utc=True),
        }
    ).drop_duplicates(ignore_index=True)


def asked(store: FeatureStore, labels: pd.DataFrame, features: Any) -> pd.DataFrame:
    """What a user of Feast does."""
    with quiet():
        return store.get_historical_features(entity_df=labels, features=features).to_df()


def question(store: FeatureStore, labels: pd.DataFrame, features: Any) -> SkewlessRetrievalJob:
    """Our own job, not yet run."""
    job = store.get_historical_features(entity_df=labels, features=features)
    assert isinstance(job, SkewlessRetrievalJob)
    return job


def same(ours: pd.DataFrame, stock: pd.DataFrame, keys: list[str]) -> bool:
    """Value by value; stock returns rows in any order and drops the labels' time zone."""
    ours, stock = (
        frame.assign(
            event_timestamp=pd.to_datetime(frame["event_timestamp"], utc=True)
        ).sort_values(keys, ignore_index=True)
        for frame in (ours, stock)
    )
    if len(ours) != len(stock):
        return False
    return all(_equal(ours[name], stock[name]) for name in ours.columns)


def _equal(ours: "pd.Series[Any]", stock: "pd.Series[Any]") -> bool:
    if isinstance(ours.iloc[0], np.ndarray):
        return np.array_equal(np.stack(ours.to_list()), np.stack(stock.to_list()))
    return bool(((ours == stock) | (ours.isna() & stock.isna())).all())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Feast reports on stdout and stderr as it goes."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def fresh(server: str, name: str) -> str:
    """A migrated database of its own."""
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"')
    url = server.rpartition("/")[0] + "/" + name
    migrate(url, repo_root() / HISTORY)
    return url

"""Materialization loses no row: late ticks, ends in the future, backfills, pushes dated back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
import redis
from feast import FeatureStore, RepoConfig

from extensions.addresses import connection_string_of
from extensions.stores.offline.materialization import RowsToPublish
from tests.point_in_time.views import OBJECTS, OURS, store_at

MINUTE = timedelta(minutes=1)
Seen = Callable[[int], int | None]


@pytest.fixture(params=["latest", "all", "engine"])
def store(
    logs: str,
    redis_server: str,
    tmp_path: Path,
    conn: psycopg.Connection,
    request: pytest.FixtureRequest,
) -> FeatureStore:
    """A store whose views were never materialized: Feast's engine in its two ways, or ours."""
    conn.execute("TRUNCATE materializations, late_appends, backfills")
    fresh = store_at(logs, str(tmp_path / "registry.db"), OURS)
    if request.param == "engine":
        url = f"{redis_server.rpartition('/')[0]}/5"
        redis.Redis.from_url(url).flushdb()
        fresh = by_our_engine(fresh.config, url)
    fresh.config.materialization_config.pull_latest_features = request.param != "all"
    fresh.apply(OBJECTS)
    return fresh


def by_our_engine(config: RepoConfig, url: str) -> FeatureStore:
    """The same store with our engine, which writes to our online store only."""
    return FeatureStore(
        config=RepoConfig(
            project=config.project,
            provider="local",
            registry=config.registry_config,
            offline_store=config.offline_config,
            online_store={
                "type": "extensions.stores.online.store.SkewlessRedisOnlineStore",
                "connection_string": connection_string_of(url),
            },
            batch_engine="extensions.stores.batch_engine.SkewlessBatchEngine",
            entity_key_serialization_version=3,
        )
    )


@pytest.fixture
def seen(store: FeatureStore) -> Seen:
    """What Redis' stand-in serves for user N and item 1."""

    def ask(user: int) -> int | None:
        rows = [{"user_id": user, "item_id": 1}]
        answer = store.get_online_features(["pairs:seen"], rows).to_dict()
        value: int | None = answer["seen"][0]
        return value

    return ask


def tick(
    conn: psycopg.Connection, user: int, value: int, at: datetime, created: datetime | None = None
) -> None:
    """A row computed for ``at`` and stamped by the database's clock."""
    conn.execute(
        "INSERT INTO pairs_v1 VALUES (%s, 1, %s, coalesce(%s, clock_timestamp()), %s)",
        [user, at, created, value],
    )


def now() -> datetime:
    return datetime.now(UTC)


def materialize(store: FeatureStore, end: datetime) -> None:
    store.materialize_incremental(end, feature_views=["pairs"])


def test_a_tick_that_commits_late_reaches_the_next_run(
    store: FeatureStore, seen: Seen, conn: psycopg.Connection, logs: str
) -> None:
    tick(conn, 1, 1, now() - 10 * MINUTE)
    with psycopg.connect(logs) as open_tick:
        tick(open_tick, 2, 2, now() - MINUTE)
        # The row's event time and its created time lie within this run's range; it is not
        # there to see.
        materialize(store, now())
        assert seen(1) == 1
        assert not seen(2)
        open_tick.commit()
    materialize(store, now())
    assert (seen(1), seen(2)) == (1, 2)


def test_a_tick_late_by_a_minute(store: FeatureStore, seen: Seen, conn: psycopg.Connection) -> None:
    tick(conn, 1, 1, now() - 10 * MINUTE)
    materialize(store, now())
    tick(conn, 2, 2, now() - MINUTE)
    materialize(store, now())
    assert (seen(1), seen(2)) == (1, 2)


def test_an_end_in_the_future_swallows_nothing(
    store: FeatureStore, seen: Seen, conn: psycopg.Connection
) -> None:
    materialize(store, now() + 60 * MINUTE)
    for value in (1, 2, 3):
        tick(conn, value, value, now() - MINUTE)
        materialize(store, now())
        assert seen(value) == value
    materialize(store, now() + 120 * MINUTE)
    tick(conn, 4, 4, now())
    materialize(store, now())
    assert seen(4) == 4


def test_a_run_that_failed_is_made_good(
    store: FeatureStore, seen: Seen, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(conn, 1, 1, now() - 10 * MINUTE)
    materialize(store, now())
    tick(conn, 2, 2, now() - MINUTE)
    online = type(store._get_provider().online_store)  # type: ignore[attr-defined]

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ConnectionError("the online store is away")

    with monkeypatch.context() as patch:
        patch.setattr(online, "online_write_batch", refuse)
        patch.setattr(online, "write_arrow", refuse, raising=False)
        with pytest.raises(ConnectionError):
            materialize(store, now())
    assert not seen(2)
    materialize(store, now())
    assert seen(2) == 2


def test_a_backfill_reaches_the_next_run(
    store: FeatureStore, seen: Seen, conn: psycopg.Connection
) -> None:
    materialize(store, now())
    past = now() - timedelta(days=3)
    tick(conn, 1, 1, past, created=past)
    conn.execute(
        "INSERT INTO backfills (view_name, version, range_start, range_end, done_through) "
        "VALUES ('pairs', 1, %(at)s, %(at)s, %(at)s)",
        {"at": past},
    )
    materialize(store, now())
    assert seen(1) == 1


def test_a_push_dated_back_reaches_the_next_run(
    store: FeatureStore, seen: Seen, conn: psycopg.Connection
) -> None:
    materialize(store, now())
    past = now() - timedelta(days=3)
    rows = pa.table(
        {
            "user_id": [1],
            "item_id": [1],
            "event_timestamp": [past],
            "created_timestamp": [past],
            "seen": [5],
            "score": pa.nulls(1, pa.float32()),
            "word": pa.nulls(1, pa.string()),
            "place": pa.nulls(1, pa.list_(pa.float32())),
        }
    )
    view = store.get_feature_view("pairs")
    store._get_provider().ingest_df_to_offline_store(view, rows)  # type: ignore[attr-defined]
    materialize(store, now())
    assert seen(1) == 5


def test_only_what_is_new_is_read(
    store: FeatureStore, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for user in range(20):
        tick(conn, user, 1, now() - 10 * MINUTE, created=now() - 10 * MINUTE)
    materialize(store, now())
    read: list[int] = []
    chunks = RowsToPublish.chunks
    monkeypatch.setattr(
        RowsToPublish,
        "chunks",
        lambda self, session: (read.append(t.num_rows) or t for t in chunks(self, session)),
    )
    tick(conn, 3, 2, now())
    materialize(store, now())
    assert read == [1]


def test_every_chunk_is_written(store: FeatureStore, seen: Seen, conn: psycopg.Connection) -> None:
    """Feast's writer takes the first chunk of what it is given; ours gives it one."""
    conn.execute(
        "INSERT INTO pairs_v1 SELECT g, 1, %s, %s, g, g, repeat('x', 5000), "
        "array_fill(g::real, ARRAY[3000]) FROM generate_series(0, 1999) AS g",
        [now(), now()],
    )
    materialize(store, now())
    assert [seen(user) for user in (0, 1000, 1999)] == [0, 1000, 1999]

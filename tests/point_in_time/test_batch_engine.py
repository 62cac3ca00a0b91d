"""Materialization by our batch engine leaves in Redis, byte for byte, what Feast's own leaves."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pytest
import redis
from feast import (
    BatchFeatureView,
    FeatureStore,
    Field,
    RepoConfig,
)
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.repo_config import RegistryConfig
from feast.types import (
    Int64,
)

from extensions.addresses import connection_string_of
from extensions.stores.offline.join import latest_rows
from tests.point_in_time.own_views import OWN, WIDE, account, buyer, own, own_views, source
from tests.point_in_time.views import OBJECTS, OURS, address

ENGINE = "extensions.stores.batch_engine.SkewlessBatchEngine"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SPAN = (NOON - timedelta(days=300), datetime.now(UTC) + timedelta(days=1))

Stores = dict[str, tuple[FeatureStore, redis.Redis]]
OURSELVES = ("pairs", "names", "kinds")


@pytest.fixture(scope="module")
def filled(logs: str) -> str:
    with psycopg.connect(logs, autocommit=True) as conn:
        conn.execute(OWN)
        conn.execute(
            "TRUNCATE pairs_v1, names_log, kinds_log;"
            "INSERT INTO pairs_v1 SELECT g % 400, g % 7, t, t + interval '1 second', "
            "nullif(g, 5), CASE WHEN g % 11 > 0 THEN g / 7.0 END, "
            "CASE WHEN g % 3 > 0 THEN repeat('日', g % 120) END, "
            "CASE WHEN g % 4 > 0 THEN array_fill(g::real / 3, ARRAY[g % 5]) END "
            "FROM (SELECT g, timestamptz '2026-02-01Z' + (g * 7919 % 5000) * interval '1 minute' "
            "AS t FROM generate_series(1, 6000) AS g) AS s;"
            "INSERT INTO names_log SELECT 'n' || g, t, t, g, g / 3.0, g % 2 = 0 FROM "
            "(SELECT g, now() - interval '9 minutes' AS t FROM generate_series(1, 50) AS g) s;"
            "INSERT INTO kinds_log SELECT g, int4send(g), g % 2 = 0, t, g / 2.0,"
            " md5(g::text)::uuid, t, t, g FROM (SELECT g, timestamptz '2026-02-01Z' AS t "
            "FROM generate_series(1, 40) AS g) AS s"
        )
    return logs


@pytest.fixture(scope="module")
def stores(filled: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """Feast by either engine, each with a Redis database of its own, over one PostgreSQL."""
    made = {}
    cases = {
        "ours": (6, ENGINE, OURS),
        "stock": (7, "local", "postgres"),
        "between": (8, "local", OURS),
    }
    for name, (database, engine, offline) in cases.items():
        url = f"{redis_server.rpartition('/')[0]}/{database}"
        client = redis.Redis.from_url(url)
        client.flushdb()
        store = FeatureStore(
            config=RepoConfig(
                project="suite",
                provider="local",
                registry=RegistryConfig(
                    path=str(tmp_path_factory.mktemp("engine") / "registry.db"),
                    cache_ttl_seconds=600,
                    enable_online_feature_view_versioning=True,
                ),
                offline_store={"type": offline, **address(filled)},
                online_store={
                    "type": "extensions.stores.online.store.SkewlessRedisOnlineStore",
                    "connection_string": connection_string_of(url),
                },
                batch_engine={"type": engine},
                entity_key_serialization_version=3,
            )
        )
        store.apply([*OBJECTS, account, buyer, *own_views])
        made[name] = (store, client)
    return made


@pytest.fixture
def ours(stores: Stores) -> FeatureStore:
    return stores["ours"][0]


@pytest.fixture
def feasts(ours: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tasks that our engine leaves to Feast's."""
    tasks: list[Any] = []
    whole = LocalComputeEngine._materialize_one

    def note(self: Any, registry: Any, task: Any, **kwargs: Any) -> Any:
        tasks.append(task)
        return whole(self, registry, task, **kwargs)

    monkeypatch.setattr(LocalComputeEngine, "_materialize_one", note)
    return tasks


def content(client: redis.Redis) -> dict[bytes, Any]:
    """Every key of rows with its bytes and what is left of its time."""
    found: dict[bytes, Any] = {}
    for key in client.scan_iter(count=1000):
        if b":!" in key:  # whose the prefix is, and the like
            continue
        value = client.get(key) if client.type(key) == b"string" else client.hgetall(key)
        found[key] = (value, client.pttl(key) > 0)
    return found


# What Feast's own offline store cannot read: bytes that are no text; a view of nobody.
BEYOND_STOCK = {
    "kinds": "Invalid UTF8",
    "everyone": "__dummy_id not found",
}


@pytest.mark.parametrize("view", [*OURSELVES, *(v.name for v in own_views if v.name != "precise")])
def test_every_byte_is_the_same(stores: Stores, feasts: list[Any], view: str) -> None:
    """Beside stock, or where that fails beside Feast's engine over our offline store."""
    if view in BEYOND_STOCK:
        with pytest.raises(Exception, match=BEYOND_STOCK[view]):
            stores["stock"][0].materialize(*SPAN, feature_views=[view])
    held = {}
    for name in ("ours", "between" if view in BEYOND_STOCK else "stock"):
        store, client = stores[name]
        client.flushdb()
        feasts.clear()
        store.materialize(*SPAN, feature_views=[view])
        assert bool(feasts) == (name != "ours")
        held[name] = content(client)
    mine, others = held.values()
    assert mine
    assert mine == others


def test_digits_and_identities_are_kept(ours: FeatureStore, filled: str) -> None:
    ours.materialize(*SPAN, feature_views=["precise"])
    with psycopg.connect(filled) as conn:
        [(name, spent, ident)] = conn.execute(
            'SELECT account, "Spent"::text, ident::text FROM own ORDER BY "at" DESC LIMIT 1'
        ).fetchall()
    [row] = [{"account": name}]
    answer = ours.get_online_features(["precise:Spent", "precise:ident", "precise:doc"], [row])
    found = answer.to_dict()
    assert (str(found["Spent"][0]), found["ident"][0]) == (spent, ident)
    assert found["doc"] == ['{"a": 1}']


def test_numerics_in_a_training_set(ours: FeatureStore, stores: Stores, filled: str) -> None:
    """Doubles as from stock, or text with every digit where the view declares it."""
    labels = pd.DataFrame({"account": ["a1", "nobody"], "event_timestamp": [NOON, NOON]})
    asked = {"entity_df": labels, "features": ["converted:Spent", "precise:ident"]}
    table = ours.get_historical_features(**asked).to_arrow()
    stock = stores["stock"][0].get_historical_features(labels, ["converted:Spent"]).to_arrow()
    assert table["Spent"].type == stock["Spent"].type == pa.float64()
    with psycopg.connect(filled) as conn:
        [(spent, ident)] = conn.execute(
            "SELECT \"Spent\"::text, ident::text FROM own WHERE account = 'a1' "
            'ORDER BY "at" DESC LIMIT 1'
        ).fetchall()
    assert table["Spent"].to_pylist() == [float(spent), None]
    assert table["ident"].to_pylist() == [ident, None]
    exact = ours.get_historical_features(labels, ["precise:Spent"]).to_arrow()
    assert exact["Spent"].to_pylist() == [spent, None]
    query = "SELECT 'a1' AS account, 1.50::numeric AS weight, now() AS event_timestamp"
    [row] = ours.get_historical_features(query, ["converted:Spent"]).to_arrow().to_pylist()
    assert (row["weight"], row["Spent"]) == (1.5, float(spent))


def test_what_stock_loses_is_kept(
    stores: Stores, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A null beside it makes stock read whole numbers as doubles; NaN becomes null there."""
    large = 2**60 + 1
    conn.execute(
        "INSERT INTO pairs_v1 VALUES (1, 1, %(at)s, %(at)s, %(large)s, 'NaN', '', NULL), "
        "(2, 1, %(at)s, %(at)s, NULL, NULL, NULL, NULL)",
        {"at": NOON, "large": large},
    )
    asked: dict[str, Any] = {
        "features": ["pairs:seen", "pairs:score"],
        "entity_rows": [{"user_id": 1, "item_id": 1}, {"user_id": 2, "item_id": 1}],
    }
    found = {}
    for name in ("ours", "stock"):
        store, client = stores[name]
        client.flushdb()
        store.materialize(*SPAN, feature_views=["pairs"])
        answer = store.get_online_features(**asked).to_dict()
        found[name] = (answer["seen"], [str(score) for score in answer["score"]])
    assert found["ours"] == ([large, None], ["nan", "None"])
    assert found["stock"] == ([2**60, None], ["None", "None"])


def test_a_newer_row_stays(stores: Stores, conn: psycopg.Connection) -> None:
    store, client = stores["ours"]
    client.flushdb()
    conn.execute(
        "INSERT INTO pairs_v1 SELECT g, 1, %s, %s, 1 FROM generate_series(1, 9) AS g", [NOON, NOON]
    )
    pushed = pd.DataFrame(
        {
            "user_id": [3, 4, 5],
            "item_id": 1,
            "seen": 2,
            "score": 0.5,
            "word": "",
            "place": [[1.0]] * 3,
            "event_timestamp": [NOON + SECOND, NOON - SECOND, NOON],
            "created_timestamp": [NOON + SECOND, NOON + SECOND, NOON + SECOND],
        }
    )
    store.write_to_online_store("pairs", pushed)
    store.materialize(*SPAN, feature_views=["pairs"])
    rows = [{"user_id": user, "item_id": 1} for user in range(1, 10)]
    seen = store.get_online_features(["pairs:seen"], rows).to_dict()["seen"]
    # Newer by event; older by event; of the same event and published later.
    assert seen == [1, 1, 2, 1, 2, 1, 1, 1, 1]


def test_two_versions_are_kept_apart(stores: Stores, filled: str) -> None:
    held = []
    for name in ("ours", "stock"):
        store, client = stores[name]
        client.flushdb()
        store.materialize(*SPAN, feature_views=["shrinking"], version="v1")
        first = content(client)
        store.apply([own("shrinking", WIDE, version="v2")])
        assert content(client) == first
        store.materialize(*SPAN, feature_views=["shrinking"], version="v2")
        both = content(client)
        assert set(both) == set(first)
        assert all(len(both[key][0]) > len(first[key][0]) for key in first)
        held.append(both)
    assert held[0] == held[1]


@pytest.mark.parametrize("rows", [1, 37, None])
def test_every_part_is_written(
    stores: Stores, feasts: list[Any], conn: psycopg.Connection, rows: int | None
) -> None:
    """Of what comes in several chunks stock writes the first one only."""
    store, client = stores["ours"]
    client.flushdb()
    conn.execute(
        "INSERT INTO pairs_v1 SELECT g, 1, %s, %s, g, g, repeat('x', 5000), "
        "array_fill(g::real, ARRAY[3000]) FROM generate_series(0, 1999) AS g",
        [NOON, NOON],
    )
    store.config.materialization_config.online_write_batch_size = rows
    store.materialize(*SPAN, feature_views=["pairs"])
    store.config.materialization_config.online_write_batch_size = None
    assert not feasts
    asked = [{"user_id": user, "item_id": 1} for user in range(2000)]
    answer = store.get_online_features(["pairs:seen", "pairs:place"], asked).to_dict()
    assert answer["seen"] == list(range(2000))
    assert [len(place) for place in answer["place"]] == [3000] * 2000


def test_what_computes_is_left_to_feast(
    stores: Stores, feasts: list[Any], conn: psycopg.Connection
) -> None:
    def doubled(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(twice=frame["seen"] * 2)

    view = BatchFeatureView(
        name="doubled",
        mode="pandas",
        udf=doubled,
        udf_string="doubled",
        entities=[OBJECTS[0], OBJECTS[1]],
        ttl=timedelta(0),
        schema=[*(Field(name=k, dtype=Int64) for k in ("user_id", "item_id", "twice"))],
        source=source(
            "doubled",
            table="pairs_v1",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        online=True,
    )
    store, _ = stores["ours"]
    store.apply([view])
    conn.execute("INSERT INTO pairs_v1 VALUES (1, 1, %s, %s, 21)", [NOON, NOON])
    store.materialize(*SPAN, feature_views=["doubled"])
    assert len(feasts) == 1
    asked = [{"user_id": 1, "item_id": 1}]
    assert store.get_online_features(["doubled:twice"], asked).to_dict()["twice"] == [42]


def test_offline_rows_are_appended(
    stores: Stores, feasts: list[Any], conn: psycopg.Connection
) -> None:
    store, _ = stores["ours"]
    kept = store.get_feature_view("names")
    kept.offline = True
    conn.execute("INSERT INTO names_log VALUES ('n', now(), now(), 1)")
    engine = store._get_provider().batch_engine  # type: ignore[attr-defined]
    written: list[int] = []
    append = engine.offline_store.offline_write_batch

    def note(config: Any, view: Any, table: Any, progress: Any) -> None:
        written.append(table.num_rows)
        append(config, view, table, progress)

    task = MaterializationTask("suite", kept, *SPAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine.offline_store), "offline_write_batch", staticmethod(note))
        [job] = engine.materialize(store.registry, task)
    assert (job.status(), job.error()) == (MaterializationJobStatus.SUCCEEDED, None)
    assert not feasts
    assert written == [1]
    # The row is there already: exact duplicates are harmless.
    assert conn.execute("SELECT count(*) FROM names_log").fetchone() == (1,)


def test_a_failure_is_raised_and_nothing_is_claimed(
    stores: Stores, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, client = stores["ours"]
    client.flushdb()
    conn.execute(
        "INSERT INTO pairs_v1 SELECT g, 1, %s, %s, 1 FROM generate_series(1, 9) AS g", [NOON, NOON]
    )
    online = type(store._get_provider().online_store)  # type: ignore[attr-defined]
    before = store.get_feature_view("pairs").most_recent_end_time

    def refuse(*_args: object, **_kwargs: object) -> int:
        raise ConnectionError("Redis is away")

    with monkeypatch.context() as patch:
        patch.setattr(online, "write_arrow", refuse)
        with pytest.raises(ConnectionError, match="Redis is away"):
            store.materialize(*SPAN, feature_views=["pairs"])
    assert store.get_feature_view("pairs").most_recent_end_time == before
    assert content(client) == {}


def test_hopping_and_sorting_find_the_same_rows(
    stores: Stores, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many rows of few entities, keys of two columns and signs, ties in the event time."""
    conn.execute(
        "INSERT INTO pairs_v1 SELECT g % 12 - 6, g % 5, t, t + (g % 7) * interval '1 hour', g "
        "FROM (SELECT g, timestamptz '2026-02-01Z' + (g % 40) * interval '1 day' AS t "
        "FROM generate_series(1, 5000) AS g) AS s ON CONFLICT DO NOTHING"
    )
    conn.execute("ANALYZE pairs_v1")
    store, client = stores["ours"]
    used = []
    hopping = latest_rows._hopping
    monkeypatch.setattr(
        latest_rows, "_hopping", lambda *args: used.append("hops") or hopping(*args)
    )
    held = []
    for many in (latest_rows.MANY, 10**9):
        monkeypatch.setattr(latest_rows, "MANY", many)
        for end in (SPAN[1], NOON - timedelta(days=9)):
            client.flushdb()
            store.materialize(NOON - timedelta(days=20), end, feature_views=["pairs"])
            held.append(content(client))
    assert used == ["hops", "hops"]
    assert len(held[0]) == 12
    assert held[:2] == held[2:]
    assert held[0] != held[1]

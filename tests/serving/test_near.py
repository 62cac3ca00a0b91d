"""Near copies: in the end what Redis has, at all times rows that were written, else not used."""

import asyncio
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import redis
from feast import FeatureStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from extensions.serving.features.entity_ids import EntityIds
from extensions.serving.features.request_plan import Group, Plan, Plans, compile_plans
from extensions.serving.near_cache.cached_views import (
    MAX_LAG_SECONDS,
    EntityCache,
    EntityCacheSpec,
    NearCache,
)
from extensions.serving.near_cache.invalidation import InvalidationListener, connections
from extensions.stores.log_publishing import online_store

START = datetime(2035, 3, 1, tzinfo=UTC)  # newer than the fixture
PREFIX = b"sk:item_id:"
IDS = range(1, 121)


@pytest.fixture(scope="module", autouse=True)
def future_is_allowed(feast_store: FeatureStore) -> None:
    """Rows of 2035 stand for newer ones here; a store refuses them unless it is told otherwise."""
    feast_store.config.online_store.future_allowance_seconds = 1e10


@pytest.fixture(scope="module")
def plans(feast_store: FeatureStore) -> Plans:
    return compile_plans(feast_store, 1)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@asynccontextmanager
async def following(
    store: FeatureStore, plans: Plans, most: int = 10**8
) -> AsyncIterator[tuple[NearCache, Group]]:
    caches = NearCache(most)
    caches.want(plans)
    own, config = type(online_store(store))(), store.config.online_store
    follower = InvalidationListener(
        caches, lambda: connections(own, config), asyncio.get_running_loop()
    )
    follower.start()
    try:
        await caches.loaded(10)
        plan = plans.by_service["ranking"]
        assert isinstance(plan, Plan)
        yield caches, next(group for group in plan.groups if group.near)
    finally:
        await asyncio.to_thread(follower.stop)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def write(store: FeatureStore, view: str, number: int, second: int, **values: Value) -> None:
    key = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=number)])
    at = START + timedelta(seconds=second)
    online_store(store).online_write_batch(
        store.config, store.get_feature_view(view), [(key, values, at, at)], None
    )


def score(store: FeatureStore, number: int, second: int) -> None:
    value = Value(float_val=float(np.float32(number * 1000 + second)))
    write(store, "item_stats", number, second, item_popularity_score=value)


def genre(store: FeatureStore, number: int, second: int) -> None:
    write(store, "item_profile", number, second, item_genre=Value(string_val=f"g{second % 7}"))


def near(cache: EntityCache, group: Group, numbers: list[int]) -> dict[str, list[Any]]:
    slots = cache.slots(EntityIds(numbers, np.array(numbers, np.int64)))
    found: dict[str, list[Any]] = {}
    for view in group.views:
        columns, present, events = cache.rows(view.decoder, slots, 0)
        found |= {name: list(column) for name, column in columns.items()}
        found[view.name] = [
            int(event) if held else None for event, held in zip(events, present, strict=True)
        ]
    return found


def remote(store: FeatureStore, numbers: list[int]) -> dict[str, list[Any]]:
    """What Feast's own read through the online store finds."""
    keys = [EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=n)]) for n in numbers]
    found: dict[str, list[Any]] = {}
    for view, name in (("item_stats", "item_popularity_score"), ("item_profile", "item_genre")):
        rows = online_store(store).online_read(store.config, store.get_feature_view(view), keys)
        found[name] = [getattr(row[name], row[name].WhichOneof("val")) for _, row in rows]
        found[view] = [
            None if at.timestamp() == 0 else round(at.timestamp() * 1e6) for at, _ in rows
        ]
    return found


def equal(cache: EntityCache | None, group: Group, store: FeatureStore) -> bool:
    numbers = [*IDS, 999_999]
    return cache is not None and near(cache, group, numbers) == remote(store, numbers)


def test_random_writes(feast_store: FeatureStore, plans: Plans, client: redis.Redis) -> None:
    """Writers of both views, deletes, and a reader that looks whenever the loop lets it."""
    rng = random.Random(5)
    written = {(n, s) for n in IDS for s in range(400)}  # every row that a writer may write
    base = int(START.timestamp())

    def writes() -> None:
        for _ in range(500):
            number, second = rng.choice(IDS), rng.randrange(400)
            kind = rng.random()
            if kind < 0.5:
                score(feast_store, number, second)
            elif kind < 0.9:
                genre(feast_store, number, second)
            else:
                client.delete(PREFIX + b"%d" % number)

    def existed(cache: EntityCache, group: Group) -> None:
        found = near(cache, group, list(IDS))
        for i, number in enumerate(IDS):
            at = found["item_stats"][i]
            if at is not None and at >= base * 1_000_000:
                second = at // 1_000_000 - base
                assert (number, second) in written
                assert found["item_popularity_score"][i] == np.float32(number * 1000 + second)
            at = found["item_profile"][i]
            if at is not None and at >= base * 1_000_000:
                assert found["item_genre"][i] == f"g{(at // 1_000_000 - base) % 7}"

    async def run() -> None:
        async with following(feast_store, plans) as (caches, group):
            assert equal(caches.cache_of(group), group, feast_store)
            task = asyncio.ensure_future(asyncio.to_thread(writes))
            looks = 0
            while not task.done():
                if cache := caches.cache_of(group):
                    existed(cache, group)
                    looks += 1
                await asyncio.sleep(0)
            await task
            cache = caches.cache_of(group)
            await until(lambda: equal(caches.cache_of(group), group, feast_store), 1.0)
            assert looks > 20
            assert caches.cache_of(group) is cache  # followed, not loaded again
            assert caches.loads == 1

    asyncio.run(run())


def test_a_write_is_seen_within_a_second_and_the_sequence_moves(
    feast_store: FeatureStore, plans: Plans
) -> None:
    async def run() -> None:
        async with following(feast_store, plans) as (caches, group):
            cache = caches.cache_of(group)
            assert cache is not None
            before = cache.sequence
            took = []
            for second in range(10_000, 10_010):
                score(feast_store, 7, second)
                at = (int(START.timestamp()) + second) * 1_000_000
                took.append(
                    await until(lambda at=at: near(cache, group, [7])["item_stats"] == [at])
                )
            assert max(took) < 1.0
            await until(lambda: cache.sequence >= before + 10)
            assert cache.lag < 1.0

    asyncio.run(run())


def test_a_lost_connection_means_a_new_load(
    feast_store: FeatureStore, plans: Plans, client: redis.Redis
) -> None:
    async def run() -> None:
        async with following(feast_store, plans) as (caches, group):
            old = caches.cache_of(group)
            # What is written between the loss and the new load was told to nobody.
            client.client_kill_filter(_type="normal", skipme=True)
            score(feast_store, 9, 20_000)
            await until(lambda: caches.cache_of(group) not in (None, old))
            assert caches.loads == 2
            assert equal(caches.cache_of(group), group, feast_store)
            client.delete(PREFIX + b"9")
            await until(lambda: equal(caches.cache_of(group), group, feast_store), 1.0)

    asyncio.run(run())


def test_a_new_load_never_shows_half(feast_store: FeatureStore, plans: Plans) -> None:
    """While another version is loaded the old copy serves the old plan, and is followed."""

    async def run() -> None:
        async with following(feast_store, plans) as (caches, group):
            old = caches.cache_of(group)
            view = group.views[0]
            decoder = dataclasses.replace(view.decoder, defaults={view.features[0]: 0.5})
            changed = tuple(
                dataclasses.replace(one, decoder=decoder) if one is view else one
                for one in plans.by_service["ranking"].views
            )
            plan = dataclasses.replace(plans.by_service["ranking"], views=changed, number=2)
            mine = next(one for one in plan.groups if one.near)
            caches.want(Plans(2, {"ranking": plan}))
            assert caches.cache_of(group) is old
            assert caches.cache_of(mine) is None
            assert caches.state(mine, None) == {"remote": "loading"}
            await until(lambda: caches.cache_of(mine) is not None)
            assert caches.cache_of(group) is None
            cache = caches.cache_of(mine)
            assert cache is not None
            assert near(cache, mine, [999_999])[view.features[0]] == [0.5]

    assert MAX_LAG_SECONDS <= 1.0
    asyncio.run(run())


def test_too_large_is_read_remotely_and_says_so(
    feast_store: FeatureStore, plans: Plans, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with following(feast_store, plans, most=1_000) as (caches, group):
            await until(lambda: "larger" in caches.remote.get(PREFIX, ""))
            assert caches.cache_of(group) is None
            assert "larger" in caches.state(group, None)["remote"]

    asyncio.run(run())
    assert "near_megabytes" in caplog.text


def test_a_copy_that_lags_is_not_read(feast_store: FeatureStore, plans: Plans) -> None:
    caches = NearCache(10**8)
    caches.want(plans)
    [wanted] = caches.wanted.values()
    cache = EntityCache(wanted, 1)
    caches.use(cache)
    plan = plans.by_service["ranking"]
    group = next(group for group in plan.groups if group.near)
    cache.exact_at = time.monotonic() - 5
    assert caches.cache_of(group) is None
    assert caches.state(group, None)["remote"] == "behind"
    cache.exact_at = time.monotonic()
    assert caches.cache_of(group) is cache


FOREIGN = [
    b"12345678901234567890123", b"-12345678901234567890123", b"9223372036854775808",
    b"-9223372036854775809", b"007", b"-0", b"+7", b"00", b"-", b"", b"7 ", b"7:8", b"seven",
    "\u0667".encode(), b"1e3", b"0x7", b"7\n",
]  # fmt: skip


def test_foreign_keys_under_the_prefix_are_nobodys_rows(
    feast_store: FeatureStore, plans: Plans, client: redis.Redis
) -> None:
    """There when a copy is loaded, written while it is followed, and of other types."""
    score(feast_store, 7, 30_000)
    other = client.get(PREFIX + b"8")
    assert other is not None
    first, second = FOREIGN[::2], FOREIGN[1::2]

    async def run() -> None:
        for raw in first:
            client.set(PREFIX + raw, other)
        client.rpush(PREFIX + b"1234567", b"a list")
        async with following(feast_store, plans) as (caches, group):
            cache = caches.cache_of(group)
            assert cache is not None
            assert equal(cache, group, feast_store)
            for raw in second:
                client.set(PREFIX + raw, other)
            client.rpush(PREFIX + b"1234568", b"a list")
            client.set(PREFIX + b"1234569", b"neither a row")
            score(feast_store, 9, 30_001)
            at = (int(START.timestamp()) + 30_001) * 1_000_000
            await until(lambda: near(cache, group, [9])["item_stats"] == [at])
            assert caches.cache_of(group) is cache
            assert caches.loads == 1
            assert near(cache, group, [7, 8, 0]) == remote(feast_store, [7, 8, 0])
            assert near(cache, group, [1_234_567, 1_234_569])["item_stats"] == [None, None]

    try:
        asyncio.run(run())
    finally:
        for raw in (*FOREIGN, b"1234567", b"1234568", b"1234569"):
            client.delete(PREFIX + raw)


def test_many_ids_as_a_dictionary_would(plans: Plans) -> None:
    """Thousands of ids, settled and fresh, negative and large; assigned again and again."""
    [wanted] = EntityCacheSpec.of([plans.by_service["ranking"]]).values()
    rng = np.random.default_rng(3)
    cache, known = EntityCache(wanted, 1), {}
    [stats] = [one for one in wanted.decoders.values() if "item_stats" in one.layout.view]
    layout = stats.layout
    pool = np.unique(rng.integers(-(2**62), 2**62, 6_000))
    for step in range(40):
        ids = rng.choice(pool, 300, replace=False).tolist()
        values = []
        for number in ids:
            known[number] = step
            row = layout.pack({"item_popularity_score": Value(float_val=step / 8)}, step + 1, None)
            values.append(layout.header(len(row)) + row)
        cache.assign(*cache.decode([wanted.prefix + b"%d" % one for one in ids], values))
    asked = pool.tolist()
    slots = cache.slots(EntityIds(asked, np.array(asked)))
    columns, present, events = cache.rows(stats, slots, 0)
    assert present.tolist() == [one in known for one in asked]
    assert events.tolist() == [known.get(one, -1) + 1 for one in asked]
    assert columns["item_popularity_score"].tolist() == [known.get(one, 0) / 8 for one in asked]
    assert cache.count == len(known) + 1
    assert cache.size > cache.count * 4


def test_over_http_a_reply_says_what_it_was_read_from(http: Any) -> None:
    asked = {"userId": 1, "itemIds": [1, 2, 999_999], "context": {"requestHour": 3}}
    body = http.post("/v1/features/rank?include=meta", json=asked).json()
    for view in ("item_stats", "item_profile"):
        near = body["meta"][view]["near"]
        assert near["generation"] >= 1
        assert 0 <= near["lagSeconds"] <= MAX_LAG_SECONDS
        assert body["meta"][view]["asOf"][2] is None
    assert "near" not in body["meta"]["user_habits"]
    again = http.post("/v1/features/rank", json=asked).json()
    assert again["items"] == body["items"]
    text = http.get("/metrics").text
    assert 'skewless_near_lag_seconds{entity="item_id"}' in text
    [rows] = [line for line in text.splitlines() if line.startswith("skewless_near_rows{")]
    assert float(rows.split()[1]) >= 60

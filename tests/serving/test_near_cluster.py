"""Near copies over a Redis Cluster: keys of many slots, read and followed on each server."""

import asyncio
from typing import Any

import numpy as np
import redis

from extensions.serving.features.entity_ids import EntityIds
from extensions.serving.features.request_plan import Group, Plan, Plans, compile_plans
from extensions.serving.near_cache.cached_views import NearCache
from extensions.serving.near_cache.invalidation import InvalidationListener
from extensions.stores.online_codec.redis_keys import field_of
from tests.online.test_cluster import cluster  # noqa: F401 - a fixture
from tests.serving.test_near import until


def test_loaded_and_followed(cluster: str, feast_store: Any) -> None:  # noqa: F811
    plans = compile_plans(feast_store, 1)
    client = redis.Redis.from_url(cluster)
    group, layout = _item_stats(plans)

    def put(number: int, score: float, at: int) -> None:
        value: Any = layout.pack({"item_popularity_score": _float(score)}, at, None)
        client.set(group.prefix + field_of([b"%d" % number]), layout.header(len(value)) + value)

    for number in range(300):
        put(number, number / 2, 1_000)

    def connect() -> tuple[list[Any], bool]:
        pool = redis.Redis.from_url(cluster, protocol=3).connection_pool
        return [pool.make_connection()], True

    async def run() -> None:
        caches = NearCache(10**8)
        caches.want(plans)
        follower = InvalidationListener(caches, connect, asyncio.get_running_loop())
        follower.start()
        try:
            await caches.loaded(10)
            cache = caches.cache_of(group)
            assert cache is not None
            asked = list(range(301))
            decoder = group.views[0].decoder

            def scores() -> list[float]:
                slots = cache.slots(EntityIds(asked, np.array(asked)))
                found: Any = cache.rows(decoder, slots, 0)[0]["item_popularity_score"]
                return list(found)

            assert scores() == [*(number / 2 for number in range(300)), 0.0]
            put(300, 7.0, 2_000)
            put(5, 8.0, 2_000)
            await until(lambda: (scores()[300], scores()[5]) == (7.0, 8.0), 2.0)
            assert caches.loads == 1
        finally:
            await asyncio.to_thread(follower.stop)

    asyncio.run(run())


def _item_stats(plans: Plans) -> tuple[Group, Any]:
    plan = plans.by_service["ranking"]
    assert isinstance(plan, Plan)
    group = next(group for group in plan.groups if group.near)
    return group, group.views[0].decoder.layout


def _float(value: float) -> Any:
    from feast.protos.feast.types.Value_pb2 import Value  # noqa: PLC0415

    return Value(float_val=value)

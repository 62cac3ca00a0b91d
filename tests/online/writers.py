"""Writers that all write to the same entities, in an order of their own; run in processes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from feast import ValueType
from feast.protos.feast.types.Value_pb2 import Value

from extensions.stores.online.store import SkewlessRedisOnlineStore
from tests.online.conftest import config_of
from tests.online.views import T0, key, view

PAIR = {"user_id": ValueType.INT64, "item_id": ValueType.INT64}
BATCH = 1_000


def table_of(composite: bool) -> Any:
    return view(entities=PAIR) if composite else view()


def key_of(entity: int, composite: bool) -> Any:
    return key(user_id=entity // 50, item_id=entity) if composite else key(user_id=entity)


def moments(ranks: Any, entities: int) -> tuple[Any, Any]:
    """Event and created seconds of the writes with these ranks.

    Two writes to an entity share an event time and differ in the created time, so that per
    entity the order by (event, created) is that of the ranks, and nothing less is.
    """
    turn = ranks // entities
    return turn // 2, turn // 2 + (turn % 2) * 3


def write_all(url: str, project: str, parts: list[Any], entities: int, composite: bool) -> int:
    """Write each part by a writer of its own; returns how many rows Redis took."""
    with ThreadPoolExecutor(len(parts)) as pool:
        runs = [
            pool.submit(_write, url, project, part, entities, composite, number % 10 == 0)
            for number, part in enumerate(parts)
        ]
        return sum(one.result() for one in runs)


def _write(
    url: str, project: str, ranks: Any, entities: int, composite: bool, by_message: bool
) -> int:
    store, config, table = SkewlessRedisOnlineStore(), config_of(url, project), table_of(composite)
    written = 0
    for at in range(0, len(ranks), BATCH):
        part = ranks[at : at + BATCH]
        entity = part % entities
        event, created = moments(part, entities)
        if by_message:
            second = timedelta(seconds=1)
            rows = zip(*(one.tolist() for one in (part, entity, event, created)), strict=True)
            data = [
                (key_of(e, composite), {"count": Value(int64_val=k)}, T0 + t * second,
                 T0 + c * second)
                for k, e, t, c in rows
            ]  # fmt: skip
            store.online_write_batch(config, table, data, None)
            continue
        start = np.datetime64(T0.replace(tzinfo=None), "us")
        times = [
            pa.array(start + one.astype("timedelta64[s]"), pa.timestamp("us", "UTC"))
            for one in (event, created)
        ]
        columns = {"event_timestamp": times[0], "created_timestamp": times[1], "count": part}
        ids = {"user_id": entity // 50, "item_id": entity} if composite else {"user_id": entity}
        written += store.write_arrow(config, table, pa.table({**columns, **ids}))
    return written

"""What a write may change and what a delete may touch."""

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from feast import ValueType
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _convert_arrow_to_proto

from extensions.errors import SkewlessError
from extensions.stores.online.store import SkewlessRedisOnlineStore
from extensions.stores.online_codec import row_format as rows
from extensions.stores.online_codec.row_decoder import Decoder
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.online_codec.section_index import sections
from tests.online.conftest import config_of
from tests.online.views import T0, key, view

PAIR = {"user_id": ValueType.INT64, "item_id": ValueType.INT64}


def write(store: Any, config: Any, table: Any, *data: tuple[Any, int, Any, Any]) -> None:
    """(entity key, count, event second, created second or None)."""
    batch = [
        (
            one,
            {"count": Value(int64_val=count)},
            T0 + timedelta(seconds=event),
            None if created is None else T0 + timedelta(seconds=created),
        )
        for one, count, event, created in data
    ]
    store.online_write_batch(config, table, batch, None)


def read(store: Any, config: Any, table: Any, *keys: Any) -> list[int | None]:
    found = store.online_read(config, table, list(keys))
    return [None if values is None else values["count"].int64_val for _, values in found]


@pytest.mark.parametrize("composite", [False, True])
def test_newest_wins_by_event_then_created(store, config, composite: bool) -> None:
    table = view(entities=PAIR) if composite else view()
    one = key(user_id=1, item_id=2) if composite else key(user_id=1)
    for count, event, created, expected in [
        (1, 10, None, 1),
        (2, 10, 5, 2),  # any created time is later than none
        (3, 10, 4, 2),
        (4, 10, 11, 4),
        (5, 10, 5_000_000, 5),
        (6, 10, 12, 5),
        (7, 9, 6_000_000, 5),
        (8, 11, None, 8),
        (9, -9_000_000_000, None, 8),  # the year 1740
        (10, -9_000_000_000, 1, 8),
        (11, 12, 12, 11),
    ]:
        write(store, config, table, (one, count, event, created))
        assert read(store, config, table, one) == [expected]


def test_within_one_batch_too(store, config) -> None:
    one = key(user_id=1)
    write(store, config, view(), (one, 1, 5, 5), (one, 2, 9, 9), (one, 3, 7, 7))
    assert read(store, config, view(), one) == [2]


def test_many_writers_end_with_the_newest(store, config, redis_server) -> None:
    table, entities, writers = view(), 40, 16
    batches = []
    for seed in range(writers):
        order = random.Random(seed)
        moments = [(u, order.randrange(10_000)) for u in range(entities) for _ in range(20)]
        order.shuffle(moments)
        batches.append(moments)

    def run(moments: Any) -> None:
        own = SkewlessRedisOnlineStore()
        for at in range(0, len(moments), 50):
            part = moments[at : at + 50]
            write(own, config, table, *((key(user_id=u), t, t, t) for u, t in part))

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(run, batches))
    newest = [max(t for b in batches for v, t in b if v == u) for u in range(entities)]
    assert read(store, config, table, *(key(user_id=u) for u in range(entities))) == newest


def test_views_of_one_entity_share_a_key_and_nothing_else(store, config, client) -> None:
    stats, habits = view("stats"), view("habits")
    one = key(user_id=1)
    write(store, config, stats, (one, 1, 10, 10))
    write(store, config, habits, (one, 2, 5, 5))
    write(store, config, stats, (one, 3, 4, 4))
    write(store, config, habits, (one, 4, 6, 6))
    assert client.keys(f"{config.project}:[^!]*") == [f"{config.project}:user_id:1".encode()]
    assert (read(store, config, stats, one), read(store, config, habits, one)) == ([1], [4])


def test_a_short_prefix_is_one_projects_alone(store, config, client, redis_server) -> None:
    prefix = f"{config.project[-5:]}:é"
    mine, other = (config_of(redis_server, name, key_prefix=prefix) for name in ("one", "two"))
    own = config_of(redis_server, "two")
    for each in (mine, mine, own):
        store.update(each, [], [view()], [], [], partial=False)
    with pytest.raises(SkewlessError, match=r"are the project one's in this Redis.*choose another"):
        store.update(other, [], [view()], [], [], partial=False)
    encoded = quote(prefix, safe="")
    write(store, mine, view(), (key(user_id=1), 1, 10, 10))
    write(store, own, view(), (key(user_id=1), 2, 10, 10))
    assert client.keys(f"{encoded}:[^!]*") == [f"{encoded}:user_id:1".encode()]
    assert read(store, mine, view(), key(user_id=1)) == [1]
    store.teardown(mine, [view()], [])
    assert not client.keys(f"{encoded}:*")
    assert read(store, own, view(), key(user_id=1)) == [2]
    store.update(other, [], [view()], [], [], partial=False)


def test_applying_needs_no_redis(store) -> None:
    away = config_of("redis://127.0.0.1:1/0", "one", key_prefix="x")
    store.update(away, [], [view()], [], [], partial=False)


def test_two_versions_live_side_by_side(store, config) -> None:
    first, second = view(), view()
    first.current_version_number, second.current_version_number = 1, 2
    write(store, config, first, (key(user_id=1), 1, 10, 10))
    assert read(store, config, second, key(user_id=1)) == [None]
    write(store, config, second, (key(user_id=1), 2, 5, 5))
    assert read(store, config, first, key(user_id=1)) == [1]
    assert read(store, config, second, key(user_id=1)) == [2]


def test_numbers_and_texts_are_different_entities(store, config) -> None:
    numbers = view(entities={"id": ValueType.INT64})
    texts = view(entities={"id": ValueType.STRING})
    strange = ["5", "", "a:b", "a\n\0\"'", "x" * 10_000, "*", "[5]"]
    write(store, config, numbers, (key(id=5), 100, 1, 1))
    write(store, config, texts, *((key(id=one), i, 1, 1) for i, one in enumerate(strange)))
    assert read(store, config, numbers, key(id=5)) == [100]
    assert read(store, config, texts, *(key(id=one) for one in strange)) == list(
        range(len(strange))
    )


def test_a_row_of_another_layout_is_missing_and_said(store, config, caplog) -> None:
    write(store, config, view(), (key(user_id=1), 1, 10, 10))
    wider = view(features={"count": ValueType.INT64, "more": ValueType.STRING})
    rows.refused.clear()
    assert store.online_read(config, wider, [key(user_id=1)]) == [(None, None)]
    assert rows.refused == {"stats": 1}
    assert "another layout" in caplog.text
    write(store, config, wider, (key(user_id=1), 2, 3, 3))  # older, but can be read
    assert read(store, config, wider, key(user_id=1)) == [2]


def test_rows_cut_short_are_missing(store, config, client) -> None:
    write(store, config, view(), (key(user_id=1), 1, 10, 10))
    name = f"{config.project}:user_id:1"
    whole = client.get(name)
    for size in range(4, len(whole)):
        client.set(name, whole[:3] + bytes([size - 4]) + whole[4:size])
        assert read(store, config, view(), key(user_id=1)) == [None]


def test_deleting_touches_only_own_keys(store, config, redis_server, client) -> None:
    others = config_of(redis_server, "x" + config.project)
    for other in (config, others):
        for table, one in ((view("stats"), key(user_id=1)), (view("habits"), key(user_id=1))):
            write(store, other, table, (one, 1, 1, 1))
        for name in ("pairs", "pairs_v9x", "pairs2"):
            write(store, other, view(name, entities=PAIR), (key(user_id=1, item_id=2), 1, 1, 1))
    third = view("pairs", entities=PAIR)
    third.current_version_number = 3
    write(store, config, third, (key(user_id=1, item_id=2), 3, 1, 1))
    store.delete_table(config, view("stats"))
    assert read(store, config, view("stats"), key(user_id=1)) == [None]
    assert read(store, config, view("habits"), key(user_id=1)) == [1]
    store.update(config, [view("pairs", entities=PAIR)], [], [], [], partial=True)
    for table, left in ((view("pairs", entities=PAIR), None), (third, None)):
        assert read(store, config, table, key(user_id=1, item_id=2)) == [left]
    for name in ("pairs_v9x", "pairs2"):
        assert read(store, config, view(name, entities=PAIR), key(user_id=1, item_id=2)) == [1]
    store.teardown(config, [view("habits"), view("pairs2", entities=PAIR)], [])
    left = client.keys(f"{config.project}:[^!]*")
    assert left == [f"{config.project}:user_id,item_id:pairs_v9x:1".encode()]
    assert len(client.keys(f"x{config.project}:[^!]*")) == 4


def test_rows_expire_where_the_view_says_how_long_they_count(store, config, client) -> None:
    short, long, ever = (
        view("short", ttl=timedelta(days=365 * 30)),
        view("long", ttl=timedelta(days=365 * 40)),
        view("ever"),
    )
    name, one = f"{config.project}:user_id:1", key(user_id=1)
    write(store, config, long, (one, 1, 0, 0))
    late = client.pexpiretime(name)
    assert late == pytest.approx((T0 + long.ttl).timestamp() * 1000, abs=2000)
    write(store, config, short, (one, 1, 0, 0))
    assert client.pexpiretime(name) == pytest.approx(late, abs=2000)
    write(store, config, ever, (one, 1, 0, 0))
    assert client.pexpiretime(name) == -1
    write(store, config, short, (one, 1, 1, 1))
    assert client.pexpiretime(name) == -1
    pairs = view("pairs", entities=PAIR, ttl=timedelta(days=365 * 30))
    write(store, config, pairs, (key(user_id=1, item_id=1), 1, 0, 0))
    assert client.pexpiretime(f"{config.project}:user_id,item_id:pairs:1") > time.time() * 1000


def test_a_row_older_than_its_time_to_live_is_missing(store, config) -> None:
    table = view(ttl=timedelta(hours=1))
    write(store, config, view(), (key(user_id=1), 7, 0, 0))  # written without expiry
    assert read(store, config, view(), key(user_id=1)) == [7]
    assert read(store, config, table, key(user_id=1)) == [None]


def test_asynchronously_as_well(store, config) -> None:
    async def both() -> Any:
        batch = [(key(user_id=1), {"count": Value(int64_val=3)}, T0, T0)]
        await store.online_write_batch_async(config, view(), batch, None)
        pairs = view("pairs", entities=PAIR)
        batch = [(key(user_id=1, item_id=i), {"count": Value(int64_val=i)}, T0, T0) for i in (4, 5)]
        await store.online_write_batch_async(config, pairs, batch, None)
        asked = [key(user_id=1, item_id=i) for i in (5, 4, 6)]
        return (
            await store.online_read_async(config, view(), [key(user_id=1), key(user_id=2)]),
            await store.online_read_async(config, pairs, asked),
        )

    one, two = asyncio.run(both())
    assert [at for at, _ in one] == [T0, None]
    assert [v and v["count"].int64_val for _, v in two] == [5, 4, None]


def arrow(n: int, **columns: Any) -> pa.Table:
    times = pa.array([T0 + timedelta(seconds=i) for i in range(n)], pa.timestamp("us", "UTC"))
    return pa.table({"event_timestamp": times, "created_timestamp": times, **columns})


def test_arrow_writes_what_messages_write(store, config, client) -> None:
    n, rng = 500, np.random.default_rng(7)
    features = {
        "an_int": ValueType.INT64, "a_real": ValueType.FLOAT, "a_flag": ValueType.BOOL,
        "a_text": ValueType.STRING, "some_bytes": ValueType.BYTES, "at": ValueType.UNIX_TIMESTAMP,
        "vector": ValueType.FLOAT_LIST, "longs": ValueType.INT64_LIST, "flags": ValueType.BOOL_LIST,
        "words": ValueType.STRING_LIST,
    }  # fmt: skip
    hole = rng.random((len(features), n)) < 0.2
    table = arrow(
        n,
        an_int=pa.array(rng.integers(-(2**50), 2**50, n), mask=hole[0]),
        a_real=pa.array(rng.random(n, np.float32), mask=hole[1]),
        a_flag=pa.array(rng.random(n) < 0.5, mask=hole[2]),
        a_text=pa.array(["ä" * (i % 7) for i in range(n)], mask=hole[3]),
        some_bytes=pa.array([bytes(i % 5) for i in range(n)], pa.binary()),
        at=pa.array([T0 + timedelta(seconds=i) for i in range(n)], pa.timestamp("us", "UTC")),
        vector=pa.array(
            [None if hole[6][i] else [i / 3] * (i % 4) for i in range(n)], pa.list_(pa.float32())
        ),
        longs=pa.array([[i, -i] for i in range(n)], pa.list_(pa.int64())),
        flags=pa.array([[True, False][: i % 3] for i in range(n)], pa.list_(pa.bool_())),
        words=pa.array([["a", "b"] for i in range(n)]),
    )
    after = [None, 0, 15, 30]  # seconds: none, at the event, soon, late
    created = [
        None if (late := after[i % 4]) is None else T0 + timedelta(seconds=i + late)
        for i in range(n)
    ]
    table = table.set_column(1, "created_timestamp", pa.array(created, pa.timestamp("us", "UTC")))
    for keys, ids in (
        ({"user_id": ValueType.INT64}, {"user_id": pa.array(range(n))}),
        (
            {"user_id": ValueType.INT64, "item": ValueType.STRING},
            {
                "user_id": pa.array([i // 9 for i in range(n)]),
                "item": pa.array([f"i{i}" for i in range(n)]),
            },
        ),
    ):
        whole = table
        for name, column in ids.items():
            whole = whole.append_column(name, column)
        by_message, by_arrow = view("by_message", features, keys), view("by_arrow", features, keys)
        data = _convert_arrow_to_proto(whole, by_message, keys)
        store.online_write_batch(config, by_message, data, None)
        chunked = pa.concat_tables([whole.slice(0, 123), whole.slice(123)])
        assert store.write_arrow(config, by_arrow, chunked) == n
        asked = [row[0] for row in data]
        assert store.online_read(config, by_arrow, asked) == store.online_read(
            config, by_message, asked
        )
        assert store.write_arrow(config, by_arrow, chunked.slice(0, 0)) == 0
    stored = client.hgetall(f"{config.project}:user_id,item:by_arrow:0")
    other = client.hgetall(f"{config.project}:user_id,item:by_message:0")
    assert {k: v[2:] for k, v in stored.items()} == {k: v[2:] for k, v in other.items()}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"user_id": pa.array([1, None])}, "no user_id"),
        ({"count": pa.array(["a", "b"])}, "count does not fit"),
        ({"event_timestamp": pa.array([T0, None])}, "no event_timestamp"),
        ({"count": None}, "lack count"),
    ],
)
def test_arrow_that_does_not_fit_is_refused(store, config, columns, says) -> None:
    good = {"user_id": pa.array([1, 2]), "count": pa.array([1, 2])}
    whole = {**good, **columns}
    table = arrow(2).drop_columns([name for name in columns if name == "event_timestamp"])
    for name, column in whole.items():
        if column is not None:
            table = table.append_column(name, column)
    with pytest.raises(SkewlessError, match=says):
        store.write_arrow(config, view(), table)


@pytest.mark.parametrize("size", [0, 200, 254, 255, 256, 300, 70_000])
def test_long_rows_beside_short_ones(store, config, size: int) -> None:
    long, short = view("long", {"text": ValueType.STRING}), view("short")
    one = key(user_id=1)
    write(store, config, short, (one, 1, 1, 1))
    for text in ("x" * size, "y" * size):
        data = [(one, {"text": Value(string_val=text)}, T0, T0)]
        store.online_write_batch(config, long, data, None)
        [(_, read_back)] = store.online_read(config, long, [one])
        assert read_back["text"].string_val == text
    write(store, config, short, (one, 2, 2, 2))
    assert read(store, config, short, one) == [2]
    table = arrow(1, user_id=pa.array([1]), text=pa.array(["z" * size]))
    assert store.write_arrow(config, long, table) == 1
    layouts = [Layout.of(table, versioning=True) for table in (long, short)]
    value = store._get_client(config.online_store).get(f"{config.project}:user_id:1")
    buffer, [(at, length), _] = sections([value, None], layouts)
    block = Decoder(layouts[0], {"text": None}).block(buffer, at, length, 0)
    assert list(block.columns["text"]) == ["z" * size, None]


def test_values_cut_short_never_show_a_neighbours(store, config) -> None:
    """Many at a time: what is missing of one is not taken from the next."""
    stats, habits = view("stats"), view("habits")
    for user in range(3):
        for table in (stats, habits):
            write(store, config, table, (key(user_id=user), 1000 + user, user, user))
    layouts = [Layout.of(table, versioning=True) for table in (stats, habits)]
    client = store._get_client(config.online_store)
    whole = [client.get(f"{config.project}:user_id:{user}") for user in range(3)]
    counts = [1000, 1001, 1002]
    for size in range(len(whole[1]) + 1):
        values = [whole[0], whole[1][:size], whole[2]]
        rows.refused.clear()
        buffer, places = sections(values, layouts)
        for layout, (at, length) in zip(layouts, places, strict=True):
            block = Decoder(layout, {"count": -1}).block(buffer, at, length, 0)
            found = block.columns["count"]
            assert [found[0], found[2]] == [counts[0], counts[2]]
            assert found[1] == (counts[1] if block.present[1] else -1)
            single = layout.find(values[1])
            assert bool(block.present[1]) == (single is not None and single in whole[1])

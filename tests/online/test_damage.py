"""Foreign and damaged values under our keys: missing to a reader, replaced by a writer."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import redis
from feast import ValueType
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extensions.stores.online_codec.row_decoder import Decoder
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.online_codec.section_index import fields, sections
from tests.online.test_store import PAIR, read, write
from tests.online.views import T0, key, view

RELAXED = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEATURES = {
    "count": ValueType.INT64,
    "share": ValueType.DOUBLE,
    "text": ValueType.STRING,
    "vector": ValueType.FLOAT_LIST,
    "names": ValueType.STRING_LIST,
}


def row(count: int) -> dict[str, Value]:
    made = {"count": Value(int64_val=count), "share": Value(double_val=count / 7)}
    made["text"] = Value(string_val="é" * (count % 300))
    made["vector"] = Value()
    made["vector"].float_list_val.val.extend([1.5, count])
    made["names"] = Value()
    made["names"].string_list_val.val.extend(["a", "b"])
    return made


def put(client: redis.Redis, name: str, field: str | None, foreign: Any) -> None:
    """Something in the place of a value: bytes, or a value of another type."""
    if isinstance(foreign, bytes) and field is not None:
        client.hset(name, field, foreign)
    elif isinstance(foreign, bytes):
        client.set(name, foreign)
    else:
        client.delete(name)
        {
            "list": lambda: client.lpush(name, "x"),
            "set": lambda: client.sadd(name, "x"),
            "zset": lambda: client.zadd(name, {"x": 1}),
            "stream": lambda: client.xadd(name, {"x": "1"}),
            "hash": lambda: client.hset(name, "x", "1"),
            "string": lambda: client.set(name, "x"),
        }[foreign]()


@st.composite
def mutations(draw: Any) -> Any:
    """How a value that was written is spoilt: cut, flipped, doubled, or made anew."""
    kind = draw(st.sampled_from(["type", "bytes", "cut", "flip", "again", "more"]))
    return kind, draw(st.integers(0, 2**31)), draw(st.binary(max_size=60))


def spoil(whole: bytes, mutation: Any) -> Any:
    kind, seed, noise = mutation
    choice = random.Random(seed)
    at = choice.randrange(len(whole))
    return {
        "type": choice.choice(["list", "set", "zset", "stream"]),
        "bytes": noise,
        "cut": whole[:at],
        "flip": whole[:at] + bytes([whole[at] ^ (1 << seed % 8)]) + whole[at + 1 :],
        "again": whole + whole,
        "more": whole + noise,
    }[kind]


@RELAXED
@given(mutation=mutations(), composite=st.booleans(), count=st.integers(1, 500))
def test_a_write_wins_over_whatever_is_there(
    store, config, client, mutation, composite, count
) -> None:
    keys = PAIR if composite else {"user_id": ValueType.INT64}
    table, beside = view(features=FEATURES, entities=keys), view("beside", entities=keys)
    users = [key(user_id=u, item_id=7) if composite else key(user_id=u) for u in (1, 2, 3)]
    name = (
        f"{config.project}:user_id,item_id:stats:2" if composite else f"{config.project}:user_id:2"
    )
    client.delete(name)
    now = datetime.now(UTC)

    def batch(n: int, at: datetime) -> list[Any]:
        return [(user, row(n + i), at, at) for i, user in enumerate(users)]

    store.online_write_batch(config, table, batch(count, T0), None)
    write(store, config, beside, (users[1], 1, 0, 0))
    whole = client.hget(name, "7") if composite else client.get(name)
    put(client, name, "7" if composite else None, spoil(whole, mutation))
    found = store.online_read(config, table, users)  # never an error
    assert found[0] == (T0, row(count))
    decoded_as_read(client, table, name, composite, found[1])
    # What is written now is served, and so are the other rows of its batch.
    store.online_write_batch(config, table, batch(count + 1, now), None)
    assert [values for _, values in store.online_read(config, table, users)] == [
        row(count + 1 + i) for i in range(3)
    ]
    # Later than any time that a flipped bit can make and that is not of the future.
    seconds = int((now - T0).total_seconds())
    write(store, config, beside, (users[1], 5, seconds, seconds))
    assert read(store, config, beside, users[1]) == [5]
    assert store.online_read(config, table, users)[1] == (now, row(count + 2))
    for gone in (table, beside):
        store.delete_table(config, gone)
    assert [at for at, _ in store.online_read(config, table, users)] == [None] * 3


def decoded_as_read(client: Any, table: Any, name: str, composite: bool, found: Any) -> None:
    """The server's decoder reads what the store reads."""
    layout = Layout.of(table, versioning=True)
    decoder = Decoder(layout, dict.fromkeys(layout.names), None, 300_000_000)
    now = int(datetime.now(UTC).timestamp() * 1e6)
    try:
        held = client.hget(name, "7") if composite else client.get(name)
    except redis.ResponseError:
        held = None
    if composite:
        buffer, at, size = fields([held or b""])
    else:
        buffer, [(at, size)] = sections([held], [layout])
    block = decoder.block(buffer, at, size, now)
    _, event = decoder.one(None if not size[0] else buffer[at[0] : at[0] + size[0]], now)
    assert bool(block.present[0]) == (event is not None)
    if found[0] is None:
        assert not block.present[0]
        return
    assert block.present[0]
    expected = found[1]["count"]
    got = block.columns["count"][0]
    assert (None if got is None else int(got)) == (
        expected.int64_val if expected.WhichOneof("val") else None
    )


@pytest.mark.parametrize("composite", [False, True])
def test_a_damaged_row_that_claims_to_be_newer(store, config, client, composite: bool) -> None:
    """Its lengths do not add up, so that it can never be read: an older row is better."""
    keys = PAIR if composite else {"user_id": ValueType.INT64}
    table = view(features=FEATURES, entities=keys)
    one = key(user_id=1, item_id=7) if composite else key(user_id=1)
    name = (
        f"{config.project}:user_id,item_id:stats:1" if composite else f"{config.project}:user_id:1"
    )
    for flags in (0, 7):
        later = T0 + timedelta(days=1)
        store.online_write_batch(config, table, [(one, row(3 + flags), later, later)], None)
        whole = client.hget(name, "7") if composite else client.get(name)
        start = 0 if composite else 4
        cut = whole[:-1] if composite else whole[:3] + bytes([whole[3] - 1]) + whole[4:-1]
        put(client, name, "7" if composite else None, cut)
        assert start < len(cut)
        assert store.online_read(config, table, [one]) == [(None, None)]
        store.online_write_batch(config, table, [(one, row(2), T0, T0)], None)
        assert store.online_read(config, table, [one]) == [(T0, row(2))]


@pytest.mark.parametrize("composite", [False, True])
def test_a_stored_row_from_the_future_gives_way(store, config, client, composite: bool) -> None:
    """As an earlier version or another clock wrote it; it is missing until then."""
    keys = PAIR if composite else {"user_id": ValueType.INT64}
    table = view(entities=keys)
    one = key(user_id=1, item_id=7) if composite else key(user_id=1)
    name = (
        f"{config.project}:user_id,item_id:stats:1" if composite else f"{config.project}:user_id:1"
    )
    layout = Layout.of(table, versioning=True)
    for ahead in (timedelta(minutes=6), timedelta(days=27_000), timedelta(days=200_000)):
        event = int((datetime.now(UTC) + ahead).timestamp() * 1e6)
        for times in ((event, None), (event, event), (int(T0.timestamp() * 1e6), event)):
            packed = layout.pack({"count": Value(int64_val=100)}, *times)
            put(client, name, "7" if composite else None,
                packed if composite else layout.header(len(packed)) + packed)  # fmt: skip
            if times[0] == event:
                assert read(store, config, table, one) == [None]
                decoder = Decoder(layout, {"count": 0}, None, 300_000_000)
                now = int(datetime.now(UTC).timestamp() * 1e6)
                assert decoder.one(packed, now) == ({"count": 0}, None)
                block = decoder.block(packed, np.zeros(1, np.int64), np.array([len(packed)]), now)
                assert (block.present.tolist(), list(block.columns["count"])) == ([False], [0])
                assert decoder.alike([packed], now) is None
            write(store, config, table, (one, 5, 0, 0))
            assert read(store, config, table, one) == [5]
            write(store, config, table, (one, 4, -1, 0))
            assert read(store, config, table, one) == [5]
    almost = int((datetime.now(UTC) + timedelta(minutes=4)).timestamp() * 1e6)
    packed = layout.pack({"count": Value(int64_val=100)}, almost, almost)
    put(client, name, "7" if composite else None,
        packed if composite else layout.header(len(packed)) + packed)  # fmt: skip
    write(store, config, table, (one, 5, 0, 0))
    assert read(store, config, table, one) == [100]


def test_an_outage_is_an_error(store, config, redis_server) -> None:
    """Memory that is full is Redis' own fault: to be tried again, and nothing is swallowed."""
    client = redis.Redis.from_url(redis_server)
    write(store, config, view(), (key(user_id=1), 1, 0, 0))
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            write(store, config, view(), (key(user_id=1), 2, 1, 1))
    finally:
        client.config_set("maxmemory", 0)
    write(store, config, view(), (key(user_id=1), 2, 1, 1))
    assert read(store, config, view(), key(user_id=1)) == [2]

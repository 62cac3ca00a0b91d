"""Every type of value comes back from Redis as it went in, as from Feast's own store."""

import itertools
from datetime import UTC, datetime
from typing import Any

from feast import ValueType
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extensions.stores.online_codec.row_format import Layout, pack_times, unpack_times
from tests.online.views import MOMENTS, PAST, TYPES, created_after, key, same, value_of, view

# A view of its own for each example: Redis keeps what earlier ones wrote.
NUMBER = itertools.count()

RELAXED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def rows(draw: Any) -> Any:
    types = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=6))
    features = {f"f{i}": kind for i, kind in enumerate(types)}
    composite = draw(st.booleans())
    entities = []
    for _ in range(draw(st.integers(1, 4))):
        user = draw(st.integers(-(2**63), 2**63 - 1))
        ids = (
            {"user_id": user, "item": draw(st.text(max_size=8))} if composite else {"user_id": user}
        )
        values = {
            name: draw(st.one_of(value_of(kind), st.just(None))) for name, kind in features.items()
        }
        event = draw(PAST)
        entities.append((ids, values, event, draw(created_after(event, PAST))))
    return features, composite, entities


@RELAXED
@given(case=rows())
def test_like_feast(store, config, feast_store, feast_config, case) -> None:
    features, composite, entities = case
    keys = {"user_id": ValueType.INT64} | ({"item": ValueType.STRING} if composite else {})
    table = view(f"view{next(NUMBER)}", features, keys)
    data = []
    for ids, values, event, created in {tuple(e[0].values()): e for e in entities}.values():
        held = {name: Value() if one is None else one for name, one in values.items()}
        data.append((key(**ids), held, event, created))
    asked = [row[0] for row in data] + [key(**dict.fromkeys(keys, 7) | {"user_id": 424242})]
    if composite:
        asked[-1] = key(user_id=424242, item="nothing")
    store.online_write_batch(config, table, data, None)
    feast_store.online_write_batch(feast_config, table, data, None)
    ours = store.online_read(config, table, asked)
    theirs = feast_store.online_read(feast_config, table, asked)
    for (at, mine), (_, other), (_, held, event, _) in zip(ours, theirs, data, strict=False):
        assert at == event
        assert set(mine) == set(features)
        assert all(same(mine[name], other[name]) for name in features)
        assert all(same(mine[name], held[name]) for name in features)
    assert ours[-1] == (None, None)


@given(event=MOMENTS, data=st.data())
@settings(max_examples=300, deadline=None)
def test_times_are_exact(event: datetime, data: Any) -> None:
    created = data.draw(created_after(event))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    micros = [None if at is None else (at - epoch) // at.resolution for at in (event, created)]
    assert micros[0] is not None
    flags, times = pack_times(micros[0], micros[1])
    assert unpack_times(b"\0\0" + bytes([flags]) + times) == (micros[0], micros[1], 3 + len(times))


def test_a_value_of_another_type_than_declared(store, config) -> None:
    table = view(features={"a": ValueType.FLOAT, "b": ValueType.STRING})
    held = {"a": Value(int64_val=3), "b": Value(string_val="x")}
    store.online_write_batch(
        config, table, [(key(user_id=1), held, datetime(2026, 1, 1, tzinfo=UTC), None)], None
    )
    [(_, read)] = store.online_read(config, table, [key(user_id=1)])
    assert read == held


def test_the_order_of_the_schema_does_not_matter() -> None:
    one = view(features={"a": ValueType.FLOAT, "b": ValueType.STRING})
    other = view(features={"b": ValueType.STRING, "a": ValueType.FLOAT})
    assert Layout.of(one, versioning=True) == Layout.of(other, versioning=True)

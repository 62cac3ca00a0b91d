"""Whose a key is and which view's a row: never a matter of chance, nor of who comes first."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from feast import FeatureView, ValueType

from extensions.errors import SkewlessError
from extensions.stores.online.store import SkewlessRedisOnlineStore
from extensions.stores.online_codec.row_format import Layout
from tests.online.conftest import config_of
from tests.online.test_store import PAIR, read, write
from tests.online.views import T0, key, view


def of_version(table: FeatureView, version: int) -> FeatureView:
    table.current_version_number = version
    return table


def colliding() -> tuple[str, str]:
    """Two names with one tag of three bytes; of a few thousand, some always have."""
    seen: dict[bytes, str] = {}
    number = 0
    while True:
        name = f"view{number}"
        other = seen.setdefault(Layout(name, ()).tag, name)
        if other != name:
            return other, name
        number += 1


def colliding_version(own: str) -> tuple[str, int]:
    """A view of which some version has the tag of ``own`` (v0)."""
    tag, number = Layout(own, ()).tag, 0
    while True:
        for version in range(1, 256):
            if Layout(f"v{number}_v{version}", ()).tag == tag:
                return f"v{number}", version
        number += 1


def test_views_with_one_tag_are_refused_at_apply(store, config) -> None:
    one, other = map(view, colliding())
    with pytest.raises(SkewlessError, match=r"would have one name in Redis.*another name"):
        store.update(config, [], [one, other], [], [], partial=False)
    store.update(config, [], [one], [], [], partial=False)
    with pytest.raises(SkewlessError, match=f"{other.name} and {one.name} would have"):
        store.update(config, [], [other], [], [], partial=False)
    # Of another entity they share no key.
    elsewhere = view(other.name, entities={"item_id": ValueType.INT64})
    store.update(config, [], [one, elsewhere], [], [], partial=False)


def test_a_writer_without_apply_is_refused_as_well(store, config) -> None:
    one, other = map(view, colliding())
    user = key(user_id=1)
    write(store, config, one, (user, 1, 1, 1))
    for second in (store, SkewlessRedisOnlineStore()):
        with pytest.raises(SkewlessError, match="would have one name"):
            write(second, config, other, (user, 2, 2, 2))
    assert read(store, config, one, user) == [1]
    assert read(store, config, other, user) == [None]
    store.delete_table(config, other)  # none of its rows can be there
    store.update(config, [other], [one], [], [], partial=False)
    assert read(store, config, one, user) == [1]
    store.delete_table(config, one)
    write(store, config, other, (user, 2, 2, 2))  # the name is free again
    assert read(store, config, other, user) == [2]


def test_a_version_that_never_was_takes_nothing_out(store, config) -> None:
    """Deleting a view takes out up to 256 versions, and one of their tags is another view's."""
    own = view("stats")
    name, version = colliding_version("stats")
    user = key(user_id=1)
    write(store, config, own, (user, 1, 1, 1))
    write(store, config, view(name), (user, 2, 2, 2))
    store.update(config, [view(name)], [own], [], [], partial=False)
    assert read(store, config, own, user) == [1]
    assert read(store, config, view(name), user) == [None]
    write(store, config, view(name), (user, 2, 2, 2))
    store.teardown(config, [view(name)], [])
    assert read(store, config, own, user) == [1]
    with pytest.raises(SkewlessError, match=f"{name}_v{version} and stats would have"):
        write(store, config, of_version(view(name), version), (user, 3, 3, 3))


@pytest.mark.parametrize("entities", [{"user_id": ValueType.INT64}, PAIR])
def test_a_view_named_like_a_version_of_another(store, config, entities) -> None:
    one = of_version(view("stats", entities=entities), 1)
    other = view("stats_v1", entities=entities)
    who = key(**dict.fromkeys(entities, 1))
    write(store, config, one, (who, 1, 1, 1))
    with pytest.raises(SkewlessError, match="another name or another version number"):
        write(store, config, other, (who, 2, 2, 2))
    store.update(config, [other], [one], [], [], partial=False)
    assert read(store, config, one, who) == [1]


STRANGE = ["a", "a:b", "a*", "a?", "[a]", "a\\", "ä", "a,b"]


def test_deleting_under_prefixes_that_look_like_patterns(store, redis_server, client) -> None:
    client.flushdb()
    configs = [config_of(redis_server, f"p{n}", key_prefix=one) for n, one in enumerate(STRANGE)]
    tables = [view("stats"), view("pairs", entities=PAIR)]
    user, pair = key(user_id=1), key(user_id=1, item_id=2)
    for n, each in enumerate(configs):
        write(store, each, tables[0], (user, n, 1, 1))
        write(store, each, tables[1], (pair, n, 1, 1))
    for n, each in enumerate(configs):
        store.teardown(each, tables, [])
        for later, other in enumerate(configs):
            left = None if later <= n else later
            assert read(store, other, tables[0], user) == [left]
            assert read(store, other, tables[1], pair) == [left]
    assert not client.keys("*")


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "write": lambda store, config: write(store, config, view(), (key(user_id=1), 9, 9, 9)),
    "write beside": lambda _, config: asyncio.run(
        SkewlessRedisOnlineStore().online_write_batch_async(
            config, view(), [(key(user_id=1), {}, T0, T0)], None
        )
    ),
    "read": lambda store, config: read(store, config, view(), key(user_id=1)),
    "read beside": lambda _, config: asyncio.run(
        SkewlessRedisOnlineStore().online_read_async(config, view(), [key(user_id=1)])
    ),
    "apply": lambda store, config: store.update(config, [], [view()], [], [], partial=False),
    "delete a view": lambda store, config: store.delete_table(config, view()),
    "delete by apply": lambda store, config: store.update(
        config, [view()], [], [], [], partial=False
    ),
    "delete an entity": lambda store, config: store.delete_entity_values(config, ["user_id"]),
    "teardown": lambda store, config: store.teardown(config, [view()], []),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_prefix_is_one_projects_alone_on_every_way(store, redis_server, client, way) -> None:
    client.flushdb()
    mine = config_of(redis_server, "owner")
    guest = config_of(redis_server, "guest", key_prefix="owner")
    write(store, mine, view(), (key(user_id=1), 1, 1, 1))
    before = {name: client.dump(name) for name in client.keys("*")}
    with pytest.raises(SkewlessError, match="are the project owner's in this Redis"):
        WAYS[way](SkewlessRedisOnlineStore(), guest)
    assert {name: client.dump(name) for name in client.keys("*")} == before
    assert read(store, mine, view(), key(user_id=1)) == [1]


def test_deleting_an_entity_takes_out_its_rows_and_no_others(store, config) -> None:
    """Of every view of that entity, as Feast's store does; a pair is another entity."""
    stats, habits, pairs = view("stats"), view("habits"), view("pairs", entities=PAIR)
    items = view("items", entities={"item_id": ValueType.INT64})
    texts = view("texts", entities={"user": ValueType.STRING})
    rows = [(stats, key(user_id=1)), (habits, key(user_id=2)), (items, key(item_id=1)),
            (pairs, key(user_id=1, item_id=1)), (texts, key(user="a:b"))]  # fmt: skip

    def held() -> list[int | None]:
        return [read(store, config, table, one)[0] for table, one in rows]

    for number, (table, one) in enumerate(rows):
        write(store, config, table, (one, number, 1, 1))
    store.delete_entity_values(config, ["user_id"])
    assert held() == [None, None, 2, 3, 4]
    store.delete_entity_values(config, ["item_id", "user_id"])  # in any order
    assert held() == [None, None, 2, None, 4]
    store.delete_entity_values(config, ["user"])
    assert held() == [None, None, 2, None, None]
    write(store, config, stats, (key(user_id=1), 7, 0, 0))
    assert held()[0] == 7

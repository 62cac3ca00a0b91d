"""A view of a user's own whose schema changes goes on being served from the rows that are there."""

from typing import Any

import numpy as np
import pytest
from feast import FeatureStore
from feast.types import Array, Float32, Float64, Int64, String

from extensions.errors import SkewlessError
from extensions.stores.online.view_settings import layout_of
from extensions.stores.online_codec.redis_keys import place_of
from extensions.stores.online_codec.row_decoder import Decoder
from extensions.stores.online_codec.section_index import fields, sections
from extensions.stores.rebuild import rebuild_online
from tests.online.own_store import (
    TIMES,
    hours_ago,
    item,
    materialize,
    online,
    open_store,
    run,
    stats,
    user,
)
from tests.online.views import key

X, Y = {"x": Int64, "text": String}, {"y": Array(Float32)}


@pytest.fixture(params=[False, True], ids=["one key", "two keys"])
def composite(request: Any) -> bool:
    return bool(request.param)


@pytest.fixture
def world(tmp_path: Any, fresh_database: str, redis_server: str, composite: bool) -> Any:
    return World(tmp_path, fresh_database, redis_server, composite)


class World:
    def __init__(self, folder: Any, url: str, redis_url: str, composite: bool, **more: Any) -> None:
        self.url, self.folder, self.redis_url, self.more = url, folder, redis_url, more
        self.entities = [user, item] if composite else [user]
        self.ids = {"user_id": 1, "item_id": 2} if composite else {"user_id": 1}
        at = hours_ago(1)
        run(
            url,
            f"CREATE TABLE stats (user_id bigint, item_id bigint, {TIMES}, x bigint, text text, "
            "y real[])",
            f"INSERT INTO stats VALUES (1, 2, '{at}', '{at}', 5, 'é', '{{1, 2}}')",
        )
        self.store = open_store(folder / "repo", url, redis_url, **more)

    def apply(self, features: dict[str, Any]) -> None:
        schema = dict.fromkeys(self.ids, Int64) | features
        self.store.apply([*self.entities, stats(schema, *self.entities)])

    def materialize(self) -> None:
        materialize(self.store, hours_ago(48), hours_ago(0))

    def other_process(self) -> FeatureStore:
        return open_store(self.folder / "repo", self.url, self.redis_url, **self.more)

    def read(self, *names: str) -> list[Any]:
        """As Feast reads it in another process; the server's decoder says the same."""
        store = self.other_process()
        found = online(store, list(names), **self.ids)
        assert self.decoded(store, names) == found
        return found

    def decoded(self, store: FeatureStore, names: Any) -> list[Any]:
        view = store.get_feature_view("stats")
        layout = layout_of(store.config, view)
        where = place_of(store.config, view, layout.view)
        client = store._get_provider().online_store._get_client(store.config.online_store)
        [(key_, name)] = [where.address(key(**self.ids))]
        value = client.hget(key_, name) if name else client.get(key_)
        decoder = Decoder(layout, dict.fromkeys(layout.names))
        if name:
            buffer, at, size = fields([value or b""] * 3)
        else:
            buffer, [(at, size)] = sections([value] * 3, [layout])
        block = decoder.block(buffer, at, size, 0)
        row = buffer[at[0] : at[0] + size[0]] if size[0] else None
        one, _ = decoder.one(row, 0)
        for column in block.columns.values():
            assert len({str(value) for value in column}) == 1
        listed = [one[each] for each in names]
        assert [plain(block.columns[each][0]) for each in names] == [plain(v) for v in listed]
        return [plain(value) for value in listed]


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def test_a_feature_is_added_taken_away_and_changed(world: World) -> None:
    world.apply(X)
    world.materialize()
    assert world.read("x", "text") == [5, "é"]
    world.apply(X | Y)
    assert world.read("x", "text", "y") == [5, "é", None]
    world.apply({"x": Int64})
    assert world.read("x") == [5]
    world.apply({"x": Float64, "text": String})  # another type: another feature
    assert world.read("x", "text") == [None, "é"]
    world.apply(X | Y | {"z": Int64})
    assert world.read("x", "text", "y", "z") == [5, "é", None, None]
    world.apply(X)  # and back
    assert world.read("x", "text") == [5, "é"]
    run(world.url, "ALTER TABLE stats ADD z bigint")
    world.apply(X | Y | {"z": Int64})
    world.apply(X | Y)
    world.materialize()
    assert world.read("x", "text", "y") == [5, "é", [1.0, 2.0]]


def test_an_older_row_of_the_new_schema_does_not_replace_a_newer_one(world: World) -> None:
    world.apply(X)
    world.materialize()
    old = hours_ago(3)
    run(world.url, "DELETE FROM stats",
        f"INSERT INTO stats VALUES (1, 2, '{old}', '{old}', 4, 'old', NULL)")  # fmt: skip
    world.apply(X | Y)
    world.materialize()
    assert world.read("x", "text", "y") == [5, "é", None]
    new = hours_ago(0.5)
    run(world.url, f"INSERT INTO stats VALUES (1, 2, '{new}', '{new}', 6, 'new', '{{3}}')")
    world.materialize()
    assert world.read("x", "text", "y") == [6, "new", [3.0]]


def test_what_the_log_advises_fills_a_view_of_ones_own(world: World) -> None:
    world.apply(X)
    world.materialize()
    world.apply(X | Y)
    for name in ("stats", None):
        [done] = rebuild_online(world.store, name, computations=[])
        assert done.view == "stats"
        assert world.read("x", "text", "y") == [5, "é", [1.0, 2.0]]
    with pytest.raises(SkewlessError, match="There is no view 'stat': choose among stats"):
        rebuild_online(world.store, "stat", computations=[])


def test_where_feast_makes_a_version_of_it_apply_says_what_to_do(
    tmp_path: Any, fresh_database: str, redis_server: str, composite: bool, capsys: Any
) -> None:
    """A version's rows are its own, as in Feast's store: a new one begins without any."""
    settings = {"enable_online_feature_view_versioning": True}
    world = World(tmp_path, fresh_database, redis_server, composite, registry=settings)
    world.apply(X)
    world.materialize()
    capsys.readouterr()
    world.apply(X | Y)
    assert "run `skewless rebuild-online --view stats`" in capsys.readouterr().err
    assert rebuild_online(world.store, "stats", computations=[])
    assert world.read("x", "text", "y") == [5, "é", [1.0, 2.0]]
    world.apply(X | Y)
    assert "rebuild-online" not in capsys.readouterr().err

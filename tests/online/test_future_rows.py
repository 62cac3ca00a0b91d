"""A row from the future is refused on every way in, and shuts nothing out where it is already."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pytest
import redis
from feast import FeatureStore
from feast.data_source import PushMode
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64

from extensions.asof.tick import tick
from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.stores.log_publishing import publish
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.rebuild import rebuild_online
from tests.online.own_store import (
    TIMES,
    hours_ago,
    materialize,
    online,
    open_store,
    run,
    stats,
    user,
)
from tests.online.repository import applied, watch
from tests.online.test_publish import assert_online_is_the_log

YEAR_2100 = datetime(2100, 1, 1, tzinfo=UTC)
WAYS: dict[str, Callable[[FeatureStore, pd.DataFrame], Any]] = {
    "push": lambda store, df: store.push("stats_push", df, to=PushMode.ONLINE_AND_OFFLINE),
    "push online": lambda store, df: store.push("stats_push", df, to=PushMode.ONLINE),
    "push offline": lambda store, df: store.push("stats_push", df, to=PushMode.OFFLINE),
    "write online": lambda store, df: store.write_to_online_store("stats", df),
    "write offline": lambda store, df: store.write_to_offline_store("stats", df),
}


@pytest.fixture
def store(tmp_path: Any, fresh_database: str, redis_server: str) -> FeatureStore:
    run(fresh_database, f"CREATE TABLE stats (user_id bigint, {TIMES}, x bigint)")
    made = open_store(tmp_path / "repo", fresh_database, redis_server)
    made.apply([user, stats({"user_id": Int64, "x": Int64})])
    return made


def frame(*rows: tuple[int, datetime, datetime | None, int]) -> pd.DataFrame:
    names = ["user_id", "event_timestamp", "created_timestamp", "x"]
    return pd.DataFrame(dict(zip(names, zip(*rows, strict=True), strict=True)))


def logged(url: str) -> list[tuple[int, int]]:
    with psycopg.connect(url) as conn:
        return conn.execute("SELECT user_id, x FROM stats ORDER BY 1").fetchall()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("late", ["event", "created"])
def test_refused_whole_on_both_sides(store, fresh_database, way: str, late: str) -> None:
    now = datetime.now(UTC)
    for future in (YEAR_2100, now + timedelta(minutes=6), datetime(2200, 1, 1, tzinfo=UTC)):
        rows = [(1, now, now, 1), (2, future if late == "event" else now, future, 2)]
        what = "event" if late == "event" else "created"
        with pytest.raises(SkewlessError) as refused:
            WAYS[way](store, frame(*rows))
        said = str(refused.value)
        assert "A row for stats is from the future" in said
        assert f"its {what}" in said
        assert future.isoformat(timespec="seconds")[:19] in said
        assert "the limit is" in said
        assert logged(fresh_database) == []
        assert online(store, ["x"], user_id=1) == [None]
    # A clock that is a little ahead is no future.
    soon = now + timedelta(minutes=4)
    WAYS[way](store, frame((1, soon, soon, 5)))
    if "offline" not in way:
        assert online(store, ["x"], user_id=1) == [5]


def test_the_allowance_is_the_stores(tmp_path, fresh_database, redis_server) -> None:
    run(fresh_database, f"CREATE TABLE stats (user_id bigint, {TIMES}, x bigint)")
    settings = {"future_allowance_seconds": 3600}
    wide = open_store(tmp_path / "a", fresh_database, redis_server, online_store=settings)
    wide.apply([user, stats({"user_id": Int64, "x": Int64})])
    soon = datetime.now(UTC) + timedelta(minutes=50)
    wide.push("stats_push", frame((1, soon, soon, 5)), to=PushMode.ONLINE_AND_OFFLINE)
    assert online(wide, ["x"], user_id=1) == [5]
    assert logged(fresh_database) == [(1, 5)]
    none = open_store(
        tmp_path / "b", fresh_database, redis_server, online_store={"future_allowance_seconds": 0}
    )
    with pytest.raises(SkewlessError, match="allowance of 0 s"):
        none.push("stats_push", frame((1, soon, soon, 5)))
    assert online(none, ["x"], user_id=1) == [None]  # it counts from its time on


def test_materialization_passes_over_what_is_from_the_future(store, fresh_database, caplog) -> None:
    """Another tool put it into the table; the newest true row goes online, and it is said."""
    old, true = hours_ago(3), hours_ago(2)
    run(
        fresh_database,
        f"INSERT INTO stats VALUES (1, '{old}', '{old}', 1), (1, '{true}', '{true}', 2), "
        f"(1, '2100-01-01Z', '{true}', 3), (1, '{hours_ago(1)}', '2100-01-01Z', 4), "
        f"(2, '2100-01-01Z', '{true}', 5)",
    )
    for end in (datetime.now(UTC), datetime(2101, 1, 1, tzinfo=UTC)):
        caplog.clear()
        materialize(store, hours_ago(24), end)
        assert online(store, ["x"], user_id=1) == [2]
        assert online(store, ["x"], user_id=2) == [None]
        assert "rows of" in caplog.text
        assert "from the future" in caplog.text
    now = datetime.now(UTC)
    store.push("stats_push", frame((1, now, now, 6)), to=PushMode.ONLINE)
    assert online(store, ["x"], user_id=1) == [6]


def test_true_rows_are_served_where_redis_has_a_future_one(store, redis_server) -> None:
    """As an earlier version of this store let it in."""
    view = store.get_feature_view("stats")
    layout = Layout.of(view, versioning=False)
    far = int(YEAR_2100.timestamp() * 1e6)
    packed = layout.pack({"x": Value(int64_val=100)}, far, far)
    client = redis.Redis.from_url(redis_server)
    client.set(f"{store.project}:user_id:1", layout.header(len(packed)) + packed)
    assert online(store, ["x"], user_id=1) == [None]
    true = hours_ago(1)
    store.write_to_online_store("stats", frame((1, true, true, 7)))
    assert online(store, ["x"], user_id=1) == [7]


def test_a_log_that_holds_future_rows(
    fresh_database: str, redis_server: str, repo_root: Any, computations: Any
) -> None:
    """Neither a refresh nor a rebuild publishes them, and both go on."""
    at = datetime.now(UTC) - timedelta(minutes=1)
    url = redis_server.rpartition("/")[0] + "/13"
    with (
        applied(fresh_database, url, repo_root) as store,
        connect(fresh_database, autocommit=True) as conn,
    ):
        watch(fresh_database, users=5, items=5, events=100, at=at)
        for computation in computations.values():
            tick(conn, computation)
        stats_view = computations["user_watch_stats.v1"]
        columns = ", ".join(one.name for one in stats_view.features)
        conn.execute(
            f"INSERT INTO {stats_view.log_table} (user_id, event_timestamp, created_timestamp, "
            f"{columns}) SELECT DISTINCT ON (user_id) user_id, '2100-01-01Z'::timestamptz, "
            f"now(), {columns.replace('user_watch_count_7d', '999')} FROM {stats_view.log_table}"
        )
        publish(store, conn, stats_view)
        rebuild_online(store)
        conn.execute(f"DELETE FROM {stats_view.log_table} WHERE event_timestamp > '2099-01-01Z'")
        for computation in computations.values():
            assert_online_is_the_log(store, conn, computation)

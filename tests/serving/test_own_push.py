"""A view of a user's own, which nothing of ours computes, fed by pushes through Feast."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, PushSource, ValueType
from feast.data_source import PushMode
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Int64, String

from extensions.database import connect
from tests.served import NOW
from tests.serving.redis_nodes import until

OLD, NEW = NOW - timedelta(hours=2), NOW - timedelta(hours=1)
TABLE = """
CREATE TABLE basket_log (
    account text, items bigint, place text, event_timestamp timestamptz,
    created_timestamp timestamptz
)
"""


@pytest.fixture(scope="module")
def baskets(feast_store: FeatureStore, database: str) -> FeatureStore:
    """The store, with a view over a table that a user made."""
    with connect(database) as conn:
        conn.execute(TABLE)
    account = Entity(name="account", join_keys=["account"], value_type=ValueType.STRING)
    log = PostgreSQLSource(
        name="basket_log",
        table="basket_log",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    view = FeatureView(
        name="basket",
        entities=[account],
        schema=[Field(name="items", dtype=Int64), Field(name="place", dtype=String)],
        source=PushSource(name="basket_push", batch_source=log),
        ttl=timedelta(days=30),
        online=True,
    )
    feast_store.apply([account, view, FeatureService(name="checkout", features=[view])])
    return feast_store


@pytest.fixture
def served(http: httpx.Client, baskets: FeatureStore) -> Callable[[str], tuple[object, object]]:
    """What the service of the user's own answers about an account."""

    def ask(account: str) -> httpx.Response:
        asked = {"service": "checkout", "entities": [{"account": account}]}
        return http.post("/v1/features", json=asked)

    def answer(account: str) -> tuple[object, object]:
        [found] = ask(account).json()["results"]
        return found["features"]["items"], found["features"]["place"]

    until(lambda: ask("nobody").status_code == 200)
    return answer


def rows(*pushed: tuple[str, int, str, datetime]) -> pd.DataFrame:
    frame = pd.DataFrame(pushed, columns=["account", "items", "place", "event_timestamp"])
    return frame.assign(created_timestamp=datetime.now(UTC))


def trained(store: FeatureStore, *labels: tuple[str, datetime]) -> list[object]:
    """The numbers of items that a training set has for (account, moment)."""
    frame = pd.DataFrame(labels, columns=["account", "event_timestamp"])
    found = store.get_historical_features(frame, ["basket:items"]).to_df()
    return [None if pd.isna(value) else int(value) for value in found["items"]]


def test_a_push_to_both_is_served_and_trained_on(baskets, served) -> None:
    baskets.push("basket_push", rows(("a", 3, "Köln", NEW)), to=PushMode.ONLINE_AND_OFFLINE)
    assert served("a") == (3, "Köln")
    pushed_at = datetime.now(UTC)
    # Known from its arrival on, though it is said of an hour ago.
    assert trained(baskets, ("a", pushed_at), ("a", NEW), ("b", pushed_at)) == [3, None, None]


def test_an_older_push_is_kept_for_training_and_not_served(baskets, served) -> None:
    both = PushMode.ONLINE_AND_OFFLINE
    baskets.push("basket_push", rows(("c", 5, "new", NEW)), to=both)
    baskets.push("basket_push", rows(("c", 4, "old", OLD)), to=both)
    assert served("c") == (5, "new")
    assert trained(baskets, ("c", datetime.now(UTC))) == [5]


def test_pushes_over_http_go_where_they_are_sent(baskets, served, http) -> None:
    for mode, account in (("online", "d"), ("offline", "e"), ("online_and_offline", "f")):
        row = {"account": account, "items": 7, "place": mode, "event_timestamp": NEW.isoformat(),
               "created_timestamp": NEW.isoformat()}  # fmt: skip
        reply = http.post(
            "/push",
            json={"push_source_name": "basket_push", "df": {k: [v] for k, v in row.items()},
                  "to": mode},
        )  # fmt: skip
        assert reply.status_code == 200, reply.text
    assert [served(a) for a in "def"] == [(7, "online"), (None, None), (7, "online_and_offline")]
    assert trained(baskets, ("d", NOW), ("e", NOW), ("f", NOW)) == [None, 7, 7]


@pytest.mark.parametrize("late", ["event_timestamp", "created_timestamp"])
def test_a_row_from_the_future_is_refused_over_http_and_shuts_nothing_out(
    baskets, served, http, database, late
) -> None:
    with connect(database) as conn:
        before = conn.execute("SELECT count(*) FROM basket_log").fetchone()
    true = {"account": "g", "items": 1, "place": "x", "event_timestamp": NEW.isoformat(),
            "created_timestamp": NEW.isoformat()}  # fmt: skip
    row = true | {
        "items": 9,
        "created_timestamp": "2100-01-01T00:00:00Z",
        late: "2100-01-01T00:00:00Z",
    }
    frame = {name: [value] for name, value in row.items()}
    asked = [
        ("/push", {"push_source_name": "basket_push", "df": frame, "to": "online"}),
        ("/push", {"push_source_name": "basket_push", "df": frame, "to": "online_and_offline"}),
        ("/push", {"push_source_name": "basket_push", "df": frame, "to": "offline"}),
        ("/write-to-online-store", {"feature_view_name": "basket", "df": frame}),
    ]
    for route, body in asked:
        reply = http.post(route, json=body)
        assert 400 <= reply.status_code < 500, reply.text
        assert "from the future" in reply.text
    with connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM basket_log").fetchone() == before
    frame = {name: [value] for name, value in true.items()}
    assert http.post("/push", json=asked[0][1] | {"df": frame}).status_code == 200
    assert served("g") == (1, "x")

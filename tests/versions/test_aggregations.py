"""A view with aggregations from plan to retirement, like any other; its text stays its own."""

import re
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from extensions.asof import Spine
from extensions.asof.aggregations.compiler import compiled_sql
from extensions.database import connect_arrow
from extensions.errors import ConflictError, DefinitionError
from extensions.stores.registry import feast_registry_rows
from extensions.versions.apply import apply
from extensions.versions.plan import Plan, Severity, make_plan
from extensions.versions.promotion import promote
from extensions.versions.version_state_check import disagreements
from extensions.versions.version_text import eject, version_text
from tests.asof.asking import ask
from tests.oracle.answers import bits
from tests.versions.conftest import HISTORY, NOW, World

VIEW = """
from feast import Aggregation, BatchFeatureView, FeatureService, Field
from feast.types import Array, Float32, Int64
from datetime import timedelta

from feature_repo.entities import user
from feature_repo.sources import watch_events

user_watching = BatchFeatureView(
    name="user_watching",
    version="v1",
    entities=[user],
    source=watch_events,
    online=True,
    schema=[
        Field(name="watches_1d", dtype=Int64, tags={"default": "0"}),
        Field(name="watch_min_1d", dtype=Float32, tags={"default": "0.0", "divide_by": "60000"}),
        Field(name="last_items", dtype=Array(Int64), tags={"default": "[]", "limit": "3"}),
    ],
    aggregations=[
        Aggregation(function="count", time_window=timedelta(days=1), name="watches_1d"),
        Aggregation("duration_ms", "mean", timedelta(days=1), name="watch_min_1d"),
        Aggregation("item_id", "last_n", name="last_items", time_window=timedelta(days=1)),
    ],
    tags={"freshness": "hourly"},
)

watching = FeatureService(name="watching", features=[user_watching])
"""
FILE = "user_watching.py"
FEATURES = [f"user_watching:{name}" for name in ("watches_1d", "watch_min_1d", "last_items")]


@pytest.fixture
def declared(world: World) -> World:
    world.repository.path(FILE).write_text(VIEW)
    return world


def plan(world: World) -> Plan:
    with world.repository.current():
        return make_plan(world.conn, "skewless", world.root)


def version_two(world: World) -> None:
    world.repository.edit(FILE, 'version="v1"', 'version="v2"')
    path = world.repository.path(FILE)
    path.write_text(path.read_text().replace("timedelta(days=1)", "timedelta(hours=12)"))


def test_it_is_planned_applied_served_trained_and_refreshed(declared: World) -> None:
    world = declared
    [view, service] = plan(world).changes
    assert (view.name, view.severity) == ("user_watching", Severity.NEW_VIEW)
    assert service.services == ("watching",)

    world.apply()
    assert plan(world).changes == ()
    with world.repository.current():
        assert disagreements(world.store(), world.conn, world.root) == []
    read = world.online(*FEATURES, user_id=1)
    [(watches, minutes, items)] = world.conn.execute(
        "SELECT count(*), (sum(duration_ms)::float8 / (count(*) * 60000))::real, "
        "(array_agg(item_id ORDER BY watched_at DESC))[1:3] FROM watch_events "
        "WHERE user_id = 1 AND watched_at > %s - interval '24 hours'",
        [_logged_at(world)],
    ).fetchall()
    assert watches > 5
    assert (read["watches_1d"], read["last_items"]) == (watches, items)
    assert read["watch_min_1d"] == pytest.approx(minutes, rel=1e-7)

    # Training reads the log as of each label; the service knows the view by its object.
    labels = pd.DataFrame({"user_id": [1, 2, 99], "event_timestamp": [datetime.now(UTC)] * 3})
    trained = world.store().get_historical_features(labels, FEATURES).to_df()
    row = trained[trained["user_id"] == 1].iloc[0]
    assert (row["watches_1d"], list(row["last_items"])) == (watches, items)
    assert trained[trained["user_id"] == 99].iloc[0]["watches_1d"] == 0

    world.conn.execute(
        "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, ingested_at, "
        "duration_ms, progress) VALUES ('new', 1, 7777, now(), now(), 60000, 0.5)"
    )
    world.refresh()
    after = world.online(*FEATURES, user_id=1)
    assert after["last_items"][0] == 7777


def test_a_second_version_is_filled_and_promoted(declared: World) -> None:
    world = declared
    world.apply()
    version_two(world)
    [change] = plan(world).changes
    assert change.severity is Severity.NEW_VERSION
    assert "SQL" in change.what
    assert "horizon" in change.what
    [filled] = world.apply().filled
    assert (filled.view, filled.version, filled.state) == ("user_watching", 2, "live")
    promote(world.conn, "skewless", "user_watching", 2)
    both = world.online("user_watching:watches_1d", user_id=1)
    assert (
        both["watches_1d"] <= world.online("user_watching@v1:watches_1d", user_id=1)["watches_1d"]
    )


def test_a_published_declaration_cannot_be_edited(declared: World) -> None:
    world = declared
    world.apply()
    for old, new in (
        ('"divide_by": "60000"', '"divide_by": "3600000"'),
        ('"limit": "3"', '"limit": "4"'),
    ):
        world.repository.edit(FILE, old, new)
        [change] = plan(world).changes
        assert change.severity is Severity.REFUSED
        assert 'version="v2"' in change.what
        with pytest.raises(ConflictError):
            world.feast_apply()
        world.repository.edit(FILE, new, old)
    assert plan(world).changes == ()


def test_another_compiler_leaves_what_is_published(
    declared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = declared
    world.apply()
    monkeypatch.setattr(
        "extensions.asof.computation_loading.compiled_sql",
        lambda view: compiled_sql(view) + "\nORDER BY 1",
    )
    assert plan(world).changes == ()
    world.feast_apply()
    world.apply()
    with world.repository.current():
        text = version_text(world.conn, world.root, "user_watching", None)
        assert text.published
        assert not text.sql.endswith("ORDER BY 1\n")
        assert version_text(None, world.root, "user_watching", None).sql.endswith("ORDER BY 1\n")
    message = feast_registry_rows.snapshot(world.conn, "skewless", "user_watching", 1)
    assert message is not None
    tags = feast_registry_rows.parse("computation", message).spec.tags
    assert tags["sql"].strip() == text.sql.strip()


def test_it_is_ejected_and_goes_on_by_hand(declared: World) -> None:
    world = declared
    world.apply()
    with world.repository.current():
        text = version_text(world.conn, world.root, "user_watching", None)
        path, written = eject(world.root, text)
        assert written
        assert eject(world.root, text) == (path, False)
    assert text.tags == {"reads": "watch_events", "horizon": "1 day"}
    assert plan(world).changes == ()  # both are there, and equal

    file = world.root / path
    file.write_text(
        text.sql.replace("s.as_of - interval '24 hours'", "s.as_of - interval '23 hours'")
    )
    with pytest.raises(DefinitionError, match="say different things"):
        plan(world)
    with world.repository.current(), pytest.raises(ConflictError, match="says something else"):
        eject(world.root, text)
    file.write_text(text.sql)

    # By hand from now on: the same version, unchanged; then the next one, edited.
    by_hand = re.sub(r"    aggregations=\[.*?\n    \],\n", "", VIEW, flags=re.DOTALL)
    by_hand = re.sub(r', "(divide_by|limit)": "\d+"', "", by_hand)
    by_hand = by_hand.replace("BatchFeatureView(", "FeatureView(").replace(
        "import Aggregation, BatchFeatureView", "import FeatureView"
    )
    by_hand = by_hand.replace("source=watch_events", 'source=log("user_watching", 1)')
    by_hand = by_hand.replace("import watch_events", "import log, watch_events")
    by_hand = by_hand.replace(
        '{"freshness": "hourly"}',
        '{"freshness": "hourly", "reads": "watch_events", "horizon": "1 day"}',
    )
    world.repository.path(FILE).write_text(by_hand)
    changes = plan(world).changes
    assert [change.severity for change in changes] in ([], [Severity.METADATA])
    world.apply()
    assert plan(world).changes == ()
    file.write_text(text.sql.replace("LIMIT 3", "LIMIT 2"))
    [change] = plan(world).changes
    assert change.severity is Severity.REFUSED


def test_feast_by_itself_applies_it_and_finds_nothing_to_do(declared: World) -> None:
    world = declared
    world.apply()
    before = world.states("user_watching")
    world.feast_apply()
    assert world.states("user_watching") == before == {1: "active"}
    store = world.store()
    view = store.get_feature_view("user_watching")
    assert view.batch_source.name == "user_watching_v1"
    assert view.tags["horizon"] == "1 day"
    store.registry.apply_feature_view(view, "skewless")  # as it comes from the registry
    assert world.states("user_watching") == before
    # As Feast materializes: from the log.
    end = datetime.now(UTC)
    store.materialize(end - HISTORY, end, feature_views=["user_watching"])
    assert world.online(*FEATURES, user_id=1)["watches_1d"]


def test_a_wrong_column_is_told_at_plan(declared: World) -> None:
    declared.repository.edit(FILE, '"duration_ms"', '"duration"')
    with pytest.raises(DefinitionError, match=r"watch_min_1d names the column duration, which"):
        plan(declared)


def test_what_apply_logged_is_what_the_text_says_again(declared: World) -> None:
    world = declared
    with world.repository.current():
        apply(world.conn, world.root, since=NOW - HISTORY)
        computation = version_text(world.conn, world.root, "user_watching", None).computation
    logged = world.conn.execute(
        "SELECT user_id, event_timestamp, watches_1d, watch_min_1d, last_items "
        "FROM user_watching_v1"
    ).fetchall()
    assert len(logged) > 100
    with connect_arrow(world.database) as arrow:
        again = ask(arrow, computation, Spine.of([row[:2] for row in logged], computation))
    expected = {((user,), at): (n, np.float32(m), tuple(items)) for user, at, n, m, items in logged}
    assert {asked: bits(answer) for asked, answer in again} == {
        asked: bits(answer) for asked, answer in expected.items()
    }


def _logged_at(world: World) -> datetime:
    """When the last row of user 1 was computed."""
    row = world.conn.execute(
        "SELECT max(event_timestamp) FROM user_watching_v1 WHERE user_id = 1"
    ).fetchone()
    assert row is not None
    at: datetime = row[0]
    return at

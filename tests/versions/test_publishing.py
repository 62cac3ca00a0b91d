"""Publishing: staged beside the default, filled whole, promoted and taken back."""

import re

import pytest

from extensions.errors import SkewlessError
from extensions.operations.database_setup import prepare_database
from extensions.stores.registry.version_store import promotions, published
from extensions.versions.plan import Severity, make_plan
from extensions.versions.promotion import promote, rollback
from extensions.versions.version_state_check import disagreements
from tests.versions.conftest import World

COUNT = "user_watch_stats:user_watch_count_7d"
COUNT_2 = "user_watch_stats@v2:user_watch_count_7d"


NEW_VIEW = """
from feature_repo.sources import log

user_activity = FeatureView(
    name="user_activity",
    version="v1",
    entities=[user],
    ttl=timedelta(0),
    schema=[Field(name="user_activity_7d", dtype=Int64, tags={"default": "0"})],
    source=log("user_activity", 1),
    tags={"freshness": "realtime", "horizon": "7 days", "reads": "watch_events"},
)
"""


def plan(world: World):
    with world.repository.current():
        return make_plan(world.conn, "skewless", world.root)


def test_nothing_to_do_is_no_change(world: World) -> None:
    made = plan(world)
    assert made.changes == ()
    assert made.notes == ()
    with world.repository.current():
        assert disagreements(world.store(), world.conn, world.root) == []


def test_a_new_version_is_filled_beside_the_default_and_promoted_and_taken_back(
    world: World,
) -> None:
    before = world.online(COUNT, user_id=1)
    world.repository.second_version("user_watch_stats")

    [change] = plan(world).changes
    assert change.severity is Severity.NEW_VERSION
    assert "SQL" in change.what
    assert change.services == ("home_page", "ranking")
    assert change.backfill is not None
    assert change.backfill.rows > 0

    [filled] = world.apply().filled
    assert (filled.version, filled.state) == (2, "live")
    assert filled.backfilled > 0
    # The plan counts the last day's changes, and the history is even.
    assert 0.5 < change.backfill.rows / filled.backfilled < 2
    assert world.states("user_watch_stats") == {1: "active", 2: "live"}
    assert world.online(COUNT, user_id=1) == before
    both = world.online(COUNT_2, user_id=1)
    assert both["user_watch_count_7d"] < before["user_watch_count_7d"]
    assert disagreements(world.store(), world.conn) == []

    moved = promote(world.conn, "skewless", "user_watch_stats", 2, reason="shorter is a mistake")
    assert moved.following == ("home_page", "ranking")
    assert world.online(COUNT, user_id=1) == both
    assert world.states("user_watch_stats") == {1: "live", 2: "active"}

    world.refresh()
    rollback(world.conn, "skewless", "user_watch_stats")
    assert world.online(COUNT, user_id=1) == before
    kinds = [(m.kind, m.from_version, m.to_version) for m in
             promotions(world.conn, "user_watch_stats")]  # fmt: skip
    assert kinds == [("first", None, 1), ("promote", 1, 2), ("rollback", 2, 1)]
    assert disagreements(world.store(), world.conn) == []
    with pytest.raises(SkewlessError, match="no version of user_watch_stats to go back to"):
        rollback(world.conn, "skewless", "user_watch_stats")


def test_words_about_a_published_view_may_change(world: World) -> None:
    known = {one.name: one.fingerprint for one in published(world.conn)}
    text = world.repository.path("views.py").read_text()
    start = text.index("item_stats = FeatureView(")
    description = re.search(r'description="[^"]*"', text[start:])
    assert description is not None
    world.repository.edit("views.py", description.group(), 'description="In other words."')
    [change] = plan(world).changes
    assert (change.name, change.severity) == ("item_stats", Severity.METADATA)
    assert change.backfill is None
    assert world.apply().filled == ()
    assert plan(world).changes == ()
    view = world.store().registry.get_feature_view("item_stats", "skewless")
    assert "In other words." in {view.description, *(f.description for f in view.features)}
    assert {one.name: one.fingerprint for one in published(world.conn)} == known


def test_a_new_view_is_the_default_at_once(world: World) -> None:
    path = world.repository.path("computations/user_watch_stats.v1.sql")
    name = "computations/user_activity.v1.sql"
    world.repository.path(name).write_text(
        path.read_text().replace("user_watch_count_7d", "user_activity_7d")
    )
    with world.repository.path("views.py").open("a") as file:
        file.write(NEW_VIEW)
    [change] = plan(world).changes
    assert (change.name, change.version) == ("user_activity", 1)
    assert change.severity is Severity.NEW_VIEW
    [filled] = world.apply().filled
    assert (filled.view, filled.state) == ("user_activity", "active")
    value = world.online("user_activity:user_activity_7d", user_id=1)
    assert value["user_activity_7d"] == world.online(COUNT, user_id=1)["user_watch_count_7d"]
    assert plan(world).changes == ()
    assert disagreements(world.store(), world.conn) == []


def test_feasts_own_apply_stages_and_never_undoes_a_rollback(world: World, capsys) -> None:
    world.repository.second_version("user_watch_stats")
    with world.repository.current():
        prepare_database(world.database, world.root)
    world.feast_apply()
    assert world.states("user_watch_stats") == {1: "active", 2: "staged"}
    assert "v1 stays the default" in capsys.readouterr().err
    with pytest.raises(SkewlessError, match="not filled yet"):
        promote(world.conn, "skewless", "user_watch_stats", 2)
    world.apply()
    promote(world.conn, "skewless", "user_watch_stats", 2)
    world.feast_apply()
    assert world.states("user_watch_stats") == {1: "live", 2: "active"}
    rollback(world.conn, "skewless", "user_watch_stats")
    world.feast_apply()
    assert world.states("user_watch_stats") == {1: "active", 2: "live"}
    served = world.store().registry.get_feature_view("user_watch_stats", "skewless")
    assert served.current_version_number == 1
    assert "No changes" not in plan(world).notes
    assert "the files name" in plan(world).notes[0].lower()
    assert disagreements(world.store(), world.conn) == []

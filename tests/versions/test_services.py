"""Who names a version keeps it, who names none follows; schemas may grow; Feast's commands work."""

import time
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
import redis

from extensions import addresses
from extensions.errors import SkewlessError
from extensions.serving.features.request_plan import Plan, compile_plans
from extensions.stores.registry.version_store import published
from extensions.versions.listing import overview
from extensions.versions.plan import Severity, make_plan
from extensions.versions.promotion import promote, rollback
from extensions.versions.version_state_check import disagreements
from tests.versions.conftest import World

COUNT = "user_watch_count_7d"


def plans(world: World) -> dict[str, Plan]:
    found = dict(compile_plans(world.store(), 1).by_service)
    for plan in found.values():
        assert isinstance(plan, Plan), plan
    return found


def versions_of(plan: Plan) -> dict[str, int]:
    return {view.name: view.version for view in plan.views}


def service(world: World, text: str) -> None:
    with world.repository.path("services.py").open("a") as file:
        file.write(f"\n{text}\n")


def test_a_plan_says_that_a_service_has_another_route(world: World) -> None:
    def planned() -> list[tuple[str, Severity, str]]:
        with world.repository.current():
            found = make_plan(world.conn, "skewless", world.root)
        return [(each.name, each.severity, each.what) for each in found.changes]

    service(world, 'shelf = FeatureService(name="shelf", features=["item_stats"])')
    world.apply()
    assert planned() == []
    for tags, which in (
        ({"route": "/v1/shelf/{item_id}"}, "route"),
        ({"route": "/v1/shelf/{item_id}", "names": "item_id=sku"}, "names"),
        ({}, "route, names"),
    ):
        service(
            world, f'shelf = FeatureService(name="shelf", features=["item_stats"], tags={tags})'
        )
        said = f"the service has another route (tag {which})"
        assert planned() == [("shelf", Severity.METADATA, said)]
        world.apply()
        assert planned() == []


def test_an_old_model_keeps_its_features_while_a_new_one_gets_its_own(world: World) -> None:
    service(world, 'old = FeatureService(name="ranker_1", features=["user_watch_stats@v1"])')
    world.apply()
    world.repository.second_version("user_watch_stats")
    service(world, 'new = FeatureService(name="ranker_2", features=["user_watch_stats@v2"])')
    # `user_watch_stats@v2` cannot be looked up before it is published: apply does it in two rounds.
    world.apply()
    expected = {"ranker_1": 1, "ranker_2": 2, "home_page": 1}
    for moves in (None, promote, rollback):
        if moves is promote:
            promote(world.conn, "skewless", "user_watch_stats", 2)
            expected["home_page"] = 2
        elif moves is rollback:
            rollback(world.conn, "skewless", "user_watch_stats")
            expected["home_page"] = 1
        store = world.store()
        found = plans(world)
        values = {
            v: world.online(f"user_watch_stats@v{v}:{COUNT}", user_id=1)[COUNT] for v in (1, 2)
        }
        assert values[1] != values[2]
        labels = pd.DataFrame({"user_id": [1], "event_timestamp": [datetime.now(UTC)]})
        for name, version in expected.items():
            assert versions_of(found[name])["user_watch_stats"] == version
            features = store.get_feature_service(name)
            online = store.get_online_features(features=features, entity_rows=[{"user_id": 1}])
            assert online.to_dict()[COUNT] == [values[version]]
            trained = store.get_historical_features(entity_df=labels, features=features).to_df()
            assert trained[COUNT].tolist() == [values[version]]
    used = {(v.view, v.version): v.services for v in overview(store, world.conn)}
    assert used["user_watch_stats", 1] == ("home_page", "ranker_1", "ranking")
    assert used["user_watch_stats", 2] == ("ranker_2",)


def test_a_service_of_view_objects_follows_too(world: World) -> None:
    # Feast would pin it to the version in the file, default or not.
    service(
        world,
        "from feature_repo.views import user_watch_stats\n"
        'objects = FeatureService(name="objects", features=[user_watch_stats])',
    )
    world.repository.second_version("user_watch_stats")
    world.apply()
    assert versions_of(plans(world)["objects"]) == {"user_watch_stats": 1}
    promote(world.conn, "skewless", "user_watch_stats", 2)
    assert versions_of(plans(world)["objects"]) == {"user_watch_stats": 2}
    rollback(world.conn, "skewless", "user_watch_stats")
    world.feast_apply()
    assert versions_of(plans(world)["objects"]) == {"user_watch_stats": 1}


def test_a_transform_reads_the_version_that_its_service_names(world: World) -> None:
    world.repository.path("computations/user_habits.v2.sql").write_text(
        world.repository.path("computations/user_habits.v1.sql")
        .read_text()
        .replace("coalesce(h.preferred_hour, 20::bigint)", "3::bigint")
    )
    world.repository.name_version("user_habits", 2)
    service(
        world,
        'pinned = FeatureService(name="pinned", features=["user_habits@v1", "ranking_signals"])',
    )
    world.apply()
    promote(world.conn, "skewless", "user_habits", 2)
    found = plans(world)
    assert versions_of(found["pinned"])["user_habits"] == 1
    assert versions_of(found["ranking"])["user_habits"] == 2
    assert len([v for v in found["pinned"].views if v.name == "user_habits"]) == 1


ADDED = """        Field(
            name="user_watched_ever",
            dtype=Int64,
            description="Whether the user watched at all.",
            tags={"default": "0"},
        ),
    ],
    source=user_watch_stats_push,"""


@pytest.fixture
def grown(world: World) -> World:
    """A second version with one more feature, published beside the first."""
    world.repository.second_version("user_watch_stats")
    path = world.repository.path("computations/user_watch_stats.v2.sql")
    path.write_text(
        path.read_text().replace(
            "    w.n AS user_watch_count_7d\n",
            "    w.n AS user_watch_count_7d,\n    least(w.n, 1) AS user_watched_ever\n",
        )
    )
    world.repository.edit("views.py", "    ],\n    source=user_watch_stats_push,", ADDED)
    world.apply()
    return world


def test_who_follows_gets_the_features_of_the_default(grown: World) -> None:
    def features() -> set[str]:
        [view] = [v for v in plans(grown)["home_page"].views if v.name == "user_watch_stats"]
        return set(view.features)

    assert features() == {COUNT}
    before = datetime.now(UTC)
    promote(grown.conn, "skewless", "user_watch_stats", 2)
    assert features() == {COUNT, "user_watched_ever"}
    assert disagreements(grown.store(), grown.conn) == []
    # What did not exist when the label was is null, not a default that nobody was served.
    labels = pd.DataFrame(
        {"user_id": [1, 1], "event_timestamp": [before, before + timedelta(seconds=1)]}
    )

    time.sleep(1.1)
    service = grown.store().get_feature_service("home_page")
    rows = grown.store().get_historical_features(entity_df=labels, features=service).to_df()
    assert rows["user_watched_ever"].isna().tolist() == [True, False]
    rollback(grown.conn, "skewless", "user_watch_stats")
    assert features() == {COUNT}
    grown.feast_apply()
    assert features() == {COUNT}
    assert disagreements(grown.store(), grown.conn) == []


def test_a_version_that_lacks_what_a_service_reads_is_not_promoted(grown: World) -> None:
    promote(grown.conn, "skewless", "user_watch_stats", 2)
    service(
        grown,
        'one = FeatureService(name="one", features=["user_watch_stats:user_watched_ever"])',
    )
    grown.apply()
    with pytest.raises(SkewlessError, match="The service one reads user_watch_stats:user_watched"):
        rollback(grown.conn, "skewless", "user_watch_stats")
    assert grown.states("user_watch_stats") == {1: "live", 2: "active"}


def test_a_feature_that_the_default_lacks_cannot_be_asked_for(grown: World) -> None:
    service(
        grown,
        'one = FeatureService(name="one", features=["user_watch_stats:user_watched_ever"])',
    )
    with pytest.raises(SkewlessError, match="which the default, v1, does not have"):
        grown.apply()


def test_a_transform_has_versions_as_well(world: World) -> None:
    world.repository.edit("transforms.py", 'version="v1"', 'version="v2"')
    world.repository.edit("transforms.py", "apart, 24 - apart) / 12", "apart, 24 - apart) / 24")
    world.apply()
    assert world.states("ranking_signals") == {1: "active", 2: "live"}
    row = {"user_id": 404, "item_id": 405, "request_hour": 8}

    def closeness() -> float:
        store = world.store()
        answer = store.get_online_features(
            features=store.get_feature_service("ranking"), entity_rows=[row]
        )
        return answer.to_dict()["hour_closeness"][0]

    assert closeness() == 0.0
    promote(world.conn, "skewless", "ranking_signals", 2)
    assert closeness() == 0.5
    rollback(world.conn, "skewless", "ranking_signals")
    assert closeness() == 0.0
    assert disagreements(world.store(), world.conn) == []


def test_feast_materializes_a_version_that_is_not_the_default(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    redis.Redis.from_url(addresses.redis_url()).flushdb()
    store = world.store()
    now = datetime.now(UTC)
    store.materialize(now - timedelta(days=3), now, ["item_stats"], version="v2")
    read = store.get_online_features(
        features=["item_stats:item_popularity_score", "item_stats@v2:item_popularity_score"],
        entity_rows=[{"item_id": 7}], full_feature_names=True,
    ).to_dict()  # fmt: skip
    values = [v for name, [v] in read.items() if name != "item_id"]
    assert 0.0 in values
    assert any(v > 0 for v in values)
    # The range is noted at the version, and the pointer is where it was.
    assert world.states("item_stats") == {1: "active", 2: "live"}
    registry = store.registry
    assert registry.get_feature_view("item_stats", "skewless").materialization_intervals == []
    second = registry.get_feature_view_by_version("item_stats", "skewless", 2)
    assert len(second.materialization_intervals) == 1
    assert [v["version"] for v in store.list_feature_view_versions("item_stats")] == ["v1", "v2"]
    promote(world.conn, "skewless", "item_stats", 2)
    active = world.store().registry.get_feature_view("item_stats", "skewless")
    assert len(active.materialization_intervals) == 1
    assert [one.version for one in published(world.conn, "item_stats")] == [1, 2]

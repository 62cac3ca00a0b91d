"""What Feast's UI shows of a view: description, owner and the SQL, from the registry it reads."""

import contextlib
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from feast.ui_server import get_app

from extensions.asof.computation_loading import read_repository
from extensions.stores.registry.feast_registry_rows import SQL_TAG
from extensions.stores.registry.version_store import find
from extensions.versions.declared_definitions import forget_modules, read_declared
from extensions.versions.plan import make_plan
from tests.versions.conftest import World

VIEW = "user_watch_stats"


@pytest.fixture
def ui(world: World) -> Iterator[TestClient]:
    """`feast ui`'s own application over the store."""
    with contextlib.chdir(world.root):
        store = world.store()
        with TestClient(get_app(store, store.project)) as client:
            yield client


def sql_of(world: World, version: int) -> str:
    path = world.repository.path(f"computations/{VIEW}.v{version}.sql")
    return path.read_text().strip().removesuffix(";")


def test_feast_s_ui_reads_descriptions_owners_and_the_sql(world: World, ui: TestClient) -> None:
    reply = ui.get(f"/api/v1/feature_views/{VIEW}", params={"project": world.store().project})
    assert reply.status_code == 200, reply.text
    spec = reply.json()["spec"]
    assert spec["description"] == "How much a user has watched lately."
    assert spec["owner"] == "recommendations"
    assert spec["tags"][SQL_TAG] == sql_of(world, 1)
    assert spec["tags"]["freshness"] == "realtime"
    assert spec["features"][0]["description"] == "Watch events of the last 7 days."


def test_the_sql_tag_is_no_part_of_a_definition(world: World) -> None:
    held = world.store().get_feature_view(VIEW)
    assert held.tags[SQL_TAG] == sql_of(world, 1)
    # Another test of this process may have imported the checkout's own definitions since.
    forget_modules()
    declared = read_declared(world.root).definitions[VIEW]
    published = find(world.conn, VIEW, 1).definition
    assert published.fingerprint == declared.fingerprint
    assert SQL_TAG not in str(published.content.get("tags"))
    # Nothing to plan, and what was read from the registry can be applied again.
    project = world.store().project
    assert make_plan(world.conn, project, world.root, estimates=False).changes == ()
    world.store().apply([held])
    assert find(world.conn, VIEW, 1).definition.fingerprint == published.fingerprint
    assert make_plan(world.conn, project, world.root, estimates=False).changes == ()


def test_feast_plan_sees_no_change_in_it(world: World) -> None:
    with world.repository.current():
        contents = read_repository(world.root)
        diff, _, _ = world.store().plan(contents)
    changed = {
        one.name: [part.property_name for part in one.feast_object_property_diffs]
        for one in diff.feast_object_diffs
        if one.name == VIEW and one.feast_object_property_diffs
    }
    assert changed == {}


def test_each_version_shows_its_own_sql(world: World) -> None:
    world.repository.second_version(VIEW)
    world.apply()
    registry = world.store().registry
    project = world.store().project
    assert world.store().get_feature_view(VIEW).tags[SQL_TAG] == sql_of(world, 1)
    second = registry.get_feature_view_by_version(VIEW, project, 2)
    assert second.tags[SQL_TAG] == sql_of(world, 2) != sql_of(world, 1)
    # A tag of the first version that comes along is replaced, too.
    second.tags = {**second.tags, SQL_TAG: sql_of(world, 1)}
    registry.apply_feature_view(second, project)
    again = registry.get_feature_view_by_version(VIEW, project, 2)
    assert again.tags[SQL_TAG] == sql_of(world, 2)

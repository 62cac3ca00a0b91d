"""What cannot be done, in one sentence that says what to do instead."""

import re

import psycopg
import pytest
from feast import FeatureStore

from extensions.errors import SkewlessError
from extensions.stores.registry.store import SkewlessSqlRegistry
from extensions.versions.plan import Severity, make_plan
from extensions.versions.promotion import promote, rollback
from extensions.versions.retirement import retire
from extensions.versions.version_state_check import disagreements
from tests.versions.conftest import World

SQL = "computations/user_watch_stats.v1.sql"
EDITED = r"user_watch_stats\.v1 is published and its SQL must not change: .* make v2"


def test_a_published_definition_cannot_be_edited(world: World) -> None:
    served = world.online("user_watch_stats:user_watch_count_7d", user_id=1)
    world.repository.edit(SQL, "'168 hours'", "'24 hours'")
    with world.repository.current():
        [change] = make_plan(world.conn, "skewless", world.root).changes
        assert change.severity is Severity.REFUSED
        [found] = disagreements(world.store(), world.conn, world.root)
        assert "change v1, which is published: SQL" in found.what
    with pytest.raises(SkewlessError, match=EDITED):
        world.apply()
    with pytest.raises(SkewlessError, match=EDITED):
        world.feast_apply()
    # What is computed is what was published.
    world.refresh()
    assert world.online("user_watch_stats:user_watch_count_7d", user_id=1) == served


def test_a_published_transform_cannot_be_edited(world: World) -> None:
    world.repository.edit("transforms.py", "closeness = 1 - ", "closeness = 2 - ")
    with pytest.raises(SkewlessError, match=r"ranking_signals\.v1 is published and its transform"):
        world.feast_apply()


def test_a_computed_view_must_name_its_version(world: World) -> None:
    world.repository.edit("views.py", 'name="item_profile",\n    version="v1",',
                          'name="item_profile",')  # fmt: skip
    with pytest.raises(SkewlessError, match='item_profile names no version: give it version="v1"'):
        world.feast_apply()


def test_a_published_view_cannot_leave_the_files(world: World) -> None:
    world.repository.edit("services.py", '        "item_stats",\n', "")
    text = world.repository.path("views.py").read_text()
    start = text.index("item_stats = FeatureView(")
    end = text.index("item_profile = FeatureView(")
    world.repository.path("views.py").write_text(
        (text[:start] + text[end:]).replace("    item_stats_log,\n", "")
    )
    with world.repository.current():
        changes = make_plan(world.conn, "skewless", world.root).changes
    assert {(c.name, c.severity) for c in changes} == {
        ("item_stats", Severity.REFUSED),
        ("ranking", Severity.METADATA),
    }
    with pytest.raises(SkewlessError, match="item_stats is published"):
        world.feast_apply()
    # The way out of it: nobody uses it any more, so it can be retired, and then it can go.
    retire(world.store(), world.conn, "item_stats", 1, declared=None)
    world.apply()
    assert disagreements(world.store(), world.conn) == []


def test_a_version_with_other_join_keys_is_another_view(world: World) -> None:
    world.repository.second_version("user_watch_stats")
    path = world.repository.path("computations/user_watch_stats.v2.sql")
    path.write_text(path.read_text().replace("s.user_id,", "s.item_id,"))
    views = world.repository.path("views.py")
    before, second, after = views.read_text().partition('version="v2",')
    views.write_text(before + second + after.replace("entities=[user]", "entities=[item]", 1))
    # Without routes, whose ids are a user's: they would be refused first.
    services = world.repository.path("services.py")
    text = re.sub(r"    tags=\{.*?\},\n(?=\))", "", services.read_text(), flags=re.DOTALL)
    services.write_text(text)
    with pytest.raises(SkewlessError, match="other join keys"):
        world.apply()


def test_moves_that_make_no_sense(world: World) -> None:
    project = world.store().project
    with pytest.raises(SkewlessError, match="v1 is the default of item_stats already"):
        promote(world.conn, project, "item_stats", 1)
    with pytest.raises(SkewlessError, match="item_stats v9 was never published: there are v1"):
        promote(world.conn, project, "item_stats", 9)
    with pytest.raises(SkewlessError, match="no published view nothing"):
        promote(world.conn, project, "nothing", 1)
    with pytest.raises(SkewlessError, match="no version of item_stats to go back to"):
        rollback(world.conn, project, "item_stats")


def test_values_that_are_not_fresh_are_not_promoted_unless_forced(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    world.conn.execute(
        "UPDATE watermarks SET processed_through = now() - interval '3 hours' "
        "WHERE view_name = 'item_stats' AND version = 2"
    )
    with pytest.raises(SkewlessError, match=r"item_stats\.v2 is 3:0\d:\d\d behind, of 2:00:00"):
        promote(world.conn, "skewless", "item_stats", 2)
    moved = promote(world.conn, "skewless", "item_stats", 2, force=True, reason="known", by="ana")
    assert moved.forced
    row = world.conn.execute(
        "SELECT moved_by, reason, forced FROM promotions WHERE view_name = 'item_stats' "
        "ORDER BY id DESC LIMIT 1"
    ).fetchone()
    assert row == ("ana", "known", True)


def test_the_record_and_the_definitions_cannot_be_rewritten(world: World) -> None:
    for statement in (
        "DELETE FROM promotions",
        "UPDATE promotions SET moved_by = 'nobody'",
        "UPDATE view_versions SET definition = '{}'",
        "UPDATE view_versions SET fingerprint = ''",
    ):
        with pytest.raises(psycopg.errors.RaiseException):
            world.conn.execute(statement)


def test_every_store_of_the_repository_has_the_registry_that_keeps_versions(
    world: World,
) -> None:
    assert isinstance(FeatureStore(str(world.root)).registry, SkewlessSqlRegistry)

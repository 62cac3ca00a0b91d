"""What a reader of the registry sees once the pointer has moved."""

import gc

from feast.infra.registry.sql import SqlRegistry

from extensions.versions.promotion import promote, rollback
from tests.versions.conftest import World

FEATURE = "user_watch_count_7d"


def test_a_message_of_the_registry_is_not_taken_for_one_before(world: World) -> None:
    """Feast's cache knows messages by address; those of stores let go are used again."""
    world.repository.second_version("user_watch_stats")
    world.apply()
    moves = [
        lambda: promote(world.conn, "skewless", "user_watch_stats", 2),
        lambda: rollback(world.conn, "skewless", "user_watch_stats"),
    ]
    numbers, seen = [], []
    for turn in range(12):
        moves[turn % 2]()
        [view] = [v for v in world.store().list_feature_views(allow_cache=True)
                  if v.name == "user_watch_stats"]  # fmt: skip
        numbers.append(2 - turn % 2)
        seen.append(view.current_version_number)
        del view
        gc.collect()
    assert seen == numbers
    registry = world.store().registry
    assert len({registry.proto().version_id for _ in range(3)} - {""}) == 3


def test_one_statement_reads_what_feast_reads_table_by_table(world: World) -> None:
    world.repository.second_version("user_watch_stats")
    world.apply()
    registry = world.store().registry
    ours, theirs = registry.proto(), SqlRegistry.proto(registry)
    assert len(ours.feature_views) > 3
    assert len(ours.feature_services) > 1
    ours.version_id = ""
    for message in (ours, theirs):
        for field, value in message.ListFields():
            if field.is_repeated:
                value.sort(key=lambda one: one.SerializeToString(deterministic=True))
    parts = [
        {field.name: str(value) for field, value in message.ListFields()}
        for message in (ours, theirs)
    ]
    assert parts[0] == parts[1]

"""What a reader of the registry sees once the pointer has moved."""

import gc

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

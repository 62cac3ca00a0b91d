"""Two operators at once: one wins, the other gets one clear sentence."""

import threading
from collections.abc import Callable

import pytest

from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.stores.registry.version_store import promotions
from extensions.versions import apply
from extensions.versions.promotion import promote, rollback
from extensions.versions.version_state_check import disagreements
from tests.versions.conftest import World, held_by_another


def at_once(*actions: Callable[[], object]) -> list[str | None]:
    """Run all at the same moment; each one's sentence, or None where it won."""
    start = threading.Barrier(len(actions))
    said: list[str | None] = ["did not run"] * len(actions)

    def run(i: int, action: Callable[[], object]) -> None:
        start.wait()
        try:
            action()
            said[i] = None
        except SkewlessError as error:
            said[i] = error.message

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return said


def test_of_two_who_move_one_pointer_one_wins(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    with connect(world.database, autocommit=True) as other:
        for _ in range(8):
            moves = len(promotions(world.conn, "item_stats"))
            said = at_once(
                lambda: promote(world.conn, "skewless", "item_stats", 2),
                lambda: promote(other, "skewless", "item_stats", 2),
            )
            [sentence] = [one for one in said if one is not None]
            assert sentence.startswith(
                ("Another operator is changing item_stats at this moment",
                 "Another operator has just made v2 the default of item_stats",
                 "v2 is the default of item_stats already")
            )  # fmt: skip
            assert len(promotions(world.conn, "item_stats")) == moves + 1
            # A second rollback does not undo the first one.
            at_once(
                lambda: rollback(world.conn, "skewless", "item_stats"),
                lambda: rollback(other, "skewless", "item_stats"),
            )
            assert world.states("item_stats") == {1: "active", 2: "live"}
    assert disagreements(world.store(), world.conn) == []


def test_who_comes_while_another_is_at_it_is_told_so(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    with held_by_another(world, "item_stats"):
        with pytest.raises(SkewlessError, match="Another operator is changing item_stats"):
            promote(world.conn, "skewless", "item_stats", 2)
        # Other views are nobody's business.
        with pytest.raises(SkewlessError, match="no version of user_habits to go back to"):
            rollback(world.conn, "skewless", "user_habits")
    promote(world.conn, "skewless", "item_stats", 2)


def test_one_apply_at_a_time_and_a_rollback_need_not_wait_for_it(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    promote(world.conn, "skewless", "item_stats", 2)
    with (
        connect(world.database, autocommit=True) as other,
        apply._apply_lock(other),
    ):
        with pytest.raises(SkewlessError, match=r"Another `skewless apply` is at work \(skewless"):
            world.apply()
        rollback(world.conn, "skewless", "item_stats")
    assert world.apply().filled == ()

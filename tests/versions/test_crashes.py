"""A process that ends anywhere leaves nothing that disagrees, and the next one completes it."""

import pytest

from extensions.stores.registry.version_store import find, promotions
from extensions.versions import retirement
from extensions.versions.failpoints import Fault
from extensions.versions.promotion import promote
from extensions.versions.retirement import retire
from extensions.versions.version_state_check import disagreements
from tests.versions.conftest import World
from tests.versions.crashing import crash

COUNT = "user_watch_stats:user_watch_count_7d"
COUNT_2 = "user_watch_stats@v2:user_watch_count_7d"

APPLY = [fault for fault in Fault if fault.name.startswith("APPLY")]
MOVE = [fault for fault in Fault if fault.name.startswith("MOVE")]
RETIRE = [fault for fault in Fault if fault.name.startswith("RETIRE")]


def agree(world: World) -> bool:
    found = disagreements(world.store(), world.conn)
    assert found == []
    return True


def test_apply_ends_at_every_step_and_the_next_one_goes_on(world: World) -> None:
    world.repository.second_version("user_watch_stats")
    served = world.online(COUNT, user_id=1)
    for fault in APPLY:
        assert crash(world.root, fault, "apply"), fault
        assert agree(world)
        # The default is served all the while, and nothing half-filled can be promoted.
        assert world.online(COUNT, user_id=1) == served
        states = world.states("user_watch_stats")
        complete = fault is Fault.APPLY_COMPLETED
        assert states.get(2) in (("live",) if complete else (None, "staged"))
    assert world.apply().filled == ()
    assert agree(world)
    rows = world.conn.execute(
        "SELECT (SELECT count(*) FROM user_watch_stats_v1 WHERE created_timestamp = "
        "event_timestamp), (SELECT count(*) FROM user_watch_stats_v2 WHERE created_timestamp = "
        "event_timestamp)"
    ).fetchone()
    assert rows is not None
    # Both versions change at the same moments: nothing was backfilled twice, and nothing missed.
    assert rows[1] >= rows[0] > 0
    assert 0 < world.online(COUNT_2, user_id=1)["user_watch_count_7d"] < served[COUNT[17:]]


@pytest.mark.parametrize("fault", [Fault.APPLY_PUBLISHED, Fault.APPLY_TICKED])
def test_apply_that_ended_once_completes_as_if_it_had_not(world: World, fault: Fault) -> None:
    world.repository.second_version("item_stats")
    assert crash(world.root, fault, "apply")
    [filled] = world.apply().filled
    assert filled.state == "live"
    assert agree(world)
    promote(world.conn, "skewless", "item_stats", 2)
    assert agree(world)


def test_a_move_that_ends_before_its_commit_never_was(world: World) -> None:
    world.repository.second_version("item_stats")
    world.apply()
    moves = len(promotions(world.conn, "item_stats"))
    for fault in MOVE:
        assert crash(world.root, fault, "promote", "item_stats", 2), fault
        assert agree(world)
        done = fault is Fault.MOVE_COMMITTED
        assert world.states("item_stats") == (
            {1: "live", 2: "active"} if done else {1: "active", 2: "live"}
        )
        assert len(promotions(world.conn, "item_stats")) == moves + done
    for fault in MOVE:
        assert crash(world.root, fault, "rollback", "item_stats"), fault
        assert agree(world)
    assert world.states("item_stats") == {1: "active", 2: "live"}


@pytest.mark.parametrize("view", ["user_watch_stats"])
def test_retire_ends_at_every_step_and_the_next_one_goes_on(
    world: World, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retirement, "NOTICED_AFTER_SECONDS", 0.0)
    world.repository.second_version(view)
    world.apply()
    promote(world.conn, "skewless", view, 2)
    served = world.online(COUNT, user_id=1)
    for fault in RETIRE:
        marked = RETIRE.index(fault) > RETIRE.index(Fault.RETIRE_MARKED)
        # A retire that is asked for again begins with what the last one left.
        assert crash(world.root, fault, "retire", view, 1), fault
        assert world.online(COUNT, user_id=1) == served
        found = [d.what for d in disagreements(world.store(), world.conn)]
        left = ["v1 is retired and not all of it is removed"]
        assert found == (left if marked else []), fault
        assert world.states(view)[1] == ("retired" if marked else "live")
    retire(world.store(), world.conn, view, 1)
    assert agree(world)
    one = find(world.conn, view, 1)
    assert one.online_removed_at is not None
    assert one.log_dropped_at is not None

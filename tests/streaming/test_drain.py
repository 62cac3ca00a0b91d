"""A worker that is far behind stores first, and computes each entity once."""

from dataclasses import replace

import pytest

from extensions.database import connect
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from streaming.stream_status import status
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.test_worker import event, send
from tests.streaming.truth import Stream

USERS, EACH = 40, 75


@pytest.fixture
def behind(settings: Settings) -> Settings:
    """Few events at a step, so that a backlog of some thousand takes many."""
    made = replace(
        settings, batch_records=100, catch_up_records=200, drain_above=300, drain_records=200
    )
    ensure_topics(made)
    send(
        made,
        [
            event(user, item=1 + number % 3, eventId=f"{user}-{number}")
            for number in range(EACH)
            for user in range(1, USERS + 1)
        ],
    )
    return made


def caught_up(stream: Stream) -> bool:
    return stream.at_rest() and stream.stored() == USERS * EACH


def logged(settings: Settings) -> int:
    """Rows of the log of counts, of all users."""
    with connect(settings.postgres_url) as conn:
        [(rows,)] = conn.execute("SELECT count(*) FROM user_watch_stats_v1").fetchall()
        return int(rows)


def test_a_backlog_is_stored_first_and_each_entity_computed_once(behind: Settings) -> None:
    stream = Stream(behind)
    with Fleet(behind) as fleet:
        fleet.start()
        wait_until(lambda: caught_up(stream), 60, "the backlog is stored and computed")

        def counted() -> bool:
            [worker] = status(behind).workers
            return worker.events == USERS * EACH and worker.steps > 10

        wait_until(counted, 10, "the worker says what it did")
        [view] = [v for v in stream.views if v.computation.view == "user_watch_stats"]
        found = stream.online(view, [(user,) for user in range(1, USERS + 1)])
        assert {value for _, value in found.values()} == {EACH}
        # Once in the drain, in the last steps, which were not far behind, and by sweeps.
        assert logged(behind) <= 8 * USERS
        stream.assert_logged()


def test_without_draining_each_step_computes(behind: Settings) -> None:
    """The other side of the test above: its bound could be broken."""
    never = replace(behind, drain_above=10**9)
    stream = Stream(never)
    with Fleet(never) as fleet:
        fleet.start()
        wait_until(lambda: caught_up(stream), 60, "the backlog is stored and computed")
        assert logged(never) > 8 * USERS


@pytest.mark.parametrize("fault", ["events-committed:5", "values-logged:1", "recovered:1"])
def test_a_drain_that_is_cut_short_is_taken_up_again(behind: Settings, fault: str) -> None:
    stream = Stream(behind)
    with Fleet(behind) as fleet:
        killed = fleet.start(fault)
        wait_until(lambda: not killed.is_alive(), 60, f"the worker ends at {fault}")
        fleet.start()
        wait_until(lambda: caught_up(stream), 60, "another one takes its place")
        stream.assert_logged()
        [view] = [v for v in stream.views if v.computation.view == "user_watch_stats"]
        found = stream.online(view, [(user,) for user in range(1, USERS + 1)])
        assert {value for _, value in found.values()} == {EACH}

"""Rankings over HTTP while pointers move and servers die: none fails, none mixes versions."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import psycopg

from benchmarks.switching import Asked, Connection, Load, State
from extensions.database import connect
from extensions.versions.maintained_versions import live_computations
from tests.faults.judge import latest_rows
from tests.faults.operation import Away
from tests.faults.platform import ITEMS, Platform

USER_VIEW, ITEM_VIEW = "user_watch_stats", "item_stats"
USER = 1
# After Redis answers again: until the server's own connections have noticed.
_NOTICED_WITHIN = 5.0


@contextmanager
def served(platform: Platform, away: list[Away], after: Mapping[str, int]) -> Iterator[None]:
    """Rank on four connections until left; then no answer may have been wrong.

    ``after``: the version of each view that has been the default since the command was completed,
    where it is another one than before. Every answer is whole, of the versions that were the
    default before or are now, and never of the earlier ones again. Only while Redis was away may
    a request have failed.
    """
    port = platform.http_port()
    asked = _asked(platform)
    first = _defaults(platform)
    last = (after.get(USER_VIEW, first[0]), after.get(ITEM_VIEW, first[1]))
    with Load(port, asked, connections=4, pause=0.2) as load:
        _until_whole(load, first)
        places = [len(each.replies) for each in load.connections]
        failed = [len(each.failures) for each in load.connections]
        yield
        load.until(last)
    platform.answered += load.answered
    platform.refused += len(load.failed)
    for connection, place, known in zip(load.connections, places, failed, strict=True):
        _assert_answers(connection, place, first, last)
        _assert_no_failure(connection, known, away)


def _assert_answers(connection: Connection, place: int, first: State, last: State) -> None:
    moved = False
    for reply in connection.replies[place:]:
        assert reply.whole, f"an answer mixes versions, or is of none: {reply}"
        assert reply.state in (first, last), f"{reply.state} was never the default"
        moved = moved or reply.state == last
        assert reply.state == last or not moved, "an answer of the version before, after the move"


def _assert_no_failure(connection: Connection, known: int, away: list[Away]) -> None:
    told = zip(connection.failures[known:], connection.failed_at[known:], strict=True)
    for why, at in told:
        excused = any(
            server.kind == "redis" and server.killed <= at <= server.back + _NOTICED_WITHIN
            for server in away
        )
        assert excused, f"a request failed: {why} (away: {away}, at {at})"


def _until_whole(load: Load, state: State) -> None:
    """Near copies follow what was refreshed last; only then is anything to be asserted."""
    deadline = time.monotonic() + 20
    while True:
        last = [each.replies[-1] for each in load.connections if each.replies]
        if len(last) == len(load.connections) and all(
            reply.whole and reply.state == state for reply in last
        ):
            return
        assert time.monotonic() < deadline, f"{state} is not served: {last}, {load.failed[:3]}"
        time.sleep(0.02)


def _defaults(platform: Platform) -> State:
    with connect(platform.url, autocommit=True) as conn:
        return default_version(conn, USER_VIEW), default_version(conn, ITEM_VIEW)


def default_version(conn: psycopg.Connection, view: str) -> int:
    """The version that is the view's default, by its state."""
    row = conn.execute(
        "SELECT version FROM view_versions WHERE view_name = %s AND state = 'active'", [view]
    ).fetchone()
    assert row is not None, f"{view} has no default"
    return int(row[0])


def _asked(platform: Platform) -> Asked:
    """What each live version serves, by its log: nothing is refreshed meanwhile."""
    users, items = {}, {}
    with connect(platform.url, autocommit=True) as conn:
        for computation in live_computations(conn, {}).values():
            if computation.view == USER_VIEW:
                users[computation.version] = latest_rows(conn, computation)[(USER,)].answer[0]
            elif computation.view == ITEM_VIEW:
                rows = latest_rows(conn, computation)
                # As the server writes them: the shortest text that is the same float32.
                items[computation.version] = [
                    float(str(np.float32(rows[(item,)].answer[0]))) for item in range(1, ITEMS + 1)
                ]
    return Asked(
        user=USER,
        items=list(range(1, ITEMS + 1)),
        user_view=USER_VIEW,
        user_feature="user_watch_count_7d",
        user_values=users,
        item_view=ITEM_VIEW,
        item_feature="item_popularity_score",
        item_values=items,
    )

"""Any order of loads, ticks, backfills and changes ends in the oracle's values, for everyone.

After the last change one ordinary tick must bring each entity that history or log knows to what
the oracle says, whatever was computed before what.
"""

import os
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from extensions.asof import Computation
from extensions.asof.backfill import backfill
from extensions.asof.tick import tick
from extensions.database import connect
from tests.asof.test_history_changes import event_batch
from tests.history.tables import load_events
from tests.oracle.answers import VIEWS, agrees
from tests.oracle.records import History, Watch

DAY = timedelta(days=1)
USERS = range(1, 7)
ROUNDS = int(os.environ.get("EXAMPLES", "12"))
VIEW_NAMES = ("user_watch_stats", "user_item_progress", "item_stats", "user_habits")


class Store:
    """One database and a random person at its command line."""

    def __init__(self, url: str, conn: psycopg.Connection, draw: random.Random) -> None:
        self.url, self.conn, self.draw = url, conn, draw
        self.names = 0

    def event(self) -> tuple[str, int, datetime, datetime]:
        """An event of the last forty days that says it arrived within a day of it."""
        self.names += 1
        now = datetime.now(UTC)
        at = now - timedelta(days=self.draw.uniform(0, 40))
        arrival = min(now, at + timedelta(days=self.draw.choice([0, 0, self.draw.random()])))
        return f"e{self.names}", self.draw.choice(USERS), at, arrival

    def load(self) -> None:
        load_events(self.url, [event_batch([self.event() for _ in range(3)])])

    def load_now(self) -> None:
        rows = [(name, user, at, None) for name, user, at, _ in [self.event() for _ in range(3)]]
        load_events(self.url, [event_batch(rows)])

    def insert(self) -> None:
        name, user, at, arrival = self.event()
        self.conn.execute(
            "INSERT INTO watch_events "
            "(event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress) "
            "VALUES (%s, %s, 1, %s, %s, 60000, 0.5)",
            [name, user, at, self.draw.choice([arrival, datetime.now(UTC)])],
        )

    def delete(self) -> None:
        self.conn.execute(
            "DELETE FROM watch_events WHERE user_id = %s AND random() < 0.5",
            [self.draw.choice(USERS)],
        )

    def update(self) -> None:
        self.conn.execute(
            "UPDATE watch_events SET user_id = %s WHERE user_id = %s",
            [self.draw.choice(USERS), self.draw.choice(USERS)],
        )

    def tick(self, computations: list[Computation]) -> None:
        for computation in computations:
            if self.draw.random() < 0.7:
                tick(self.conn, computation, full=self.draw.random() < 0.2)

    def backfill(self, computations: list[Computation]) -> None:
        now = datetime.now(UTC)
        start = now - timedelta(days=self.draw.uniform(5, 45))
        end = start + timedelta(days=self.draw.uniform(0.5, 5))
        computation = self.draw.choice(computations)
        backfill(self.conn, computation, start, end, again=self.draw.random() < 0.5)

    def history(self) -> dict[int, History]:
        rows = self.conn.execute(
            "SELECT event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress "
            "FROM watch_events"
        ).fetchall()
        by_user = defaultdict(list)
        for row in rows:
            by_user[row[1]].append(Watch(*row))
        return {user: History(tuple(watches)) for user, watches in by_user.items()}


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_one_tick_after_any_history_of_changes_is_right_for_everyone(
    fresh_database: str, computations: dict[str, Computation], seed: int
) -> None:
    draw = random.Random(seed)
    chosen = [computations[f"{view}.v1"] for view in VIEW_NAMES]
    with connect(fresh_database, autocommit=True) as conn:
        store = Store(fresh_database, conn, draw)
        steps = []
        for _ in range(draw.randint(4, 14)):
            step = draw.choice(
                ["load", "load_now", "insert", "delete", "update", "tick", "tick", "backfill"]
            )
            steps.append(step)
            if step in ("tick", "backfill"):
                getattr(store, step)(chosen)
            else:
                getattr(store, step)()
        histories = store.history()
        for computation in chosen:
            tick(conn, computation)
            _assert_right(conn, computation, histories, steps)


def _assert_right(
    conn: psycopg.Connection,
    computation: Computation,
    histories: dict[int, History],
    steps: list[str],
) -> None:
    oracle = VIEWS[computation.view]
    width = len(computation.join_keys)
    keys = ", ".join(computation.join_keys)
    features = ", ".join(feature.name for feature in computation.features)
    rows = conn.execute(
        f"SELECT DISTINCT ON ({keys}) {keys}, event_timestamp, {features} "  # type: ignore[arg-type]
        f"FROM {computation.log_table} "
        f"ORDER BY {keys}, event_timestamp DESC, created_timestamp DESC"
    ).fetchall()
    logged = {row[:width]: (row[width], row[width + 1 :]) for row in rows}
    whole = History(tuple(w for h in histories.values() for w in h.deliveries))
    now = datetime.now(UTC)
    for entity in set(oracle.entities(whole)) | logged.keys():
        of_user = computation.join_keys[0] == "user_id"
        history = histories.get(entity[0], History()) if of_user else whole
        if entity not in logged:
            assert oracle(history, entity, now) == oracle(History(), entity, now), (entity, steps)
            continue
        as_of, values = logged[entity]
        true = oracle(history, entity, as_of if oracle.decays else now)
        mine = tuple(type(t)(v) for t, v in zip(true, values, strict=True))
        assert agrees(mine, true, oracle.float32_steps), (
            computation.name,
            entity,
            mine,
            true,
            steps,
        )

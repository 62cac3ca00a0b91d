"""Live events of the simulated platform, as its clients would publish them now."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TypedDict

import numpy as np

from feature_repo.simulator.entity_ids import plain_id
from feature_repo.simulator.event_history import uuid7
from feature_repo.simulator.platform import EPOCH, MILLI, Platform, Simulation

_DRAWN_AT_ONCE = 256


class WatchEvent(TypedDict):
    """A message of the published stream, ready for JSON."""

    eventId: str
    userId: int | str
    itemId: int | str
    watchDurationMin: float
    progress: float
    watchedAt: str


def live_events(
    simulation: Simulation,
    *,
    platform: Platform | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    stream: int = 0,
) -> Iterator[WatchEvent]:
    """Yield watch events of the simulation's users without end, watched when they are asked for.

    ``watchDurationMin`` is in minutes (a whole number of milliseconds), ``progress`` from 0 to
    1, ``watchedAt`` ISO 8601 in UTC. The order of users and items depends on the simulation and
    ``stream`` alone; producers side by side take a ``stream`` each.
    """
    platform = platform or Platform(simulation)
    rng = simulation.generator(5, stream)
    day = simulation.days - 1
    while True:
        users = platform.draw_users(rng, day, _DRAWN_AT_ONCE)
        items = platform.draw_items(rng, day, users)
        durations, progresses = platform.draw_watches(rng, items)
        for user, item, duration, progress in zip(
            users.tolist(),
            platform.item_ids[items].tolist(),
            durations.tolist(),
            progresses.tolist(),
            strict=True,
        ):
            moment = (clock() - EPOCH) // timedelta(milliseconds=1) * MILLI
            (event_id,) = uuid7(rng, np.array([moment]))
            watched_at = EPOCH + timedelta(microseconds=moment)
            yield {
                "eventId": event_id.tobytes().decode(),
                "userId": plain_id("user", user + 1),
                "itemId": plain_id("item", item),
                "watchDurationMin": duration / 60_000,
                "progress": round(progress, 6),
                "watchedAt": watched_at.isoformat(timespec="milliseconds")[:-6] + "Z",
            }

"""The same platform, live: watch events as its clients would publish them now."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TypedDict

import numpy as np

from extensions.history.arrow_schemas import from_micros, to_micros
from extensions.history.simulate import uuid7
from extensions.history.simulated_platform import MILLI, Simulation, World

_DRAWN_AT_ONCE = 256


class WatchEvent(TypedDict):
    """A message of the published stream, ready for JSON."""

    eventId: str
    userId: int
    itemId: int
    watchDurationMin: float
    progress: float
    watchedAt: str


def live_events(
    simulation: Simulation,
    *,
    world: World | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    stream: int = 0,
) -> Iterator[WatchEvent]:
    """Yield watch events of the simulation's users without end, watched when they are asked for.

    ``watchDurationMin`` is in minutes (a whole number of milliseconds), ``progress`` from 0 to
    1, ``watchedAt`` ISO 8601 in UTC. The order of users and items depends on the simulation and
    ``stream`` alone; producers side by side take a ``stream`` each.
    """
    world = world or World(simulation)
    rng = simulation.generator(5, stream)
    day = simulation.days - 1
    while True:
        users = world.draw_users(rng, day, _DRAWN_AT_ONCE)
        items = world.draw_items(rng, day, users)
        durations, progresses = world.draw_watches(rng, items)
        for user, item, duration, progress in zip(
            users.tolist(),
            world.item_ids[items].tolist(),
            durations.tolist(),
            progresses.tolist(),
            strict=True,
        ):
            moment = to_micros(clock()) // MILLI * MILLI
            (event_id,) = uuid7(rng, np.array([moment]))
            yield {
                "eventId": event_id.tobytes().decode(),
                "userId": user + 1,
                "itemId": item,
                "watchDurationMin": duration / 60_000,
                "progress": round(progress, 6),
                "watchedAt": from_micros(moment).isoformat(timespec="milliseconds")[:-6] + "Z",
            }

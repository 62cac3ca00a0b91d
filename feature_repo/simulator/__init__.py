"""A simulator of this repository's platform: a seeded history, and live events like it.

`skewless simulate` finds it here. Any repository may bring a ``simulator`` module with a class
``Simulation`` that has the fields and members of `extensions.history.simulate.Simulation`.
"""

from feature_repo.simulator.event_history import history
from feature_repo.simulator.live_events import WatchEvent, live_events
from feature_repo.simulator.platform import EVENT_SCHEMA, ITEM_SCHEMA, Platform, Simulation

__all__ = [
    "EVENT_SCHEMA",
    "ITEM_SCHEMA",
    "Platform",
    "Simulation",
    "WatchEvent",
    "history",
    "live_events",
]

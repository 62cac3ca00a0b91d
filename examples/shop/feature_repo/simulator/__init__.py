"""A simulator of the shop: a seeded history, the same as messages, and live messages like them.

`skewless simulate` finds ``Simulation`` here, by the protocol of
`extensions.history.simulate.Simulation`.
"""

from feature_repo.messages import Message, message, tombstone
from feature_repo.simulator.event_history import Event, events
from feature_repo.simulator.live_messages import live_messages
from feature_repo.simulator.simulation import Simulation
from feature_repo.simulator.stream_messages import stream_messages

__all__ = [
    "Event",
    "Message",
    "Simulation",
    "events",
    "live_messages",
    "message",
    "stream_messages",
    "tombstone",
]

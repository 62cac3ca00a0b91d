"""The history as its producers sent it: messages of all three topics in order of arrival."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from feature_repo.messages import Message, message, tombstone
from feature_repo.simulator.event_history import events
from feature_repo.simulator.simulation import Simulation


class Sent(NamedTuple):
    """A message, and when it arrived."""

    at: datetime
    message: Message


def stream_messages(simulation: Simulation, since: datetime | None = None) -> Iterator[Sent]:
    """The deliveries of `Simulation.histories` from ``since`` on, encoded as declared.

    Duplicates are there again with the same bytes; behind each delete comes its tombstone.
    """
    for source, row in events(simulation):
        arrived = row["ingested_at"]
        if since is not None and arrived < since:
            continue
        sent = message(source, row)
        yield Sent(arrived, sent)
        if row.get("deleted"):
            yield Sent(arrived, tombstone(sent))

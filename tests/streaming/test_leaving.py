"""A worker that ends while its group is still forming leaves nobody behind in it."""

import uuid
from dataclasses import replace

import pytest

from streaming.kafka.subscription import Subscription
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from tests.streaming.fleet import wait_until


@pytest.fixture
def alone(kafka_server: str) -> Settings:
    """Settings of a topic and a group of the test's own; no database is asked."""
    name = f"leaving-{uuid.uuid4().hex[:8]}"
    settings = Settings(
        "postgresql://nowhere", kafka_server, topic=name, group=name, session_timeout=1.0
    )
    ensure_topics(settings)
    return settings


def test_one_that_leaves_in_the_midst_of_its_join_does_not_hold_up_the_next(
    alone: Settings,
) -> None:
    """Tansu waits for ever for the assignment of a leader that left before it was told so."""
    first = Subscription(replace(alone, worker="first"))
    wait_until(lambda: _joining(first), 20, "it asks to join")
    first.close()
    second = Subscription(replace(alone, worker="second"))
    try:
        wait_until(lambda: _assigned(second), 20, "another member gets the partitions")
    finally:
        second.close()


def _joining(subscription: Subscription) -> bool:
    """Whether the broker knows it by its id, and has not told it yet that the group is formed."""
    subscription.keep_alive(0.02)
    known = subscription.consumer._coordinator._generation.has_member_id()
    return known and subscription.joining()


def _assigned(subscription: Subscription) -> bool:
    subscription.keep_alive(0.05)
    return len(subscription.unplaced()) == subscription._settings.partitions

"""The topic changes under a running worker: more partitions, deleted and made anew."""

import time
from collections.abc import Sequence

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.test_worker import event
from tests.streaming.truth import Stream

pytestmark = pytest.mark.apache_kafka


def send_to(settings: Settings, partition: int, values: Sequence[bytes]) -> None:
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, linger_ms=2, metadata_max_age_ms=500
    )
    wait_until(lambda: partition in producer.partitions_for(settings.topic), 30, "a partition")
    for future in [producer.send(settings.topic, value, partition=partition) for value in values]:
        future.get(timeout=30)
    producer.close()


def make_anew(settings: Settings) -> None:
    """Delete the topic and make it again, as soon as the broker lets it."""
    admin = KafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    admin.delete_topics([settings.topic])
    wait_until(lambda: _made(admin, settings), 60, "the topic is there again")
    admin.close()


def _made(admin: KafkaAdminClient, settings: Settings) -> bool:
    try:
        admin.create_topics(
            {settings.topic: {"num_partitions": settings.partitions, "replication_factor": 1}}
        )
    except TopicAlreadyExistsError:
        return False
    except KafkaError:
        return False
    return True


@pytest.mark.timeout(240)
def test_partitions_that_are_added_are_read(genuine: Settings) -> None:
    stream = Stream(genuine)
    with Fleet(genuine) as fleet:
        worker = fleet.start()
        wait_until(stream.at_rest, 60, "a worker has every partition")
        admin = KafkaAdminClient(bootstrap_servers=genuine.kafka_bootstrap)
        admin.create_partitions({genuine.topic: genuine.partitions + 2})
        admin.close()
        send_to(genuine, genuine.partitions + 1, [event(1, eventId=f"new-{n}") for n in range(20)])
        wait_until(lambda: stream.stored() == 20, 90, "the new partition is read")
        assert worker.is_alive()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("longer", [False, True], ids=["shorter", "longer than before"])
def test_a_topic_that_is_made_anew_is_read_from_its_beginning(
    genuine: Settings, longer: bool
) -> None:
    stream = Stream(genuine)
    ensure_topics(genuine)
    with Fleet(genuine) as fleet:
        worker = fleet.start(on_lost="earliest")
        wait_until(stream.at_rest, 60, "a worker has every partition")
        send_to(genuine, 0, [event(1, eventId=f"old-{n}") for n in range(30)])
        wait_until(lambda: stream.stored() == 30, 60, "read")
        make_anew(genuine)
        count = 60 if longer else 10
        send_to(genuine, 0, [event(2, eventId=f"new-{n}") for n in range(count)])
        wait_until(lambda: stream.stored() == 30 + count, 120, "all of the new topic is read")
        assert worker.is_alive()
        time.sleep(1)
        assert stream.stored() == 30 + count

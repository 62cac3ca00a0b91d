"""What only genuine Apache Kafka does: durability, transactions, retention, timeouts."""

import time
from pathlib import Path

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from extensions.local import apache_kafka
from streaming.kafka import dead_letters
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from streaming.stream_status import status
from tests.streaming.conftest import stream_settings
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.load import Producer
from tests.streaming.test_worker import event, send
from tests.streaming.truth import Stream

pytestmark = pytest.mark.apache_kafka


def test_aborted_transactions_are_not_seen(genuine: Settings) -> None:
    stream = Stream(genuine)
    with Fleet(genuine) as fleet:
        fleet.start()
        wait_until(stream.at_rest, 40, "a worker has every partition")
        producer = KafkaProducer(
            bootstrap_servers=genuine.kafka_bootstrap, transactional_id=genuine.group
        )
        producer.init_transactions()
        for name, end in (
            ("a", producer.commit_transaction),
            ("b", producer.abort_transaction),
            ("c", producer.commit_transaction),
            ("d", producer.abort_transaction),
        ):
            producer.begin_transaction()
            for number in range(5):
                producer.send(genuine.topic, event(1, eventId=f"{name}{number}"), partition=0)
            producer.flush()
            end()
        producer.close()
        wait_until(lambda: stream.stored() == 10, 20, "the committed ones are stored")
        # Aborted records and markers leave nothing to read: the lag is none.
        wait_until(stream.at_rest, 20, "at rest behind the last marker")
        time.sleep(0.5)
        assert stream.stored() == 10
        stream.assert_logged()


def test_what_retention_removed_is_an_error_or_a_policy(genuine: Settings) -> None:
    stream = Stream(genuine)
    ensure_topics(genuine)
    send(genuine, [event(1, eventId=f"a{n}") for n in range(30)])
    with Fleet(genuine) as fleet:
        first = fleet.start()
        wait_until(lambda: stream.stored() == 30, 40, "read")
        wait_until(stream.at_rest, 20, "at rest")
        assert fleet.stop(first) == 0
        send(genuine, [event(1, eventId=f"b{n}") for n in range(30)])
        ends = {p.partition: (p.end_offset or 0) for p in status(genuine).partitions}
        admin = KafkaAdminClient(bootstrap_servers=genuine.kafka_bootstrap)
        consumer_ends = {
            TopicPartition(genuine.topic, number): end + 1 for number, end in ends.items()
        }
        for partition, end in consumer_ends.items():
            try:
                admin.delete_records({partition: end})
            except KafkaError:  # this partition got none of the second 30
                continue
        admin.close()

        stopped = fleet.start()
        stopped.join(40)
        assert stopped.exitcode not in (0, None)
        fleet.start(on_lost="earliest")
        wait_until(lambda: stream.stored() > 30, 40, "it goes on, by the policy")
        time.sleep(2)
        assert 30 < stream.stored() < 60


@pytest.mark.timeout(240)
def test_the_broker_restarts_under_load(
    postgres_server: str, applied_database: str, redis_server: str, tmp_path: Path
) -> None:
    if reason := apache_kafka.available():
        pytest.skip(reason)
    server = apache_kafka.start(tmp_path)
    made = stream_settings(
        postgres_server, applied_database, redis_server, server.url, session_timeout=1.5
    )
    settings = next(made)
    stream = Stream(settings)
    try:
        with Fleet(settings) as fleet:
            worker = fleet.start()
            wait_until(stream.at_rest, 60, "a worker has every partition")
            producer = Producer(settings, seed=5, rate=80)
            producer.start()
            time.sleep(2)
            server.process.kill()
            server.process.wait(20)
            time.sleep(3)
            marks = [p.processed_through for p in status(settings).partitions]
            time.sleep(2)
            # Nobody can know what an unreachable broker holds: its partitions' marks stand still.
            assert marks == [p.processed_through for p in status(settings).partitions]
            server = apache_kafka.start(tmp_path, server.port)
            time.sleep(3)
            load = producer.stop()
            wait_until(
                lambda: stream.stored() == len(load.events) and stream.at_rest(), 60, "at rest"
            )
            assert worker.is_alive()
            stream.assert_events(load)
            assert len(dead_letters.list_(settings)) == load.bad
            stream.assert_logged()
        next(made, None)
    finally:
        server.stop()

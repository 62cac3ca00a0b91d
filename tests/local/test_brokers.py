"""Both brokers carry messages and offsets; genuine Kafka also remembers, and knows the time."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from extensions.local import apache_kafka
from extensions.local.server_process import Server
from tests.local.conftest import BROKERS, KINDS, Kind

genuine = pytest.mark.parametrize("kind", KINDS[3:])
shared_genuine = pytest.mark.parametrize("broker", KINDS[3:], indirect=True)


def create_topic(server: Server, name: str, partitions: int = 1) -> None:
    admin = KafkaAdminClient(bootstrap_servers=server.url)
    admin.create_topics({name: {"num_partitions": partitions, "replication_factor": 1}})
    admin.close()


def produce(server: Server, topic: str, values: list[bytes], first_ms: int | None = None) -> None:
    producer = KafkaProducer(bootstrap_servers=server.url)
    for n, value in enumerate(values):
        at = None if first_ms is None else first_ms + n
        producer.send(topic, value, partition=0, timestamp_ms=at).get(timeout=20)
    producer.close()


def consume(server: Server, topic: str, count: int, group: str | None = None) -> list[bytes]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=server.url,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6_000,  # Tansu lets a joining member wait for half of it
        heartbeat_interval_ms=1_000,
        consumer_timeout_ms=20_000,
    )
    values = []
    for message in consumer:
        values.append(message.value)
        if len(values) == count:
            break
    if group is not None:
        consumer.commit()
    consumer.close()
    return values


@pytest.fixture(scope="module", params=BROKERS)
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A broker for the tests that leave it as it was."""
    kind: Kind = request.param
    server = kind.module.start(tmp_path_factory.mktemp(kind.name))
    yield server
    server.stop()


def test_round_trip(broker: Server) -> None:
    create_topic(broker, "watched")
    sent = [b"event %d" % n for n in range(20)]
    produce(broker, "watched", sent)
    assert consume(broker, "watched", 20) == sent
    assert consume(broker, "watched", 5, group="workers") == sent[:5]
    assert consume(broker, "watched", 15, group="workers") == sent[5:]


@genuine
def test_messages_survive_a_kill(kind: Kind, tmp_path: Path, kept: list[Server]) -> None:
    server = kind.module.start(tmp_path / "kafka")
    kept.append(server)
    create_topic(server, "watched")
    produce(server, "watched", [b"a", b"b", b"c"])
    assert consume(server, "watched", 2, group="workers") == [b"a", b"b"]
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait()

    again = kind.module.start(tmp_path / "kafka")
    kept.append(again)
    assert consume(again, "watched", 1, group="workers") == [b"c"]


@shared_genuine
def test_times_ends_and_transactions(broker: Server) -> None:
    create_topic(broker, "timed")
    produce(broker, "timed", [b"a", b"b", b"c"], first_ms=1_700_000_000_000)
    producer = KafkaProducer(bootstrap_servers=broker.url, transactional_id="one")
    producer.init_transactions()
    producer.begin_transaction()
    producer.send("timed", b"never", partition=0)
    producer.flush()
    producer.abort_transaction()
    producer.begin_transaction()
    producer.send("timed", b"d", partition=0)
    producer.commit_transaction()
    producer.close()

    partition = TopicPartition("timed", 0)
    consumer = KafkaConsumer(
        bootstrap_servers=broker.url,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        consumer_timeout_ms=5_000,
    )
    consumer.assign([partition])
    found = consumer.offsets_for_times({partition: 1_700_000_000_001})
    assert found[partition].offset == 1
    assert consumer.end_offsets([partition])[partition] >= 6
    values = []
    for message in consumer:
        values.append(message.value)
        if message.value == b"d":
            break
    consumer.close()
    assert values == [b"a", b"b", b"c", b"d"]


@shared_genuine
def test_a_mention_creates_no_topic(broker: Server) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.url, max_block_ms=2_000)
    with pytest.raises(KafkaError):
        producer.send("misspelt", b"x").get(timeout=10)
    producer.close(timeout=5)


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ({}, "there is no `java` here"),
        ({"java": 'openjdk version "11.0.2"'}, "is Java 11"),
        ({"java": 'java version "1.8.0_202"'}, "is Java 8"),
        ({"java": 'openjdk version "21" 2023-09-19'}, "there is no `mvn` here"),
        ({"java": 'openjdk version "17.0.1"', "mvn": ""}, None),
    ],
)
def test_available_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: dict[str, str], reason: str | None
) -> None:
    for name, words in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{words}' >&2\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    apache_kafka._java_version.cache_clear()
    found = apache_kafka.available()
    apache_kafka._java_version.cache_clear()
    assert found is None if reason is None else found is not None and reason in found

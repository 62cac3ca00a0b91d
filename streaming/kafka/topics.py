"""Topics as the broker knows them: made where missing, with their identity and their bounds."""

from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from extensions.errors import UnavailableError
from streaming.kafka.client_settings import client_settings
from streaming.settings import Settings

_UNKNOWN_TOPIC = 3


@dataclass(frozen=True)
class Bounds:
    """The first offset that a partition holds, and which topic of the name this is."""

    earliest: int
    topic_id: str | None


def open_admin(settings: Settings) -> KafkaAdminClient:
    """A client for the broker's administration.

    Raises:
        UnavailableError: no broker answers.
    """
    try:
        return KafkaAdminClient(
            **client_settings(settings.kafka_bootstrap),
            client_id=settings.worker,
            bootstrap_timeout_ms=10_000,
        )
    except KafkaError as error:
        raise UnavailableError(
            f"Kafka at {settings.kafka_bootstrap} does not answer: start it with `skewless up`, "
            "or check SKEWLESS_KAFKA_BOOTSTRAP."
        ) from error


def ensure_topics(settings: Settings) -> list[str]:
    """Make the events' topic and the dead letters' where they are missing; returns those made."""
    wanted = {
        settings.topic: settings.partitions,
        settings.dead_letter_topic: settings.dead_letter_partitions,
    }
    admin = open_admin(settings)
    try:
        found = {topic["name"]: topic["error_code"] for topic in admin.describe_topics([*wanted])}
        made = []
        for topic, partitions in wanted.items():
            if found.get(topic, _UNKNOWN_TOPIC) != _UNKNOWN_TOPIC:
                continue
            try:
                admin.create_topics(
                    {topic: {"num_partitions": partitions, "replication_factor": -1}}
                )
            except TopicAlreadyExistsError:
                continue
            made.append(topic)
        return made
    finally:
        admin.close()


def topic_id(settings: Settings) -> str | None:
    """The identity of the events' topic; None from brokers that give none."""
    admin = open_admin(settings)
    try:
        [topic] = admin.describe_topics([settings.topic])
        return str(topic["topic_id"]) if topic.get("topic_id") else None
    finally:
        admin.close()


def bounds(consumer: KafkaConsumer, partition: TopicPartition, identity: str | None) -> Bounds:
    """Where ``partition`` begins now."""
    return Bounds(consumer.beginning_offsets([partition])[partition], identity)

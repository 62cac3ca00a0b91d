"""Event streams: a Kafka topic whose messages become rows of a history table."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from feast.data_format import StreamFormat

from extensions.sources.history_table import HistoryTable

Unknown = Literal["ignore", "dead-letter"]
Missing = Literal["default", "dead-letter"]
Coerce = Literal["true", "false"]
Envelope = Literal["debezium", "cloudevents"]
TimeUnit = Literal["iso", "s", "ms", "us", "ns"]


@dataclass(frozen=True)
class EventStream:
    """A declared ``KafkaSource``; the tags are the source's.

    Attributes:
        name: The Feast source's name.
        topic: The Kafka topic.
        table: Where its events are stored.
        group: The consumer group, tag ``group``; else ``skewless-<project>-<name>``.
        message_format: How a message's bytes are read (JSON, Avro, Protobuf).
        field_mapping: Message field (dots for nested ones) to column; a field that is not named
            is the column of its own name.
        envelope: What is around the record, tag ``envelope``.
        decoder: ``module.function`` of the user's own, tag ``decoder``: takes a message's bytes
            instead of ``message_format``, returns its fields (a dict), a list of them, or None to
            leave the message out.
        convert: ``module.function``, tag ``convert``: takes the decoded fields (a dict), returns
            the columns (a dict), by which names and units may change.
        encode: ``module.function``, tag ``encode``: the inverse of ``convert`` or ``decoder`` for
            replay; takes a stored row's columns (a dict), returns a message's fields (a dict).
        time_units: Column to the unit of its times in messages, tags ``time_unit`` (of the event
            time) and ``time_unit.<column>``; columns not named take ISO 8601 text with a zone.
        unknown: What a field without a column means, tag ``unknown_fields``; default ignore.
        missing: What a field that is not there means where its column has a default or takes
            nulls, tag ``missing_fields``; default that default.
        coerce: Whether ``"5"`` for a number, a number for a text and the like are converted, tag
            ``coerce``; default false, so that such a message is a dead letter.
        max_future: How far ahead of the store's clock an event time may lie, tag ``max_future``.
        max_lateness: An event older than this on arrival is a dead letter
            (``watermark_delay_threshold``); None: none is too late.
        registry_url: The schema registry, tag ``schema_registry``; None: the environment's.
        bootstrap: ``kafka_bootstrap_servers``; empty: the environment's.
    """

    name: str
    topic: str
    table: HistoryTable
    group: str
    message_format: StreamFormat | None
    field_mapping: Mapping[str, str]
    envelope: Envelope | None = None
    decoder: str | None = None
    convert: str | None = None
    encode: str | None = None
    time_units: Mapping[str, TimeUnit] | None = None
    unknown: Unknown = "ignore"
    missing: Missing = "default"
    coerce: bool = False
    max_future: timedelta = timedelta(minutes=5)
    max_lateness: timedelta | None = None
    registry_url: str | None = None
    bootstrap: str = ""

    @property
    def dead_letter_topic(self) -> str:
        """Where messages go that cannot be read, with the reason."""
        return f"{self.topic}.dead-letter"

"""Streams and tables for the tests, declared without a database."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from feast.data_format import JsonFormat, StreamFormat

from extensions.asof.computation import HistorySource
from extensions.sources import Column, EventStream, HistoryTable
from feature_repo.sources import watch_events_stream
from streaming.decoding import RowDecoder
from streaming.kafka.message_decoder import Message

NOW = datetime(2026, 7, 15, 12, tzinfo=UTC)
STAMP = int(NOW.timestamp() * 1000)


def table(
    columns: Mapping[str, str], keys: str = "k", time: str = "at", **more: Any
) -> HistoryTable:
    """A history table; a type that ends in ``!`` is of a column that takes no null."""
    names = tuple(keys.split(","))
    return HistoryTable(
        name="things",
        source=HistorySource("things", names, time, more.pop("arrival", time)),
        columns=tuple(
            Column(name, kind.rstrip("!"), nullable=not kind.endswith("!"))
            for name, kind in columns.items()
        ),
        id=more.pop("id", None),
        partition=None,
        deleted=more.pop("deleted", None),
        oldest=more.pop("oldest", datetime(2000, 1, 1, tzinfo=UTC)),
    )


def stream(
    columns: Mapping[str, str] | HistoryTable,
    message_format: StreamFormat | None = None,
    mapping: Mapping[str, str] | None = None,
    **more: Any,
) -> EventStream:
    """A stream into a table of these columns: key ``k``, event time ``at``."""
    return EventStream(
        name="things_stream",
        topic="things",
        table=columns if isinstance(columns, HistoryTable) else table(columns),
        group="g",
        message_format=message_format or JsonFormat(schema_json=""),
        field_mapping=mapping or {},
        **more,
    )


def watches(**more: Any) -> EventStream:
    """The media repository's stream, as `load_sources` reads it."""
    source = watch_events_stream
    columns = {
        "event_id": "text!", "user_id": "bigint!", "item_id": "bigint!",
        "watched_at": "timestamp with time zone!", "duration_ms": "integer!", "progress": "real!",
        "ingested_at": "timestamp with time zone!",
    }  # fmt: skip
    return EventStream(
        name=source.name,
        topic=source.kafka_options.topic,
        table=table(columns, "user_id,item_id", "watched_at", arrival="ingested_at", id="event_id"),
        group=source.tags["group"],
        message_format=source.kafka_options.message_format,
        field_mapping=source.field_mapping,
        convert=source.tags["convert"],
        unknown=source.tags.get("unknown_fields", "ignore"),
        missing=source.tags.get("missing_fields", "default"),
        coerce=source.tags.get("coerce") == "true",
        time_units={"watched_at": source.tags["time_unit"]},
        max_future=timedelta(minutes=5),
        **more,
    )


def message(value: object, key: bytes | None = None, **more: Any) -> Message:
    """A record with bytes, or with an object as JSON."""
    raw = value if isinstance(value, bytes | None) else orjson.dumps(value)
    more.setdefault("timestamp_ms", STAMP)
    return Message("things", 2, 5, key=key, value=raw, **more)


def decoded(decoder: RowDecoder, value: object, **more: Any) -> list[dict[str, Any]]:
    """The rows of a message, by the names of their columns."""
    found = decoder.decode(message(value, **more), NOW)
    return [dict(zip(decoder.columns, row, strict=True)) for row in found]

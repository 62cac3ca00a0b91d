"""The Arrow columns in which history travels, from a generator or a file into the database."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

MOMENT = pa.timestamp("us", tz="UTC")

# One watch event as it arrived; batches hold events in order of arrival. A null ingested_at
# means that it arrives by being loaded.
EVENT_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("watched_at", MOMENT, nullable=False),
        pa.field("ingested_at", MOMENT),
        pa.field("duration_ms", pa.int32(), nullable=False),
        pa.field("progress", pa.float32(), nullable=False),
    ]
)

# What became known about an item: its genre from a moment on.
ITEM_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("genre", pa.string(), nullable=False),
        pa.field("valid_from", MOMENT, nullable=False),
        pa.field("ingested_at", MOMENT),
    ]
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(moment: datetime) -> int:
    """Whole microseconds since the Unix epoch of an aware ``moment``."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    """The UTC moment ``micros`` microseconds after the Unix epoch."""
    return EPOCH + timedelta(microseconds=micros)

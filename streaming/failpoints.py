"""The worker's failpoints, see `extensions.failpoints`."""

from enum import Enum


class Fault(Enum):
    """Each boundary of the worker's step, of a sweep, and of taking over a partition."""

    POLLED = "polled"
    DECODED = "decoded"
    DEAD_LETTERED = "dead-lettered"
    EVENTS_COPIED = "events-copied"
    OFFSETS_WRITTEN = "offsets-written"
    EVENTS_COMMITTED = "events-committed"
    MOMENT_TAKEN = "moment-taken"
    VALUES_LOGGED = "values-logged"
    VALUES_PUBLISHED = "values-published"
    WATERMARK_MOVED = "watermark-moved"
    KAFKA_COMMITTED = "kafka-committed"
    PLACED = "placed"
    RECOVERED = "recovered"
    SWEEP_LOGGED = "sweep-logged"
    SWEEP_PUBLISHED = "sweep-published"

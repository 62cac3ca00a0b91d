"""The seeded event history of a simulated platform, in order of arrival."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.simulator.entity_ids import id_array, with_id_types
from feature_repo.simulator.platform import (
    DAY,
    EVENT_SCHEMA,
    HOUR,
    MILLI,
    SECOND,
    WEEKDAY_WEIGHTS,
    Ints,
    Platform,
    Simulation,
)

ROWS_PER_BATCH = 65_536

_EVENT = np.dtype(
    [
        ("event_id", "u1", 36),
        ("user_id", "i8"),
        ("item_id", "i8"),
        ("watched_at", "i8"),
        ("ingested_at", "i8"),
        ("duration_ms", "i4"),
        ("progress", "f4"),
        ("copy", "u1"),
    ]
)
Events = npt.NDArray[np.void]


_HEX = np.array([list(b"%02x" % byte) for byte in range(256)], dtype=np.uint8)
# Where the 32 hexadecimal digits of a UUID go; the four places between hold dashes.
_DIGITS = np.array([i for i in range(36) if i not in (8, 13, 18, 23)])


def history(
    simulation: Simulation, *, platform: Platform | None = None, rows: int = ROWS_PER_BATCH
) -> Iterator[pa.RecordBatch]:
    """Yield the watch events (`EVENT_SCHEMA`) in order of arrival, ``rows`` to a batch.

    The concatenation does not depend on ``rows``. Memory holds one day, and the events of
    earlier days that are still on their way.
    """
    platform = platform or Platform(simulation)
    waiting = np.empty(0, _EVENT)
    ready = np.empty(0, _EVENT)
    for day, (watches, copies) in enumerate(_per_day(simulation)):
        waiting = np.concatenate([waiting, _day(platform, day, watches, copies)])
        waiting = waiting[np.lexsort((waiting["copy"], waiting["ingested_at"]))]
        # Nothing of a later day can arrive before this day ends.
        end = simulation.start_us + (day + 1) * DAY
        last = day == simulation.days - 1
        arrived = len(waiting) if last else np.searchsorted(waiting["ingested_at"], end)
        ready = np.concatenate([ready, waiting[:arrived]])
        waiting = waiting[arrived:]
        while len(ready) >= rows:
            yield _to_arrow(ready[:rows])
            ready = ready[rows:]
    if len(ready):
        yield _to_arrow(ready)


def uuid7(rng: np.random.Generator, moments: Ints) -> npt.NDArray[np.uint8]:
    """Version 7 UUIDs as text, an ``(n, 36)`` array of ASCII, for moments in microseconds.

    They begin with the time, as modern clients make them, so that neighbours in time are
    neighbours in an index.
    """
    count = len(moments)
    millis = (moments // MILLI).astype(np.uint64)
    high = (millis << np.uint64(16)) | np.uint64(0x7000)
    high |= rng.integers(0, 1 << 12, count, dtype=np.uint64)
    low = np.uint64(1 << 63) | rng.integers(0, 1 << 62, count, dtype=np.uint64)
    octets = np.stack([high, low], axis=1).astype(">u8").view(np.uint8).reshape(count, 16)
    text = np.full((count, 36), ord("-"), dtype=np.uint8)
    text[:, _DIGITS] = _HEX[octets].reshape(count, 32)
    return text


def _per_day(simulation: Simulation) -> Iterator[tuple[int, int]]:
    """Watches and duplicates of each day: weekends are busier, the totals exact."""
    days = np.arange(simulation.days)
    starts = simulation.start_us + days * DAY
    # A day of the history begins at the hour of `until` and reaches into two calendar days.
    into = (starts % DAY) / DAY
    weight = WEEKDAY_WEIGHTS[_weekday(starts)] * (1 - into)
    weight += WEEKDAY_WEIGHTS[_weekday(starts + DAY)] * into
    watches = simulation.generator(3).multinomial(simulation.events, weight / weight.sum())
    total = simulation.event_deliveries - simulation.events
    due = np.cumsum(watches) * total // max(1, simulation.events)
    return zip(watches.tolist(), np.diff(due, prepend=0).tolist(), strict=True)


def _weekday(moments: Ints) -> Ints:
    """0 for Monday to 6 for Sunday, in UTC (1 January 1970 was a Thursday)."""
    return (moments // DAY + 3) % 7


def _day(platform: Platform, day: int, watches: int, copies: int) -> Events:
    """One day's deliveries in no particular order: ``watches`` events and ``copies`` of them."""
    simulation = platform.simulation
    rng = simulation.generator(4, day)
    users, moments = _who_and_when(platform, rng, day, watches)
    items = platform.draw_items(rng, day, users)
    duration, progress = platform.draw_watches(rng, items)

    events = np.zeros(watches, _EVENT)
    events["event_id"] = uuid7(rng, moments)
    events["user_id"] = users + 1
    events["item_id"] = platform.item_ids[items]
    events["watched_at"] = moments
    events["ingested_at"] = moments + _lag(simulation, rng, moments)
    events["duration_ms"] = duration
    events["progress"] = progress

    again = events[rng.choice(watches, copies, replace=False)] if copies else events[:0].copy()
    gap = (rng.lognormal(np.log(30), 1.5, copies) * SECOND).astype(np.int64)
    remaining = simulation.until_us - again["ingested_at"]
    somewhere = (rng.random(copies) * remaining).astype(np.int64)
    again["ingested_at"] += np.where(gap > remaining, somewhere, gap)
    again["copy"] = 1
    return np.concatenate([events, again])


def _who_and_when(
    platform: Platform, rng: np.random.Generator, day: int, count: int
) -> tuple[Ints, Ints]:
    """User indexes and moments (microseconds, whole milliseconds) of a day's watches."""
    start = platform.simulation.start_us + day * DAY
    busiest = WEEKDAY_WEIGHTS[_weekday(np.array([start, start + DAY - 1]))].max()
    users = np.empty(0, np.int64)
    moments = np.empty(0, np.int64)
    while len(users) < count:
        drawn = platform.draw_users(rng, day, int((count - len(users)) * 1.3) + 16)
        hour = (platform.draw_hours(rng, drawn) * HOUR).astype(np.int64)
        moment = start + (hour - start) % DAY // MILLI * MILLI
        keep = rng.random(len(drawn)) < WEEKDAY_WEIGHTS[_weekday(moment)] / busiest
        users = np.concatenate([users, drawn[keep]])
        moments = np.concatenate([moments, moment[keep]])
    return users[:count], moments[:count]


def _lag(simulation: Simulation, rng: np.random.Generator, moments: Ints) -> Ints:
    """Microseconds from watching to arrival: seconds, or hours to a week for the late ones."""
    count = len(moments)
    ordinary = (rng.lognormal(np.log(2), 0.8, count) * SECOND).astype(np.int64)
    offline = (rng.lognormal(np.log(6), 1.2, count) * HOUR).astype(np.int64)
    late = rng.random(count) < simulation.late_share
    lag = np.where(late, np.clip(offline, HOUR // 4, 7 * DAY), ordinary)
    # What would come after the end came in time, or else at any moment before it.
    remaining = simulation.until_us - moments
    lag = np.where(lag > remaining, ordinary, lag)
    return np.where(lag > remaining, (rng.random(count) * remaining).astype(np.int64), lag)


def _to_arrow(events: Events) -> pa.RecordBatch:
    offsets = np.arange(len(events) + 1, dtype=np.int32) * 36
    ids = pa.StringArray.from_buffers(
        len(events),
        pa.py_buffer(offsets),
        pa.py_buffer(np.ascontiguousarray(events["event_id"])),
    )
    rest = [
        pa.array(np.ascontiguousarray(events[f.name])).cast(f.type) for f in list(EVENT_SCHEMA)[3:]
    ]
    users, items = id_array("user", events["user_id"]), id_array("item", events["item_id"])
    return pa.record_batch([ids, users, items, *rest], schema=with_id_types(EVENT_SCHEMA))

"""A simulated streaming platform: its users, its catalogue, and who watches what when."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.simulator.entity_ids import id_array, with_id_types

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
MILLI = 1_000

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = pa.timestamp("us", tz="UTC")

# Watch events in order of arrival. Ids are texts where the entities' ids are (`entity_ids`).
EVENT_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("watched_at", _TIMESTAMP, nullable=False),
        pa.field("ingested_at", _TIMESTAMP),
        pa.field("duration_ms", pa.int32(), nullable=False),
        pa.field("progress", pa.float32(), nullable=False),
    ]
)

# The genre of an item from a time on, and when that became known.
ITEM_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.int64(), nullable=False),
        pa.field("genre", pa.string(), nullable=False),
        pa.field("valid_from", _TIMESTAMP, nullable=False),
        pa.field("ingested_at", _TIMESTAMP),
    ]
)

DEFAULT_GENRES = (
    "action", "animation", "comedy", "crime", "documentary", "drama",
    "family", "fantasy", "horror", "romance", "sci-fi", "thriller",
)  # fmt: skip

# Monday to Sunday, relative to the busiest day.
WEEKDAY_WEIGHTS = np.array([0.62, 0.60, 0.62, 0.66, 0.85, 1.00, 0.96])


@dataclass(frozen=True)
class Simulation:
    """What to simulate. Equal simulations give equal bytes (with the same numpy).

    ``events`` counts distinct watches; ``duplicate_share`` of them is delivered once more.
    The history covers the ``days`` before ``until``; nothing arrives later than ``until``.
    """

    users: int = field(default=20_000, metadata={"help": "How many users."})
    items: int = field(default=5_000, metadata={"help": "How many items."})
    days: int = field(default=60, metadata={"help": "Days of history before --until."})
    events: int = field(default=1_000_000, metadata={"help": "How many watches."})
    seed: int = field(default=1, metadata={"help": "The same seed makes the same history."})
    until: datetime = field(default_factory=lambda: datetime.now(UTC))
    genres: Sequence[str] = DEFAULT_GENRES
    late_share: float = field(
        default=0.02, metadata={"help": "The share of watches that arrive hours or days late."}
    )
    duplicate_share: float = field(
        default=0.005, metadata={"help": "The share of watches that are delivered twice."}
    )

    def __post_init__(self) -> None:
        for name in ("users", "items", "days"):
            if getattr(self, name) < 1:
                raise ValueError(f"A simulation needs {name} of 1 or more.")
        if self.events < 0 or self.seed < 0 or not self.genres:
            raise ValueError("A simulation needs events and a seed of 0 or more, and a genre.")
        if not (0 <= self.late_share <= 1 and 0 <= self.duplicate_share <= 1):
            raise ValueError("A simulation's late and duplicate shares lie between 0 and 1.")
        if self.until.tzinfo is None:
            raise ValueError("A simulation's end needs a time zone.")

    @property
    def until_us(self) -> int:
        """The end, in microseconds since the epoch, on a whole millisecond."""
        return (self.until - EPOCH) // timedelta(microseconds=1) // MILLI * MILLI

    @property
    def start_us(self) -> int:
        """The beginning of the first day, in microseconds since the epoch."""
        return self.until_us - self.days * DAY

    @property
    def event_deliveries(self) -> int:
        """Rows of events: every watch, and the duplicates."""
        return self.events + round(self.events * self.duplicate_share)

    @property
    def deliveries(self) -> dict[str, int]:
        """By source, the rows in its history."""
        return {
            "items": self.platform.item_history().num_rows,
            "watch_events": self.event_deliveries,
        }

    @cached_property
    def platform(self) -> "Platform":
        """The users and the catalogue; built once, at the first use."""
        return Platform(self)

    def histories(self) -> dict[str, Iterator[pa.RecordBatch]]:
        """By source, its rows in order of arrival (`ITEM_SCHEMA`, `EVENT_SCHEMA`)."""
        from feature_repo.simulator.event_history import history  # noqa: PLC0415 - built on this

        return {
            "items": iter([self.platform.item_history()]),
            "watch_events": history(self, platform=self.platform),
        }

    def to_json(self) -> dict[str, Any]:
        """The parameters as JSON types."""
        return {**asdict(self), "until": self.until.isoformat(), "genres": list(self.genres)}

    def generator(self, *purpose: int) -> np.random.Generator:
        """A stream of random numbers of its own for each ``purpose``."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=purpose))


class Platform:
    """The people and the catalogue of one simulation, as numpy columns.

    User ``i`` has the id ``i + 1``; items are held in the order of their genres, with their id
    in ``item_ids``.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self._make_catalogue(simulation.generator(0))
        self._make_users(simulation.generator(1))

    def _make_catalogue(self, rng: np.random.Generator) -> None:
        simulation = self.simulation
        items, genres = simulation.items, len(simulation.genres)
        # Zipf with exponent 1: the item of rank r is watched in proportion to 1 / r.
        popularity = 1.0 / np.arange(1, items + 1)
        genre = rng.choice(genres, size=items, p=rng.dirichlet(np.full(genres, 6.0)))
        order = np.lexsort((np.arange(items), genre))
        self.item_ids = rng.permutation(items)[order].astype(np.int64) + 1
        self.item_genre: Ints = genre[order].astype(np.int64)
        self._popularity = popularity[order]
        self._genre_begin = np.searchsorted(self.item_genre, np.arange(genres + 1))

        typical_minutes = rng.uniform(22, 110, genres)
        minutes = typical_minutes[self.item_genre] * rng.lognormal(0, 0.35, items)
        self.item_length_ms = np.clip(minutes * 60_000, 180_000, 6 * 3_600_000).astype(np.int64)
        # How long people stay with a genre, against its items' typical length.
        self.stay_minutes = typical_minutes * rng.uniform(0.3, 0.9, genres)

        # One item in ten comes out during the history; the favourite of each genre is older,
        # so that there is always something to watch.
        self.released_on = np.where(
            rng.random(items) < 0.1, rng.integers(1, max(2, simulation.days), items), 0
        )
        self.released_on[self._genre_begin[:-1][np.diff(self._genre_begin) > 0]] = 0
        if simulation.days == 1:
            self.released_on[:] = 0

    def _make_users(self, rng: np.random.Generator) -> None:
        simulation = self.simulation
        users, days = simulation.users, simulation.days
        # Log-normal with a heavy tail: the busiest 1 % watch about a sixth of everything.
        self.activity = np.minimum(rng.lognormal(0, 1.3, users), 60.0)
        evening = rng.normal(20, 2.5, users)
        any_hour = rng.uniform(0, 24, users)
        self.preferred_hour = np.where(rng.random(users) < 0.75, evening, any_hour) % 24
        self.hour_spread = rng.uniform(0.7, 3.0, users)

        # Some join during the history and some leave: quiet users, and windows that run empty.
        self.joined_on = np.where(rng.random(users) < 0.2, rng.integers(0, days, users), 0)
        self.left_on = np.where(rng.random(users) < 0.1, rng.integers(1, days + 1, users), days)
        self.joined_on[0], self.left_on[0] = 0, days

        # Taste: a Dirichlet around what the catalogue offers; few genres dominate each user.
        mass = np.add.reduceat(
            np.append(self._popularity, 0.0), np.minimum(self._genre_begin[:-1], simulation.items)
        ) * (np.diff(self._genre_begin) > 0)
        share = mass / mass.sum()
        gamma = rng.standard_gamma(np.maximum(share * 3.0, 0.02), (users, len(share)))
        taste = (gamma + 1e-9) * (share > 0)
        self._taste_until = np.cumsum(taste / taste.sum(axis=1, keepdims=True), axis=1)

    def draw_users(self, rng: np.random.Generator, day: int, count: int) -> Ints:
        """Indexes of ``count`` users, drawn by activity among those who are there on ``day``."""
        present = (self.joined_on <= day) & (day < self.left_on)
        until = np.cumsum(self.activity * present)
        drawn: Ints = np.searchsorted(until, rng.random(count) * (1 - 1e-12) * until[-1], "right")
        return drawn

    def draw_hours(self, rng: np.random.Generator, users: Ints) -> Floats:
        """An hour of day in [0, 24) per user: near the preferred one, one time in ten any."""
        near = rng.normal(self.preferred_hour[users], self.hour_spread[users])
        return np.where(rng.random(len(users)) < 0.9, near, rng.uniform(0, 24, len(users))) % 24

    def draw_items(self, rng: np.random.Generator, day: int, users: Ints) -> Ints:
        """An item's index per user, by the user's taste and the items' popularity on ``day``."""
        until = np.cumsum(self._popularity * (self.released_on <= day))
        reached = np.append(0.0, until)[self._genre_begin]
        genre = (rng.random((len(users), 1)) * (1 - 1e-9) >= self._taste_until[users]).sum(axis=1)
        begin, end = reached[genre], reached[genre + 1]
        target = begin + rng.random(len(users)) * (1 - 1e-9) * (end - begin)
        drawn: Ints = np.searchsorted(until, target, "right")
        return drawn

    def draw_watches(
        self, rng: np.random.Generator, items: Ints
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Milliseconds watched (int32) and the part of the item that this is (float32, 0 to 1)."""
        length = self.item_length_ms[items]
        typical = self.stay_minutes[self.item_genre[items]] * 60_000
        stayed = np.rint(typical * rng.lognormal(0, 0.9, len(items))).astype(np.int64)
        duration = np.clip(stayed, 1_000, length)
        return duration.astype(np.int32), (duration / length).astype(np.float32)

    def item_history(self) -> pa.RecordBatch:
        """Every row the catalogue ever gained (`ITEM_SCHEMA`), in order of arrival.

        One item in fifty is moved to another genre during the history, some of them with effect
        from days before the correction was known; a few releases are catalogued late.
        """
        simulation = self.simulation
        rng = simulation.generator(2)
        items, until = simulation.items, simulation.until_us
        during = self.released_on > 0
        before = simulation.start_us - rng.integers(DAY, 3_650 * DAY, items)
        release_day = simulation.start_us + (self.released_on - 1) * DAY
        released = np.where(during, release_day + rng.integers(0, DAY, items), before)
        late = during & (rng.random(items) < 0.1)
        known = np.minimum(released + late * rng.integers(HOUR, 36 * HOUR, items), until)

        moved = np.flatnonzero(rng.random(items) < 0.02)
        if len(simulation.genres) == 1:
            moved = moved[:0]
        earliest = np.maximum(released[moved] + SECOND, simulation.start_us)
        valid = earliest + (rng.random(len(moved)) * (until - earliest)).astype(np.int64)
        delay = (rng.exponential(6 * HOUR, len(moved))).astype(np.int64)
        delay += (rng.random(len(moved)) < 0.25) * rng.integers(DAY, 5 * DAY, len(moved))
        step = rng.integers(1, max(2, len(simulation.genres)), len(moved))
        genre = (self.item_genre[moved] + step) % len(simulation.genres)

        item_id = np.concatenate([self.item_ids, self.item_ids[moved]])
        valid_from = np.concatenate([released, valid])
        ingested_at = np.concatenate([known, np.minimum(valid + delay, until)])
        names = np.array(simulation.genres, dtype=object)[np.concatenate([self.item_genre, genre])]
        order = np.lexsort((item_id, ingested_at))
        schema = with_id_types(ITEM_SCHEMA)
        ids = id_array("item", item_id[order])
        columns = [names[order], valid_from[order], ingested_at[order]]
        rest = [pa.array(c, type=f.type) for c, f in zip(columns, list(schema)[1:], strict=True)]
        return pa.record_batch([ids, *rest], schema=schema)

"""What the oracle reads: a watch history as plain records, and what of it was known when."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

EMBEDDING_DIMENSIONS = 32


@dataclass(frozen=True)
class Watch:
    """One delivery of a watch event. `progress` and embeddings hold exact float32 values."""

    event_id: str
    user_id: int
    item_id: int
    watched_at: datetime
    ingested_at: datetime
    duration_ms: int = 0
    progress: float = 0.0

    @property
    def recency(self) -> tuple[datetime, bytes]:
        """The order of one user's or item's events: by time, then by the id's UTF-8 bytes."""
        return self.watched_at, self.event_id.encode()


@dataclass(frozen=True)
class Classification:
    """From `valid_from` on the item belongs to `genre`; known from `ingested_at` on."""

    item_id: int
    genre: str
    valid_from: datetime
    ingested_at: datetime


@dataclass(frozen=True)
class GenrePlace:
    """The genre's place in the embedding space, from `ingested_at` on."""

    genre: str
    embedding: tuple[float, ...]
    ingested_at: datetime


@dataclass(frozen=True)
class History:
    """All that ever reached the store: `deliveries` in the order of their arrival."""

    deliveries: tuple[Watch, ...] = ()
    classifications: tuple[Classification, ...] = ()
    places: tuple[GenrePlace, ...] = ()

    @cached_property
    def watches(self) -> tuple[Watch, ...]:
        """One watch per event id: the first that arrived; what came again is ignored."""
        first: dict[str, Watch] = {}
        for delivery in self.deliveries:
            first.setdefault(delivery.event_id, delivery)
        return tuple(first.values())

    def known_watches(self, as_of: datetime) -> Iterator[Watch]:
        """What had happened by `as_of` and had arrived by `as_of`."""
        return (w for w in self.watches if w.watched_at <= as_of and w.ingested_at <= as_of)

    def genre_of(self, item_id: int, as_of: datetime) -> str | None:
        """The item's genre, as known at `as_of`; None for an item nobody had classified."""
        known = [
            c
            for c in self.classifications
            if c.item_id == item_id and c.valid_from <= as_of and c.ingested_at <= as_of
        ]
        return max(known, key=lambda c: (c.valid_from, c.ingested_at)).genre if known else None

    def embedding_of(self, genre: str | None, as_of: datetime) -> tuple[float, ...] | None:
        """The genre's embedding, as known at `as_of`; None for a genre without one."""
        known = [p for p in self.places if p.genre == genre and p.ingested_at <= as_of]
        return max(known, key=lambda p: p.ingested_at).embedding if known else None

    @property
    def user_ids(self) -> list[int]:
        """Users with any event, ever."""
        return sorted({w.user_id for w in self.watches})

    @property
    def item_ids(self) -> list[int]:
        """Items with any event or classification, ever."""
        classified = {c.item_id for c in self.classifications}
        return sorted({w.item_id for w in self.watches} | classified)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Every (user, item) with any event, ever."""
        return sorted({(w.user_id, w.item_id) for w in self.watches})

    def moved(self, by: int, name: str) -> "History":
        """The same history for other entities, so that many can live in one database.

        Ids of users and items grow by `by`; event ids and genres get the prefix `name`, which
        leaves their order among themselves as it was.
        """
        return History(
            tuple(
                replace(
                    w,
                    event_id=name + w.event_id,
                    user_id=w.user_id + by,
                    item_id=w.item_id + by,
                )
                for w in self.deliveries
            ),
            tuple(
                replace(c, item_id=c.item_id + by, genre=name + c.genre)
                for c in self.classifications
            ),
            tuple(replace(p, genre=name + p.genre) for p in self.places),
        )


def joined(histories: Iterable[History]) -> History:
    """One history out of several that share no entity; deliveries stay in order of arrival."""
    parts = list(histories)
    deliveries = [w for part in parts for w in part.deliveries]
    return History(
        tuple(sorted(deliveries, key=lambda w: w.ingested_at)),
        tuple(c for part in parts for c in part.classifications),
        tuple(p for part in parts for p in part.places),
    )

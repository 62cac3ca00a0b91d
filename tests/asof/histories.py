"""Hypothesis strategies for watch histories and for the questions asked of them.

A generated history is small (a few users, items, genres and a dozen deliveries) and full of what
goes wrong: ties in time, the same event delivered again with other contents, arrivals late or
ahead of the event's own clock, events to the microsecond at a window's edge, bursts past the cap of
100 watches, re-classified items, genres without embedding, ids that sort differently by
language. All of it happens around one of seven eras whose calendars are unkind.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.oracle.answers import VIEWS
from tests.oracle.features import Keys
from tests.oracle.records import (
    EMBEDDING_DIMENSIONS,
    Classification,
    GenrePlace,
    History,
    Watch,
)

MICROSECOND = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

ERAS: dict[str, datetime] = {
    "summer": datetime(2026, 7, 15, 12, 30, tzinfo=UTC),
    "leap day": datetime(2024, 2, 29, tzinfo=UTC),
    "year's end": datetime(2022, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    "clocks go forward in Berlin": datetime(2025, 3, 30, 1, tzinfo=UTC),
    "clocks go back in New York": datetime(2023, 11, 5, 6, tzinfo=UTC),
    "the epoch of PostgreSQL": datetime(2000, 1, 1, tzinfo=UTC),
    "a century without leap day": datetime(2100, 2, 28, 23, tzinfo=UTC),
}
# Moments of an era at which every spine is asked; events crowd around them and their windows.
PIVOTS = (timedelta(0), HOUR, DAY, 7 * DAY, 30 * DAY)
WINDOWS = (timedelta(0), 7 * DAY, 14 * DAY, 30 * DAY)

USERS, ITEMS = (1, 2), (1, 2, 3)
STRANGERS = (3, 4)  # a user and an item without history
GENRES = ("drama", "Zirkus", "été", "😀")
# "B" < "a" < "ä" < "ｅ" < "😀" by bytes; a language's order, or UTF-16's, differs.
EVENT_IDS = ("a", "B", "b", "ä", "a b", "_", "10", "9", "z", "é", "é", "ｅ", "😀", "ß")


@dataclass(frozen=True)
class Question:
    """An entity of every kind and a moment."""

    user_id: int
    item_id: int
    as_of: datetime

    def keys(self, view: str) -> Keys:
        """The join keys that the view asks for."""
        return tuple(getattr(self, key) for key in VIEWS[view].join_keys)


@dataclass(frozen=True)
class Case:
    """A history, the era it plays in, and questions to ask directly (some of them twice)."""

    era: str
    history: History
    questions: tuple[Question, ...]

    @property
    def pivots(self) -> tuple[datetime, ...]:
        """The era's moments at which ticks run."""
        return tuple(ERAS[self.era] + offset for offset in PIVOTS)

    def told(self) -> str:
        """The history and the questions, one to a line, for a reader of a failure."""
        history = self.history
        lines = [f"era: {self.era} ({ERAS[self.era]})"]
        lines += [
            f"event {w.event_id!r}: user {w.user_id}, item {w.item_id}, watched {w.watched_at}, "
            f"arrived {w.ingested_at}, {w.duration_ms} ms, progress {w.progress}"
            for w in history.deliveries
        ]
        lines += [
            f"item {c.item_id} is {c.genre!r} from {c.valid_from}, known from {c.ingested_at}"
            for c in history.classifications
        ]
        lines += [
            f"genre {p.genre!r} lies at [{p.embedding[0]}, {p.embedding[1]}, …] "
            f"from {p.ingested_at}"
            for p in history.places
        ]
        lines += [f"asked: user {q.user_id}, item {q.item_id}, {q.as_of}" for q in self.questions]
        return "\n".join(lines)

    def moved(self, by: int, name: str) -> "Case":
        """The same case for other entities (`History.moved`)."""
        return Case(
            self.era,
            self.history.moved(by, name),
            tuple(Question(q.user_id + by, q.item_id + by, q.as_of) for q in self.questions),
        )


# Offsets from the era's first moment, in microseconds. The strategies below are built once: to
# build them anew in every draw costs more than the draws.
_EDGES = [
    (pivot - window) // MICROSECOND + step
    for pivot in PIVOTS
    for window in WINDOWS
    for step in (0, 1, -1)
]
_HOURS = [hours * 3_600_000_000 for hours in (-1, -2, -24, -25, -144, -480)]
_HOUR_US, _FIRST_HOUR, _LAST_HOUR = 3_600_000_000, -36 * 24, 31 * 24
_LONG_AGO = -300 * 86_400_000_000

_offsets = st.one_of(
    st.sampled_from(_HOURS),  # few values: ties in time are common
    st.sampled_from(_EDGES),
    st.integers(_FIRST_HOUR, _LAST_HOUR).map(lambda hour: hour * _HOUR_US),
    st.integers(_FIRST_HOUR * _HOUR_US, _LAST_HOUR * _HOUR_US),
)
# When it could be known: at once, late, before it happened (clock skew), or at an edge.
_arrivals = st.sampled_from(
    [
        ("after", lag // MICROSECOND)
        for lag in (
            *(timedelta(0), timedelta(0), MICROSECOND, timedelta(seconds=2), 3 * HOUR),
            *(DAY, 7 * DAY, 31 * DAY, -MICROSECOND, -timedelta(seconds=90), -2 * DAY),
        )
    ]
) | st.sampled_from([("at", edge) for edge in _EDGES])
# Text as PostgreSQL holds it: no zero byte, no lone surrogate.
_event_ids = st.sampled_from(EVENT_IDS) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=3
)
_watches = st.tuples(
    _event_ids,
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    _offsets,
    _arrivals,
    st.sampled_from((0, 1, 86_400_000)) | st.integers(0, 7_200_000),
    st.sampled_from((0.0, 1.0)) | st.floats(0, 1, width=32),
)
_bursts = st.tuples(
    st.sampled_from((99, 100, 101, 106)),
    st.sampled_from((timedelta(0), MICROSECOND, timedelta(seconds=1), HOUR)),
    _offsets,
    st.sampled_from((timedelta(0), timedelta(minutes=5))),
    st.sampled_from(USERS),
)
_classifications = st.tuples(
    st.sampled_from(ITEMS), st.sampled_from(GENRES), _offsets | st.just(_LONG_AGO), _arrivals
)
_places = st.tuples(
    st.sampled_from(GENRES),
    st.integers(-9, 9),
    st.integers(-3, 3),
    _offsets | st.just(_LONG_AGO),
)
# A moment of its own, or an event's time of happening or arriving, a window later.
_question_moments = st.one_of(
    st.tuples(st.just("at"), _offsets),
    st.tuples(st.just("at"), st.sampled_from([pivot // MICROSECOND for pivot in PIVOTS])),
    st.tuples(
        st.sampled_from(("watched_at", "ingested_at")),
        st.integers(0, 11),
        st.sampled_from(WINDOWS),
        st.sampled_from((0, -1, 1)),
    ),
)
_questions = st.lists(
    st.tuples(
        st.sampled_from((*USERS, STRANGERS[0])),
        st.sampled_from((*ITEMS, STRANGERS[1])),
        _question_moments,
    ),
    min_size=1,
    max_size=6,
)
_drawn = st.tuples(
    st.sampled_from(list(ERAS)),
    st.lists(_watches, max_size=12),
    st.sampled_from([False] * 15 + [True]).flatmap(lambda yes: _bursts if yes else st.none()),
    st.lists(_classifications, max_size=5),
    st.lists(_places, max_size=4),
    _questions,
    st.integers(0, 6),
)


def cases() -> st.SearchStrategy[Case]:
    """Any case; shrinks towards the summer, few events, round times and nothing late."""
    return _drawn.map(lambda drawn: _case(*drawn))


def embedding(start: int, step: int) -> tuple[float, ...]:
    """32 float32 values, few of them round."""
    return tuple(
        float(np.float32((start + step * dimension) / 7))
        for dimension in range(EMBEDDING_DIMENSIONS)
    )


def _case(
    era: str,
    watches: list[tuple[Any, ...]],
    burst: tuple[Any, ...] | None,
    classifications: list[tuple[Any, ...]],
    places: list[tuple[Any, ...]],
    questions: list[tuple[Any, ...]],
    repeated: int,
) -> Case:
    start = ERAS[era]
    deliveries = [_watch(start, *drawn) for drawn in watches]
    if burst:
        deliveries += _burst(start, *burst)
    deliveries.sort(key=lambda w: w.ingested_at)
    known = [_classification(start, *drawn) for drawn in classifications]
    placed = [
        GenrePlace(genre, embedding(first, step), start + offset * MICROSECOND)
        for genre, first, step, offset in places
    ]
    history = History(
        tuple(deliveries),
        tuple({(c.item_id, c.valid_from, c.ingested_at): c for c in known}.values()),
        tuple({(p.genre, p.ingested_at): p for p in placed}.values()),
    )
    asked = [
        Question(user, item, _moment(start, deliveries, *moment))
        for user, item, moment in questions
    ]
    return Case(era, history, tuple(asked + asked[:repeated]))


def _arrival(start: datetime, happened: datetime, kind: str, offset: int) -> datetime:
    return (happened if kind == "after" else start) + offset * MICROSECOND


def _watch(
    start: datetime,
    event_id: str,
    user_id: int,
    item_id: int,
    offset: int,
    arrival: tuple[str, int],
    duration_ms: int,
    progress: float,
) -> Watch:
    happened = start + offset * MICROSECOND
    arrived = _arrival(start, happened, *arrival)
    return Watch(event_id, user_id, item_id, happened, arrived, duration_ms, progress)


def _burst(
    start: datetime, count: int, step: timedelta, offset: int, lag: timedelta, user_id: int
) -> list[Watch]:
    """One user watching about as often as the cap of 100 allows, some of it at one instant."""
    first = start + offset * MICROSECOND
    return [
        Watch(
            event_id=f"burst {n}",
            user_id=user_id,
            item_id=ITEMS[n % 7 % len(ITEMS)],
            watched_at=first + n * step,
            ingested_at=first + n * step + lag,
            duration_ms=1_000 * (n % 11),
            progress=float(np.float32(n / 128)),
        )
        for n in range(count)
    ]


def _classification(
    start: datetime, item_id: int, genre: str, offset: int, arrival: tuple[str, int]
) -> Classification:
    valid_from = start + offset * MICROSECOND
    return Classification(item_id, genre, valid_from, _arrival(start, valid_from, *arrival))


def _moment(start: datetime, deliveries: list[Watch], kind: str, *rest: Any) -> datetime:
    moment: datetime
    if kind == "at":
        moment = start + rest[0] * MICROSECOND
        return moment
    place, window, step = rest
    moment = getattr(deliveries[place % len(deliveries)], kind) if deliveries else start
    return moment + timedelta(window.days, 0, step)

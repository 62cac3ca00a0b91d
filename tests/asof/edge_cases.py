"""Histories that chance finds seldom, one idea each."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from tests.asof.histories import DAY, ERAS, HOUR, MICROSECOND, WINDOWS, Case, Question, embedding
from tests.oracle.records import EMBEDDING_DIMENSIONS, Classification, GenrePlace, History, Watch

ERA = "leap day"
NOW = ERAS[ERA]
LONG_AGO = NOW - 300 * DAY
MINUTE_MS = 60_000


def _watch(event_id: str, ago: timedelta, **other: object) -> Watch:
    fields: dict[str, object] = {
        "user_id": 1,
        "item_id": 1,
        "watched_at": NOW - ago,
        "ingested_at": NOW - ago,
        "duration_ms": 7 * MINUTE_MS,
    }
    return Watch(event_id, **{**fields, **other})  # type: ignore[arg-type]


def _case(
    watches: Iterable[Watch],
    genres: dict[int, str] | None = None,
    places: dict[str, tuple[float, ...]] | None = None,
    asked: Iterable[datetime] = (NOW,),
) -> Case:
    history = History(
        tuple(sorted(watches, key=lambda w: w.ingested_at)),
        tuple(
            Classification(item, genre, LONG_AGO, LONG_AGO)
            for item, genre in (genres or {1: "drama"}).items()
        ),
        tuple(
            GenrePlace(genre, place, LONG_AGO)
            for genre, place in (places or {"drama": embedding(1, 2)}).items()
        ),
    )
    questions = [Question(user, 1, moment) for moment in asked for user in (1, 2)]
    return Case(ERA, history, tuple(questions))


def _constant(value: float) -> tuple[float, ...]:
    return (value,) * EMBEDDING_DIMENSIONS


EDGE_CASES: dict[str, Case] = {
    "a popularity beyond its ceiling": _case(
        _watch(f"{n}", timedelta(seconds=n), user_id=n % 2 + 1) for n in range(1_100)
    ),
    "at both sides of every window's edge": _case(
        (
            _watch(f"{window.days} {step}", window + step * MICROSECOND, user_id=step % 2 + 1)
            for window in WINDOWS
            for step in (-1, 0, 1, 2)
        ),
        asked=[NOW - MICROSECOND, NOW, NOW + MICROSECOND],
    ),
    "the hundredth watch is chosen by its id's bytes": _case(
        (
            _watch(name, HOUR, item_id=1 + n % 3, duration_ms=n * 1_000)
            for n, name in enumerate(
                [*(f"{n}" for n in range(96)), "a", "B", "ä", "Ä", "ｅ", "😀", "ﬀ", "Z"]
            )
        ),
        {1: "drama", 2: "Zirkus", 3: "été"},
        {"drama": embedding(1, 2), "Zirkus": embedding(-3, 1), "été": embedding(2, -1)},
    ),
    "the same event again, in one batch and in another": _case(
        [
            _watch("again", 3 * HOUR, duration_ms=1_000, progress=0.25),
            _watch("again", 3 * HOUR, duration_ms=2_000, progress=0.5),
            _watch("again", 2 * HOUR, user_id=2, item_id=2, progress=0.75),
            _watch("other", 2 * HOUR, progress=0.125),
            _watch("again", HOUR, duration_ms=3_000, progress=1.0),
        ],
        asked=[NOW - 3 * HOUR, NOW - 2 * HOUR, NOW],
    ),
    "watches of no length": _case(_watch(f"{n}", n * HOUR, duration_ms=0) for n in range(3)),
    "watches of nothing known": _case(
        (_watch(f"{n}", n * HOUR, item_id=n + 1) for n in range(3)), {1: "nowhere"}
    ),
    "two watches at one instant, in either order of arrival": _case(
        _watch(name, HOUR, user_id=user, progress=progress)
        for user, name, progress in (
            *((1, "1 a", 0.25), (1, "1 b", 0.5)),
            *((2, "2 b", 0.5), (2, "2 a", 0.25)),
        )
    ),
    "hours in a draw": _case(
        _watch(f"{n}", hours * HOUR) for n, hours in enumerate((3, 27, 5, 29, 52))
    ),
    "hours in a draw at one instant": _case(
        _watch(name, ago) for name, ago in (("a", HOUR), ("B", HOUR), ("c", 2 * HOUR))
    ),
    "an embedding of negative zeros": _case([_watch("a", HOUR)], places={"drama": _constant(-0.0)}),
    "embeddings that cancel out": _case(
        [_watch("a", HOUR, item_id=1), _watch("b", 2 * HOUR, item_id=2)],
        {1: "drama", 2: "Zirkus"},
        {"drama": embedding(5, 1), "Zirkus": embedding(-5, -1)},
    ),
    "no event at all": _case([]),
}

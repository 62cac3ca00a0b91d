"""The oracle itself, against values worked out by hand."""

from datetime import UTC, datetime, timedelta, timezone
from math import exp

import numpy as np
import pytest

from tests.oracle import features
from tests.oracle.answers import agrees, bits
from tests.oracle.records import Classification, GenrePlace, History, Watch, joined

NOON = datetime(2025, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)


def _watch(event_id: str, ago: timedelta = timedelta(0), **fields: object) -> Watch:
    known = {"user_id": 1, "item_id": 1, "watched_at": NOON - ago, "ingested_at": NOON - ago}
    return Watch(event_id, **{**known, **fields})  # type: ignore[arg-type]


def test_a_window_is_open_on_the_left_and_closed_on_the_right() -> None:
    steps = (-MICROSECOND, timedelta(0), MICROSECOND)
    left = [History((_watch("a", 7 * DAY + step),)) for step in steps]
    right = [History((_watch("a", step),)) for step in steps]
    assert [features.user_watch_count_7d(h, 1, NOON) for h in left] == [1, 0, 0]
    assert [features.user_watch_count_7d(h, 1, NOON) for h in right] == [0, 1, 1]


def test_what_arrives_later_was_not_known() -> None:
    history = History((_watch("a", DAY, ingested_at=NOON + MICROSECOND),))
    assert features.user_watch_count_7d(history, 1, NOON) == 0
    assert features.user_watch_count_7d(history, 1, NOON + MICROSECOND) == 1


def test_of_one_event_the_first_delivery_counts() -> None:
    history = History((_watch("a", 2 * DAY, progress=0.5), _watch("a", DAY, progress=1.0)))
    assert features.user_item_watch_progress(history, 1, 1, NOON) == np.float32(0.5)


def test_a_mean_of_minutes_is_rounded_to_float32_once() -> None:
    watches = tuple(_watch(f"{n}", n * DAY, duration_ms=ms) for n, ms in enumerate((1, 0, 0)))
    minutes = features.user_avg_watch_duration_min(History(watches), 1, NOON)
    assert bits((minutes,)) == bits((np.float32(1 / 180_000),))


@pytest.mark.parametrize(
    ("hours_ago", "hour"), [((), 20), ((1, 25, 3), 11), ((1, 2), 11), ((2, 26, 1, 25), 11)]
)
def test_the_preferred_hour_is_the_commonest_and_then_the_latest(
    hours_ago: tuple[int, ...], hour: int
) -> None:
    watches = tuple(_watch(f"{n}", timedelta(hours=ago)) for n, ago in enumerate(hours_ago))
    assert features.user_preferred_hour(History(watches), 1, NOON) == hour


def test_an_hour_is_in_utc() -> None:
    in_delhi = (NOON - DAY).astimezone(timezone(timedelta(hours=5, minutes=30)))
    local = _watch("a", DAY, watched_at=in_delhi)
    assert features.user_preferred_hour(History((local,)), 1, NOON) == 12


def test_ids_order_by_their_bytes() -> None:
    names = ("a", "B", "ä", "ｅ", "😀")
    watches = tuple(_watch(name, progress=n / 8) for n, name in enumerate(names))
    assert features.user_item_watch_progress(History(watches), 1, 1, NOON) == np.float32(0.5)


def test_popularity_is_a_sum_of_fading_watches() -> None:
    watches = tuple(_watch(f"{n}", n * DAY) for n in range(14))
    expected = np.float32(sum(exp(-0.1 * n) for n in range(14)) / 1000)
    score = features.item_popularity_score(History(watches), 1, NOON)
    assert agrees((score,), (expected,), float32_steps=1)
    assert features.item_popularity_score(History((_watch("a", 14 * DAY),)), 1, NOON) == 0
    crowd = tuple(_watch(f"{n}") for n in range(1_001))
    assert features.item_popularity_score(History(crowd), 1, NOON) == 1


def test_preferences_are_weighted_by_duration_and_forget_what_is_unknown() -> None:
    one, two = (1.0,) * 32, (2.0,) * 32
    history = History(
        (
            _watch("a", item_id=1, duration_ms=3),
            _watch("b", item_id=2, duration_ms=1),
            _watch("unclassified", item_id=3, duration_ms=100),
            _watch("without a place", item_id=4, duration_ms=100),
        ),
        tuple(
            Classification(item, genre, NOON - DAY, NOON - DAY)
            for item, genre in ((1, "one"), (2, "two"), (4, "nowhere"))
        ),
        (GenrePlace("one", one, NOON - DAY), GenrePlace("two", two, NOON - DAY)),
    )
    assert features.user_genre_preferences(history, 1, NOON) == (np.float32(1.25),) * 32
    assert features.user_genre_preferences(history, 2, NOON) == (np.float32(0),) * 32


def test_only_the_last_hundred_watches_make_a_preference() -> None:
    watches = tuple(
        _watch(f"{n}", timedelta(minutes=n), item_id=1 + (n >= 100), duration_ms=1)
        for n in range(120)
    )
    known = NOON - 40 * DAY
    history = History(
        watches,
        (Classification(1, "one", known, known), Classification(2, "two", known, known)),
        (GenrePlace("one", (1.0,) * 32, known), GenrePlace("two", (2.0,) * 32, known)),
    )
    assert features.user_genre_preferences(history, 1, NOON) == (np.float32(1),) * 32


def test_a_genre_is_the_latest_known_of_the_latest_valid() -> None:
    history = History(
        (),
        (
            Classification(1, "old", NOON - 2 * DAY, NOON - 2 * DAY),
            Classification(1, "new", NOON - DAY, NOON - DAY),
            Classification(1, "corrected", NOON - DAY, NOON - MICROSECOND),
            Classification(1, "announced", NOON + DAY, NOON - DAY),
            Classification(1, "not heard of", NOON - MICROSECOND, NOON + DAY),
        ),
    )
    moments = (NOON - 3 * DAY, NOON - 2 * DAY, NOON - DAY, NOON, NOON + DAY)
    genres = [features.item_genre(history, 1, moment) for moment in moments]
    assert genres == ["unknown", "old", "new", "corrected", "announced"]


def test_moved_histories_answer_as_before_and_do_not_meet() -> None:
    history = History((_watch("a"), _watch("b", DAY)))
    both = joined([history, history.moved(8, "other/")])
    assert [features.user_watch_count_7d(both, user, NOON) for user in (1, 9)] == [2, 2]
    arrivals = [watch.ingested_at for watch in both.deliveries]
    assert arrivals == sorted(arrivals)


def test_agreement_is_to_the_bit_or_within_a_step() -> None:
    one, next_one = np.float32(1), np.nextafter(np.float32(1), np.float32(2))
    assert not agrees((one,), (next_one,))
    assert agrees((one,), (next_one,), float32_steps=1)
    assert not agrees((np.float32(0.0),), (np.float32(-0.0),))

"""The seven features by definition: brute force over records, to be read as a specification.

Every function takes a `History`, the entity and a moment, and says what the entity's value was
at that moment, from what was known by then. Windows are open on the left: (as_of - horizon, as_of].

Arithmetic is exact wherever the definition is: counts and sums of milliseconds are integers.
Where the definition names a float operation (float64 product, rounding to float32), the same
operation is done here in the same order, so that answers can be compared bit for bit. The one
exception is popularity: see `item_popularity_score`.
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from tests.oracle.records import EMBEDDING_DIMENSIONS, History, Watch

Value: TypeAlias = int | str | np.float32 | tuple[np.float32, ...]
Keys: TypeAlias = tuple[int, ...]


def _window(
    history: History, as_of: datetime, days: int, belongs: Callable[[Watch], bool]
) -> list[Watch]:
    """Known watches of the last `days` x 24 hours, oldest first."""
    oldest = as_of - timedelta(days=days)
    watches = [w for w in history.known_watches(as_of) if belongs(w) and w.watched_at > oldest]
    return sorted(watches, key=lambda w: w.recency)


def user_watch_count_7d(history: History, user_id: int, as_of: datetime) -> int:
    """How many times the user watched in 7 days."""
    return len(_window(history, as_of, 7, lambda w: w.user_id == user_id))


def user_genre_preferences(
    history: History, user_id: int, as_of: datetime
) -> tuple[np.float32, ...]:
    """Mean of the genres' embeddings over the last 100 watches in 30 days, weighted by duration.

    A watch counts with its item's genre as known at `as_of`. One whose item has no genre, or
    whose genre has no embedding, adds neither to the sum nor to the weight. Genres are summed
    in the byte order of their names, in float64, and the quotient is rounded once to float32.
    """
    recent = _window(history, as_of, 30, lambda w: w.user_id == user_id)[-100:]
    ms_by_genre: Counter[str] = Counter()
    for watch in recent:
        genre = history.genre_of(watch.item_id, as_of)
        if genre is not None and history.embedding_of(genre, as_of) is not None:
            ms_by_genre[genre] += watch.duration_ms
    total_ms = sum(ms_by_genre.values())
    if total_ms == 0:
        return (np.float32(0),) * EMBEDDING_DIMENSIONS

    terms = []
    for genre in sorted(ms_by_genre, key=str.encode):
        embedding = np.array(history.embedding_of(genre, as_of), dtype=np.float32)
        terms.append(np.float64(ms_by_genre[genre]) * embedding.astype(np.float64))
    weighted = terms[0]
    for term in terms[1:]:
        weighted = weighted + term
    return tuple((weighted / np.float64(total_ms)).astype(np.float32))


def user_avg_watch_duration_min(history: History, user_id: int, as_of: datetime) -> np.float32:
    """Mean watch duration in minutes over 30 days."""
    watches = _window(history, as_of, 30, lambda w: w.user_id == user_id)
    if not watches:
        return np.float32(0)
    ms = sum(w.duration_ms for w in watches)
    return np.float32(np.float64(ms) / np.float64(len(watches) * 60_000))


def user_preferred_hour(history: History, user_id: int, as_of: datetime) -> int:
    """The hour of the day, in UTC, with most watches in 30 days; ties go to the latest watch."""
    watches = _window(history, as_of, 30, lambda w: w.user_id == user_id)
    if not watches:
        return 20
    hours = [w.watched_at.astimezone(UTC).hour for w in watches]
    counts = Counter(hours)
    most = max(counts.values())
    return next(hour for hour in reversed(hours) if counts[hour] == most)


def item_popularity_score(history: History, item_id: int, as_of: datetime) -> np.float32:
    """min(1, sum of exp(-0.1 x age in days) / 1000) over 14 days, rounded to float32.

    The true value: ages are exact fractions and `exp` has 40 digits. An engine works in float64,
    where `exp` may be wrong in its last bit (libraries differ), and each addition rounds: with n
    watches it is off by at most about n x 2^-52 of the value. Rounded to float32 (steps of 2^-24
    to 2^-23) that is the same number, or, when the true value lies that close to the middle of two
    neighbours, the other neighbour. So the tolerance against this oracle is one float32 step
    (`tests.oracle.answers.agrees`), and against another path of the engine none.
    """
    watches = _window(history, as_of, 14, lambda w: w.item_id == item_id)
    score = Decimal(0)
    with localcontext() as context:
        context.prec = 40
        for watch in watches:
            age_us = (as_of - watch.watched_at) // timedelta(microseconds=1)
            score += (Decimal(-age_us) / Decimal(864_000_000_000)).exp()
    return _nearest_float32(min(Fraction(1), Fraction(score) / 1000))


def item_genre(history: History, item_id: int, as_of: datetime) -> str:
    """The item's genre; the latest classification counts, and of equal ones the last known."""
    genre = history.genre_of(item_id, as_of)
    return "unknown" if genre is None else genre


def user_item_watch_progress(
    history: History, user_id: int, item_id: int, as_of: datetime
) -> np.float32:
    """How far the user got in the item the last time."""
    watches = [
        w for w in history.known_watches(as_of) if w.user_id == user_id and w.item_id == item_id
    ]
    return np.float32(max(watches, key=lambda w: w.recency).progress if watches else 0)


def _nearest_float32(value: Fraction) -> np.float32:
    near = np.float32(float(value))
    candidates = [near, np.nextafter(near, np.float32(-1)), np.nextafter(near, np.float32(2))]
    return min(candidates, key=lambda candidate: abs(Fraction(float(candidate)) - value))

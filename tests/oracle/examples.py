"""The oracle of the second versions in docs/examples/versions, by definition and brute force."""

from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from tests.oracle.answers import ViewOracle
from tests.oracle.features import _nearest_float32, _window
from tests.oracle.records import History


def watch_count_of_a_minute(history: History, user_id: int, as_of: datetime) -> int:
    """How many times the user watched for at least a minute in 7 days."""
    watches = _window(history, as_of, 7, lambda w: w.user_id == user_id)
    return sum(w.duration_ms >= 60_000 for w in watches)


def quickly_fading_popularity(history: History, item_id: int, as_of: datetime) -> np.float32:
    """min(1, sum of exp(-0.2 x age in days) / 1000) over 14 days, rounded to float32.

    The tolerance is one float32 step, for the reason that `item_popularity_score` gives.
    """
    watches = _window(history, as_of, 14, lambda w: w.item_id == item_id)
    score = Decimal(0)
    with localcontext() as context:
        context.prec = 40
        for watch in watches:
            age_us = (as_of - watch.watched_at) // timedelta(microseconds=1)
            score += (Decimal(-age_us) / Decimal(432_000_000_000)).exp()
    return _nearest_float32(min(Fraction(1), Fraction(score) / 1000))


SECOND_VERSIONS: dict[str, ViewOracle] = {
    "user_watch_stats": ViewOracle(("user_id",), (watch_count_of_a_minute,), timedelta(days=7)),
    "item_stats": ViewOracle(
        ("item_id",),
        (quickly_fading_popularity,),
        timedelta(days=14),
        decays=True,
        float32_steps=1,
    ),
}

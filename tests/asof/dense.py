"""One busy history, the same in every run: enough rows for the planner to have choices."""

from dataclasses import replace
from datetime import timedelta

import numpy as np

from tests.asof.asking import QuestionRow
from tests.asof.histories import DAY, ERAS, GENRES, HOUR, MICROSECOND, embedding
from tests.oracle.answers import VIEWS, ViewOracle
from tests.oracle.features import Keys
from tests.oracle.records import Classification, GenrePlace, History, Watch

NOW = ERAS["clocks go back in New York"]
USERS, ITEMS, WATCHES = 24, 16, 1_500
MOMENTS = (NOW - 6 * DAY, NOW - HOUR - MICROSECOND, NOW, NOW + HOUR)


def dense_history() -> History:
    """45 days: many arrive late, some early; ties; and some at each moment's and window's edge."""
    random = np.random.default_rng(20_240_229)
    lags = (timedelta(0), timedelta(seconds=2), 3 * HOUR, 2 * DAY, -timedelta(minutes=1), -3 * DAY)
    watches = []
    for n in range(WATCHES):
        happened = NOW - 40 * DAY + int(random.integers(0, 45 * 86_400)) * timedelta(seconds=1)
        lag = lags[random.choice(len(lags), p=(0.5, 0.2, 0.1, 0.08, 0.06, 0.06))]
        watches.append(_watch(random, f"{n}", happened, happened + lag))
    for moment in MOMENTS:
        for window in (0, 7, 14, 30):
            for n in range(12):
                happened = moment - window * DAY + (n % 3 - 1) * MICROSECOND
                watches.append(
                    _watch(random, f"{moment} {window} {n}", happened, min(happened, moment))
                )
        for n in range(40):
            happened = moment - int(random.integers(0, 86_400)) * timedelta(seconds=1)
            watches.append(_watch(random, f"late {moment} {n}", happened, moment + MICROSECOND))
    for n in range(40):
        happened = NOW - 2 * DAY - (n // 4) * HOUR
        tied = _watch(random, f"tied {n}", happened, happened)
        watches.append(replace(tied, user_id=1 + n // 4 % 5, item_id=1))
    classifications = [
        Classification(item, GENRES[int(random.integers(len(GENRES)))], valid_from, arrived)
        for item in range(1, ITEMS)
        for valid_from, arrived in (
            (NOW - 300 * DAY, NOW - 300 * DAY),
            (NOW - 3 * DAY, NOW - 8 * DAY),
            (NOW - 2 * DAY, NOW + HOUR),
            (NOW + DAY, NOW - DAY),
        )
    ]
    places = [
        GenrePlace(genre, embedding(3 * n - 4, n + 1 - late), NOW - (300 * (1 - late) + 2) * DAY)
        for n, genre in enumerate(GENRES[:3])
        for late in (0, 1)
    ] + [GenrePlace(GENRES[0], embedding(1, 1), NOW + 2 * HOUR)]
    return History(
        tuple(sorted(watches, key=lambda w: w.ingested_at)), tuple(classifications), tuple(places)
    )


def _watch(random: np.random.Generator, event_id: str, happened: object, arrived: object) -> Watch:
    return Watch(
        event_id,
        int(random.integers(1, USERS) ** 2 // USERS + 1),
        int(random.integers(1, ITEMS + 3)),
        happened,  # type: ignore[arg-type]
        arrived,  # type: ignore[arg-type]
        int(random.integers(0, 7_200_000)),
        float(np.float32(random.random())),
    )


def dense_questions(
    view: str, history: History, join_keys: tuple[str, ...] | None = None
) -> list[QuestionRow]:
    """Entities of the view at every moment: all of them, or of many pairs one in five.

    ``join_keys``: of a view without an oracle, such as one that a user added.
    """
    oracle = VIEWS[view] if join_keys is None else ViewOracle(join_keys, ())
    entities: list[Keys] = oracle.entities(history)
    if len(entities) > 100:
        entities = [keys for n, keys in enumerate(entities) if n % 5 == 0 or keys[1] == 1]
    return [(keys, moment) for moment in MOMENTS for keys in entities]

"""Features that follow the hour and the weekday: every hour of an ordinary week, and a change.

A training set spans weeks and a window an hour, so a rule that compares the one with the other
alarms day and night. Ours compares like hours with like (monitoring.baselines).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.drift_families import measured
from benchmarks.drift_real import (
    EVIDENTLY,
    MOST_FALSE,
    OURS,
    PUBLISHED,
    Counts,
    Evidently,
    Published,
    false_row,
)
from benchmarks.report import Row
from monitoring.baseline import Feature, baseline_of
from monitoring.baselines.stratified_baselines import HOUR, WEEKDAY, conditioned
from monitoring.suite import Rules, expectations_of
from monitoring.verdicts import WARNING, at_least

VIEW, SERVICE = "signals", "hours"
# A Monday; the labels are of the weeks before.
START = datetime(2026, 5, 4, tzinfo=UTC)
DAYS, TRAINED_ROWS, ROWS = 28, 20_000, 1_000
# A training set may be a lucky one: each is compared with so many windows only.
WINDOWS = 10

Values = NDArray[Any]
# Of each row's hour of the day, and whether it is of a weekend.
Draw = Callable[[np.random.Generator, Values, Values], Values]


def _near(hours: Values, middle: Values | float) -> Values:
    """1 at that hour, 0 half a day away."""
    apart = np.abs(hours - middle) % 24
    near: Values = 1 - np.minimum(apart, 24 - apart) / 12
    return near


def _closeness(rng: np.random.Generator, hours: Values, _: Values) -> Values:
    n = len(hours)
    liked = np.where(rng.random(n) < 0.7, rng.integers(17, 24, n), rng.integers(0, 24, n))
    return _near(hours, liked)


def _device(rng: np.random.Generator, hours: Values, weekend: Values) -> Values:
    tv = 0.1 + 0.6 * _near(hours, 21) * np.where(weekend, 1.2, 1.0)
    return np.where(rng.random(len(hours)) < tv, "tv", np.where(hours < 6, "phone", "tablet"))


def _rest(rng: np.random.Generator, hours: Values, _: Values) -> Values:
    """Nobody knows at night."""
    missing = rng.random(len(hours)) < 0.4 * (1 - _near(hours, 14))
    return np.where(missing, np.nan, rng.normal(5, 2, len(hours)))


def _vectors(rng: np.random.Generator, hours: Values, weekend: Values) -> Values:
    vectors = rng.normal(size=(len(hours), 4))
    vectors[:, 1] += 2 * _near(hours, 20)
    vectors[:, 2] *= np.where(weekend, 1.5, 1.0)
    return vectors


# By name: Feast's type of the values, and how they are drawn.
SIGNALS: Mapping[str, tuple[str, Draw]] = {
    "closeness to the hour": ("DOUBLE", _closeness),
    "amount": ("DOUBLE", lambda r, h, _: r.lognormal(2 * _near(h, 19), 1.5)),
    "orders": ("INT64", lambda r, _, w: r.negative_binomial(2, 2 / (2 + np.where(w, 9, 3)))),
    "visits": ("INT64", lambda r, h, w: r.poisson((1 + 6 * _near(h, 20)) * np.where(w, 1.5, 1.0))),
    "device": ("STRING", _device),
    "missing at night": ("DOUBLE", _rest),
    "vectors": ("DOUBLE_LIST", _vectors),
    "follows nothing": ("DOUBLE", lambda r, h, _: r.normal(10, 2, len(h))),
}  # fmt: skip
FEATURES = [Feature(VIEW, name, dtype, 0, ()) for name, (dtype, _) in SIGNALS.items()]
_KINDS = {one.name: one.kind for one in FEATURES}


@dataclass(frozen=True)
class Week:
    """What a window is drawn with; ``shift``: its rows behave as of so many hours later."""

    shift: int = 0
    amounts: float = 1.0


ORDINARY = Week()
CHANGES = {
    "a night's rows by day": Week(shift=12),
    "amounts x 1.5 in one hour": Week(amounts=1.5),
}


def parts(counts: Counts) -> list[Callable[[], list[Row]]]:
    """False alarms over hours of an ordinary week, and two changes that are seen in an hour.

    Each can be measured by a process of its own.
    """
    return [
        partial(false_alarms, counts),
        *(partial(detected, counts, change) for change in CHANGES),
    ]


def false_alarms(counts: Counts) -> list[Row]:
    """In percent of windows, each an hour of an ordinary week."""
    alarms, beside, unwatched = _alarms(counts, ORDINARY, 8)
    what = f"stationary, {len(SIGNALS)} features by day and night and weekday, {ROWS:,} rows/h"
    said = f"asked for: at most {MOST_FALSE} %; not watched: {unwatched:.2g} % of features"
    return [
        false_row(f"{what}, {counts.windows:,} windows; stock: {PUBLISHED}",
                  alarms[OURS], alarms[PUBLISHED], counts.windows, said),
        false_row(f"{what}, {counts.evidently:,} windows; stock: {EVIDENTLY}",
                  beside, alarms[EVIDENTLY], counts.evidently, said),
    ]  # fmt: skip


def detected(counts: Counts, change: str) -> list[Row]:
    """Hours in which a change is seen. The published rule alarms in nearly every hour anyway."""
    place = list(CHANGES).index(change)
    seen, _, _ = _alarms(replace(counts, evidently=0), CHANGES[change], 9 + place)
    return [
        Row(f"{change}, {ROWS:,} rows, {counts.windows:,} windows; stock: {PUBLISHED}",
            "detected", "% of windows", "higher", seen[OURS], seen[PUBLISHED],
            runs=counts.windows, why=f"{TRAINED_ROWS:,} labels over {DAYS} days: about "
            f"{TRAINED_ROWS // 24:,} of each hour, of which a third at night")
    ]  # fmt: skip


class Watched:
    """A training set of some weeks, and how the windows of an hour are judged against it."""

    def __init__(self, rng: np.random.Generator) -> None:
        seconds = rng.integers(0, DAYS * 86_400, 2 * TRAINED_ROWS)
        # More labels by day than by night.
        kept = rng.random(len(seconds)) < 0.25 + 0.75 * _near(seconds // 3600 % 24, 15)
        seconds = np.sort(rng.permutation(seconds[kept])[:TRAINED_ROWS])
        hours, days = seconds // 3600 % 24, seconds // 86_400
        self.columns = draw(ORDINARY, rng, hours, days % 7 > 4)
        first = np.datetime64(START.replace(tzinfo=None), "us") - np.timedelta64(DAYS, "D")
        at = first + seconds.astype("timedelta64[s]")
        held = {name: _column(values) for name, values in self.columns.items()}
        table = pa.table({"event_timestamp": pa.array(at, pa.timestamp("us", "UTC")), **held})
        self.baseline = baseline_of(SERVICE, {}, "none", table, FEATURES, {})
        self._rules = Rules.of(self.baseline)

    def bad(self, live: Mapping[str, Values], hour: int, day: int) -> tuple[set[str], int]:
        """The features that alarm in an hour of the week from 0 on, and how many are unwatched."""
        weekday = str(day + 1)
        names = {HOUR: str(hour), WEEKDAY: weekday}
        features, left_out = [], 0
        for one in self.baseline.features:
            found: Any = one
            if (strata := one.content.get("strata")) is not None:
                found = conditioned(one, {names.get(strata["by"], f"{weekday} {hour}"): ROWS})
            if isinstance(found, str):
                left_out += 1
            else:
                features.append(found)
        base = replace(self.baseline, features=tuple(features))
        bad = set()
        for asked in expectations_of(base, VIEW, self._rules, set(SIGNALS)):
            name = getattr(asked, "column", "")
            if hasattr(asked, "judged"):
                found = asked.judged(measured(asked, _KINDS[name], live[name]))
                if any(at_least(one.verdict, WARNING) for one in found):
                    bad.add(name)
        return bad, left_out


def draw(week: Week, rng: np.random.Generator, hours: Values, weekend: Values) -> dict[str, Values]:
    """Rows of these hours."""
    hours = (hours + week.shift) % 24
    columns = {name: one(rng, hours, weekend) for name, (_, one) in SIGNALS.items()}
    return {**columns, "amount": columns["amount"] * week.amounts}


def _alarms(counts: Counts, week: Week, seed: int) -> tuple[dict[str, float], float, float]:
    """Windows with any alarm by rule, ours of those that Evidently sees; unwatched; in percent."""
    alarms: Counter[str] = Counter()
    beside = unwatched = 0
    for run in range(counts.windows):
        if run % WINDOWS == 0:
            watched = Watched(np.random.default_rng([seed, run]))
            published = Published(watched.columns, _KINDS)
            evidently = Evidently(watched.columns, _KINDS) if counts.evidently else None
        rng = np.random.default_rng([seed, run, 1])
        day, hour = int(rng.integers(7)), int(rng.integers(24))
        live = draw(week, rng, np.full(ROWS, hour), np.full(ROWS, day > 4))
        bad, left_out = watched.bad(live, hour, day)
        alarms[OURS] += bool(bad)
        alarms[PUBLISHED] += bool(published.bad(live))
        unwatched += left_out
        if evidently and counts.shared(run):
            alarms[EVIDENTLY] += bool(evidently.bad(live))
            beside += bool(bad)
    looked = {OURS: counts.windows, PUBLISHED: counts.windows, EVIDENTLY: counts.evidently or 1}
    return (
        {rule: 100 * alarms[rule] / n for rule, n in looked.items()},
        100 * beside / (counts.evidently or 1),
        100 * unwatched / (counts.windows * len(SIGNALS)),
    )


def _column(values: Values) -> pa.Array:
    return pa.array(list(values)) if values.ndim == 2 else pa.array(values)

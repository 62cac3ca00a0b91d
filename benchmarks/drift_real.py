"""Features as real data has them: false alarms and detection, ours beside both rival rules."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.drift_families import CHANGES, FAMILIES, Watched
from benchmarks.report import Row
from monitoring.baseline import CATEGORICAL, NUMERIC
from monitoring.verdicts import WARNING, at_least

# Rows of the training set, and of a window.
SIZES = ((1_000, 1_000), (200, 20_000), (20_000, 500))
# A training set may be a lucky one: each is compared with so many windows only.
WINDOWS = 5
MOST_FALSE = 0.5
CHANGED_BASELINE, CHANGED_ROWS, CHANGED_BASELINES = 10_000, 1_000, 20
OURS, PUBLISHED, EVIDENTLY = "ours", "the published rule", "Evidently's defaults"

Columns = Mapping[str, Any]
# How each feature is compared, by its name.
Kinds = Mapping[str, str | None]
_KINDS: Kinds = {name: family.feature.kind for name, family in FAMILIES.items()}


@dataclass(frozen=True)
class Counts:
    """How many windows our rule and the published one look at; Evidently takes a second for one."""

    windows: int
    evidently: int

    def shared(self, run: int) -> bool:
        """Whether Evidently looks at this window too; evenly over all."""
        return run * self.evidently // self.windows != (run + 1) * self.evidently // self.windows


FULL, QUICK = Counts(1_000, 20), Counts(10, 1)


class Published:
    """The published rule: mean within 20 %, sd within 30 %, of numeric features only."""

    def __init__(self, trained: Columns, kinds: Kinds = _KINDS) -> None:
        self._base = {
            name: _moments(values) for name, values in trained.items() if kinds[name] == NUMERIC
        }

    def bad(self, live: Columns) -> set[str]:
        """The features beyond its thresholds."""
        found = set()
        for name, (mean, sd) in self._base.items():
            if name in live:
                now, spread = _moments(live[name])
                if abs(now - mean) > 0.2 * abs(mean) or abs(spread - sd) > 0.3 * sd:
                    found.add(name)
        return found


class Evidently:
    """Evidently's defaults: a test for each column by its type and rows; a dimension is one."""

    def __init__(self, trained: Columns, kinds: Kinds = _KINDS) -> None:
        os.environ["DO_NOT_TRACK"] = "1"
        from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415 - it takes seconds
        from evidently.metrics import DriftedColumnsCount  # noqa: PLC0415

        self._definition, self._dataset = DataDefinition, Dataset.from_pandas
        self._report, self._count = Report, DriftedColumnsCount
        self._trained, self._kinds = trained, kinds

    def bad(self, live: Columns) -> set[str]:
        """The features of which any column has drifted."""
        texts = [name for name in live if self._kinds[name] == CATEGORICAL]
        frames = [
            _frames({name: one[name] for name in live}, texts) for one in (self._trained, live)
        ]
        columns = {name: list(frame) for name, frame in frames[0].items()}
        numbers = [one for name in live if name not in texts for one in columns[name]]
        definition = self._definition(numerical_columns=numbers, categorical_columns=texts)
        was, now = (
            self._dataset(pd.concat(one.values(), axis=1), data_definition=definition)
            for one in frames
        )
        metrics = [self._count(columns=columns[name]) for name in live]
        result = self._report(metrics).run(now, was).dict()["metrics"]
        counts = [int(one["value"]["count"]) for one in result]
        return {name for name, count in zip(live, counts, strict=True) if count}


def parts(counts: Counts) -> list[Callable[[], list[Row]]]:
    """False alarms of a service that does not change, by sample sizes, and changes that are seen.

    Each can be measured by a process of its own.
    """
    sizes = SIZES if counts is FULL else SIZES[:1]
    return [
        *(partial(false_alarms, counts, m, n) for m, n in sizes),
        *(partial(detected, counts, change) for change in CHANGES),
    ]


def false_alarms(counts: Counts, m: int, n: int) -> list[Row]:
    """In percent of windows: of all families together, and of each for samples of one size."""
    alarms: Counter[tuple[str, str]] = Counter()
    beside = 0
    for bad in _stationary(counts, m, n):
        for rule, features in bad.items():
            alarms.update((rule, name) for name in features)
            alarms[rule, ""] += bool(features)
        if EVIDENTLY in bad:
            beside += bool(bad[OURS])
    of = {OURS: counts.windows, PUBLISHED: counts.windows, EVIDENTLY: counts.evidently}
    share = {key: 100 * count / of[key[0]] for key, count in alarms.items()}
    what = f"stationary, {len(FAMILIES)} families together, {m:,} and {n:,} rows"
    asked = f"asked for: at most {MOST_FALSE} %"
    found = [
        false_row(
            f"{what}, {counts.windows:,} windows; stock: {PUBLISHED}",
            share.get((OURS, ""), 0.0), share.get((PUBLISHED, ""), 0.0), counts.windows, asked,
        ),
        false_row(
            f"{what}, {counts.evidently:,} windows; stock: {EVIDENTLY}",
            100 * beside / counts.evidently, share.get((EVIDENTLY, ""), 0.0), counts.evidently,
            asked,
        ),
    ]  # fmt: skip
    if m != n:
        return found
    for name, family in FAMILIES.items():
        numeric = family.feature.kind == NUMERIC
        found.append(
            false_row(
                f"stationary: {name}, {m:,} and {n:,} rows; stock: {EVIDENTLY}",
                share.get((OURS, name), 0.0), share.get((EVIDENTLY, name), 0.0), counts.windows,
                f"{PUBLISHED}: {share.get((PUBLISHED, name), 0.0):.3g} %" if numeric else None,
            )
        )  # fmt: skip
    return found


def false_row(work: str, ours: float, stock: float, runs: int, why: str | None) -> Row:
    """One share of windows that alarm."""
    metric = "false alarms, warning or worse"
    return Row(work, metric, "% of windows", "lower", ours, stock, runs=runs, why=why)


def detected(counts: Counts, change: str) -> list[Row]:
    """Windows of 1,000 rows of which the change of one feature is seen, in percent."""
    baselines = CHANGED_BASELINES if counts is FULL else 2
    name, live = CHANGES[change]
    place = list(CHANGES).index(change)
    seen: Counter[str] = Counter()
    rules = None
    for run in range(counts.windows):
        if rules is None or run * baselines % counts.windows < baselines:
            rules = _train(CHANGED_BASELINE, [4, run * baselines // counts.windows])
        watched, published, evidently = rules
        columns = {name: live(np.random.default_rng([5, place, run]), CHANGED_ROWS)}
        seen[OURS] += any(
            at_least(one.verdict, WARNING) for one in watched.findings(name, columns[name])
        )
        seen[PUBLISHED] += bool(published.bad(columns))
        if counts.shared(run):
            seen[EVIDENTLY] += bool(evidently.bad(columns))
    of = {OURS: counts.windows, PUBLISHED: counts.windows, EVIDENTLY: counts.evidently}
    share = {rule: 100 * seen[rule] / of[rule] for rule in of}
    return [
        Row(f"{change}, {CHANGED_ROWS:,} rows, {counts.windows:,} windows, "
            f"{counts.evidently} of them; stock: {EVIDENTLY}",
            "detected", "% of windows", "higher", share[OURS], share[EVIDENTLY],
            runs=counts.windows,
            why=f"asked for: at least 95 %; {PUBLISHED}: {share[PUBLISHED]:.3g} %")
    ]  # fmt: skip


def _stationary(counts: Counts, m: int, n: int) -> Iterator[dict[str, set[str]]]:
    """By rule, the features that alarm in each window; Evidently in some of them."""
    rules = None
    for run in range(counts.windows):
        if rules is None or run % WINDOWS == 0:
            rules = _train(m, [6, m, n, run])
        rng = np.random.default_rng([7, m, n, run])
        watched, published, evidently = rules
        live = {name: family.draw(rng, n) for name, family in FAMILIES.items()}
        bad = {
            OURS: {
                name
                for name, values in live.items()
                if any(at_least(one.verdict, WARNING) for one in watched.findings(name, values))
            },
            PUBLISHED: published.bad(live),
        }
        if counts.shared(run):
            bad[EVIDENTLY] = evidently.bad(live)
        yield bad


def _train(rows: int, seed: list[int]) -> tuple[Watched, Published, Evidently]:
    rng = np.random.default_rng(seed)
    columns = {name: one.draw(rng, rows) for name, one in FAMILIES.items()}
    return Watched(columns), Published(columns), Evidently(columns)


def _moments(values: Any) -> tuple[float, float]:
    held = np.asarray(values, float)
    return float(np.nanmean(held)), float(np.nanstd(held))


def _frames(columns: Columns, texts: Collection[str]) -> dict[str, pd.DataFrame]:
    """A frame for each feature: one column, or one for each dimension."""
    found = {}
    for name, values in columns.items():
        if values.ndim == 2:
            names = [f"{name}_{place}" for place in range(values.shape[1])]
            found[name] = pd.DataFrame(values, columns=names)
        else:
            found[name] = pd.DataFrame({name: values.astype(str) if name in texts else values})
    return found

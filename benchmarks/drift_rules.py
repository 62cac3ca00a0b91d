"""Three rules on the same windows: our expectations, the published monitor's, and Evidently's."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from great_expectations.expectations.core import ExpectColumnToExist

from benchmarks.drift_families import measured
from benchmarks.drift_platform import (
    FEATURES,
    STATIONARY,
    VIEWS,
    World,
    baseline,
    draw,
    flags,
    moved,
    shaped,
    tastes,
)
from monitoring import array_metrics, expectations
from monitoring.baseline import EMBEDDING, NUMERIC, Baseline
from monitoring.suite import IS_DEFAULT, IS_STALE, Rules, anchors_of, expectations_of
from monitoring.verdicts import CRITICAL, OK, worst

Columns = Mapping[str, Any]
_KINDS = {feature.name: feature.kind for feature in FEATURES}


class Ours:
    """Our own expectation classes, with everything they judge by; numpy measures for them.

    That PostgreSQL and pandas measure the same is `benchmarks.drift.at_scale`'s matter, and the
    tests'. Windows below the least number of rows are judged too.
    """

    def __init__(self, rows: int, seed: int) -> None:
        base = baseline(rows, seed)
        rules = Rules.of(base, least_rows=1)
        present = {*_KINDS, IS_DEFAULT, IS_STALE}
        self._asked = [
            (view, one)
            for view in VIEWS
            for one in expectations_of(base, view, rules, present)
            if not isinstance(one, ExpectColumnToExist)
        ]
        self._anchors = _anchors(base, rules)

    def verdict(self, columns: Columns, world: World, rng: np.random.Generator) -> str:
        """The gravest verdict over all features and views of one window."""
        n = len(columns["score"])
        marks = flags(world, n, rng)
        found = []
        for view, one in self._asked:
            default, stale = marks[view]
            values = {IS_DEFAULT: default, IS_STALE: stale, **columns}[one.column]
            found += one.judged(measured(one, _KINDS.get(one.column), values))
        asked, users = self._anchors
        now = shaped(moved(tastes(users, STATIONARY), rng), world)
        vectors = list(enumerate(now))
        found += asked.judged({expectations.ROWS: len(now), array_metrics.VECTORS: vectors})
        return worst(one.verdict for one in found)


def _anchors(base: Baseline, rules: Rules) -> tuple[Any, Any]:
    """What is expected of the anchors, and whose vectors they are."""
    [one] = [each for each in base.features if each.feature.kind == EMBEDDING]
    users = np.array([anchor["keys"][0] for anchor in one.content["anchors"]])
    return anchors_of(one, rules), users


class Published:
    """The published rule: mean within 20 %, sd within 30 %, of numeric features only."""

    def __init__(self, rows: int, seed: int) -> None:
        columns = draw(STATIONARY, rows, np.random.default_rng(seed))
        self._base = {
            name: (float(np.nanmean(columns[name])), float(np.nanstd(columns[name])))
            for name, kind in _KINDS.items()
            if kind == NUMERIC
        }

    def verdict(self, columns: Columns) -> str:
        """A shift beyond its thresholds is critical; there is no warning."""
        for name, (mean, sd) in self._base.items():
            live = np.asarray(columns[name], float)
            if abs(np.nanmean(live) - mean) > 0.2 * abs(mean):
                return CRITICAL
            if abs(np.nanstd(live) - sd) > 0.3 * sd:
                return CRITICAL
        return OK


class Evidently:
    """Evidently's defaults: it chooses a test by a column's type and the number of rows.

    Any drifted column alarms; its own verdict on a data set wants half of them, which none of
    the drifts reaches. An embedding is compared by its default method for embeddings, a
    classifier (called as its report calls it, without the picture that takes a minute), or with
    each dimension as a column of its own.
    """

    BY_CLASSIFIER, BY_DIMENSION, OF_DATA_SET = "classifier", "dimension", "data set"

    def __init__(self, rows: int, seed: int) -> None:
        os.environ["DO_NOT_TRACK"] = "1"
        from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415 - it takes seconds
        from evidently.metrics import DriftedColumnsCount  # noqa: PLC0415
        from evidently.metrics.embeddings import ModelDriftMethod  # noqa: PLC0415

        frame = self._frame(draw(STATIONARY, rows, np.random.default_rng(seed)))
        names = [str(name) for name in frame]
        self._dimensions = [name for name in names if name.startswith("taste_")]
        self._features = [name for name in names if name not in self._dimensions]
        numbers = [name for name in names if name != "genre"]
        definition = DataDefinition(numerical_columns=numbers, categorical_columns=["genre"])
        metrics = [
            DriftedColumnsCount(columns=self._features),
            DriftedColumnsCount(columns=self._dimensions),
        ]
        self._dataset: Any = partial(Dataset.from_pandas, data_definition=definition)
        self._report: Any = partial(Report, metrics)
        self._classifier = ModelDriftMethod(bootstrap=rows < 1_000)
        self._vectors = frame[self._dimensions]
        self._reference = self._dataset(frame)

    def alarms(self, columns: Columns) -> dict[str, bool]:
        """Whether it alarms, for each way to treat the embedding, and as a data set."""
        frame = self._frame(columns)
        result = self._report().run(self._dataset(frame), self._reference)
        features, dimensions = (one["value"]["count"] for one in result.dict()["metrics"])
        _, turned, _ = self._classifier(frame[self._dimensions].copy(), self._vectors.copy())
        share = (features + dimensions) / len(frame.columns)
        return {
            self.BY_CLASSIFIER: bool(features or turned),
            self.BY_DIMENSION: bool(features or dimensions),
            self.OF_DATA_SET: bool(share >= 0.5),
        }

    @staticmethod
    def _frame(columns: Columns) -> pd.DataFrame:
        """One column for each feature, and for each dimension of the embedding."""
        parts = {}
        for name, kind in _KINDS.items():
            if kind != EMBEDDING:
                parts[name] = columns[name]
            else:
                parts |= {f"{name}_{d}": columns[name][:, d] for d in range(columns[name].shape[1])}
        return pd.DataFrame(parts)

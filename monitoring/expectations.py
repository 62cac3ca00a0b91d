"""The drift suite as Great Expectations classes: measured where the rows are, judged by one rule.

Counts and moments come from Great Expectations' own metrics, so that they run in PostgreSQL, in
pandas or in Spark; only arrays need metrics of their own (monitoring/array_metrics.py). Import
this module only where a check runs: Great Expectations takes seconds and hundreds of megabytes.

Each result's ``details`` holds ``findings`` (see `monitoring.verdicts.Finding`) and ``live``,
the distribution that was found. ``success`` is False for a warning and for a critical verdict.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import numpy as np
from great_expectations.expectations.expectation import BatchExpectation, ColumnAggregateExpectation
from great_expectations.validator.metric_configuration import MetricConfiguration

from monitoring import array_metrics
from monitoring.statistics import drift_statistics
from monitoring.statistics.embedding_drift import Moments, dimension_shifts
from monitoring.verdicts import (
    INSUFFICIENT,
    OK,
    WARNING,
    Finding,
    Floor,
    Statistic,
    at_least,
    worst,
)

__all__ = [
    "ExpectAnchorsToPointAlike",
    "ExpectCategoriesLikeBaseline",
    "ExpectEmbeddingLikeBaseline",
    "ExpectFewStaleRows",
    "ExpectNumbersLikeBaseline",
    "ExpectShareLikeBaseline",
    "ExpectUsualVolume",
]

HISTOGRAM = "column.histogram"
COUNTS = "column.value_counts"
MEAN = "column.mean"
SD = "column.standard_deviation"
NULLS = "column_values.null.count"
ROWS = "table.row_count"


class _Compared(ColumnAggregateExpectation):
    """What the expectations below share: the baseline's content, floors, certainty, least rows."""

    feature: str
    baseline: dict[str, Any]
    floors: dict[str, Any]
    alpha: float
    least_rows: int

    success_keys: ClassVar[tuple[str, ...]] = (
        "feature", "baseline", "floors", "alpha", "least_rows",
    )  # fmt: skip
    metric_dependencies: ClassVar[tuple[str, ...]] = ()

    def worth(self) -> float:
        """What each row is worth where entities come again and again (`repeated_entities`)."""
        return float(self.baseline.get("independent", 1.0))

    def nulls(self, nulls: int, rows: int) -> Statistic:
        """The change of the share of nulls."""
        base = self.baseline
        return drift_statistics.share_shift(
            "nulls", nulls, rows, base["null_rate"], base["rows"], self.worth()
        )

    def metric_values(self) -> Mapping[str, Mapping[str, Any]]:
        """Arguments of the metrics, by metric."""
        return {}

    def asked_metrics(self) -> tuple[str, ...]:
        """Which metrics are computed."""
        return self.metric_dependencies

    def statistics(self, metrics: Mapping[str, Any], rows: int) -> list[Statistic]:
        """The statistics to judge; called only if there are enough rows."""
        raise NotImplementedError

    def live(self, metrics: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """The live distribution, as JSON values."""
        raise NotImplementedError

    def get_validation_dependencies(
        self, execution_engine: Any = None, runtime_configuration: Any = None
    ) -> Any:
        """Great Expectations asks which metrics to compute."""
        dependencies = super().get_validation_dependencies(execution_engine, runtime_configuration)
        told = self.metric_values()
        domain = self.get_domain_kwargs()
        for name in (*self.asked_metrics(), ROWS):
            dependencies.set_metric_configuration(
                name,
                MetricConfiguration(
                    metric_name=name,
                    metric_domain_kwargs=_table_of(domain) if name == ROWS else domain,
                    metric_value_kwargs=dict(told.get(name, {})) or None,
                ),
            )
        return dependencies

    def get_domain_kwargs(self) -> dict[str, Any]:
        """The column, in the batch that is validated."""
        result = self._get_domain_kwargs()
        return dict(result)

    def judged(self, metrics: Mapping[str, Any]) -> list[Finding]:
        """The verdicts on what was measured, wherever that was."""
        rows = int(metrics[ROWS])
        result = self.statistics(metrics, rows) if rows >= self.least_rows else None
        return _judge(self.feature, result, self.floors, self.alpha, rows)

    def _validate(self, metrics: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        rows = int(metrics[ROWS])
        return _result(self.judged(metrics), rows, self.live(metrics, rows) if rows else {})


class ExpectNumbersLikeBaseline(_Compared):
    """Bins, mean, spread and nulls of a number."""

    expectation_type: ClassVar[str] = "expect_numbers_like_baseline"
    metric_dependencies = (HISTOGRAM, MEAN, SD, NULLS)

    def metric_values(self) -> Mapping[str, Mapping[str, Any]]:
        """Great Expectations wants bins as a tuple, open at both ends."""
        return {HISTOGRAM: {"bins": (-np.inf, *self.baseline["edges"], np.inf)}}

    def statistics(self, metrics: Mapping[str, Any], rows: int) -> list[Statistic]:
        """Nulls are counted among all rows, the rest among values."""
        base, nulls = self.baseline, int(metrics[NULLS])
        worth, result = self.worth(), [self.nulls(nulls, rows)]
        n, m = rows - nulls, base["values"]
        if n < 2 or m < 2:
            return result
        live = _numbers(metrics, n, base)
        now, was = np.asarray(live["counts"], float), np.asarray(base["weights"], float) * m
        centers = base.get("centers")
        if centers is None:  # of an earlier release, which kept neither
            centers = _between(base["edges"])
        else:
            # Nothing of the baseline lies in the outermost bins, by how they were chosen.
            result.append(drift_statistics.outside(int(now[0]), int(now[-1]), n, m, worth))
            now, was = _joined(now), _joined(was)
        now, was = worth * now, worth * was
        level = drift_statistics.Numbers(now, live["mean"], live["sd"])
        base_level = drift_statistics.Numbers(was, base["mean"], base["sd"])
        return [
            drift_statistics.psi(now, was),
            drift_statistics.mean_shift(level, base_level, centers, base["kurtosis"]),
            drift_statistics.sd_shift(level, base_level, centers, base["kurtosis"]),
            *result,
        ]

    def live(self, metrics: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """Counts by bin, and moments."""
        nulls = int(metrics[NULLS])
        if rows == nulls:
            return {"nulls": nulls}
        return {**_numbers(metrics, rows - nulls, self.baseline), "nulls": nulls}


class ExpectCategoriesLikeBaseline(_Compared):
    """Frequencies, categories that the training set never had, and nulls."""

    expectation_type: ClassVar[str] = "expect_categories_like_baseline"
    metric_dependencies = (COUNTS, NULLS)

    def metric_values(self) -> Mapping[str, Mapping[str, Any]]:
        """Value counts without an order, so that the database need not sort."""
        return {COUNTS: {"sort": "none"}}

    def statistics(self, metrics: Mapping[str, Any], rows: int) -> list[Statistic]:
        """Shares of categories; ``other`` of the baseline does not count as new."""
        base, nulls = self.baseline, int(metrics[NULLS])
        counts = _categories(metrics)
        worth, result = self.worth(), [self.nulls(nulls, rows)]
        m = base.get("counted") or base["values"]
        if not sum(counts.values()) or not m:
            return result
        return [
            *drift_statistics.category_shifts(counts, base["frequencies"], base["other"], m, worth),
            *result,
        ]

    def live(self, metrics: Mapping[str, Any], rows: int) -> dict[str, Any]:  # noqa: ARG002
        """The most frequent categories, and how many rows the others have."""
        counts = _categories(metrics)
        most = dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:100])
        return {
            "counts": most,
            "other": sum(counts.values()) - sum(most.values()),
            "nulls": int(metrics[NULLS]),
        }


class ExpectEmbeddingLikeBaseline(_Compared):
    """Mean and spread of each dimension, and nulls."""

    expectation_type: ClassVar[str] = "expect_embedding_like_baseline"
    metric_dependencies = (array_metrics.MOMENTS, NULLS)

    def metric_values(self) -> Mapping[str, Mapping[str, Any]]:
        """The dimensions are the baseline's."""
        return {
            array_metrics.MOMENTS: {
                "dimensions": len(self.baseline["means"]),
                "usual": self.baseline["sds"],
            }
        }

    def asked_metrics(self) -> tuple[str, ...]:
        """A baseline without a single vector has no dimensions to look at."""
        return self.metric_dependencies if self.baseline["means"] else (NULLS,)

    def statistics(self, metrics: Mapping[str, Any], rows: int) -> list[Statistic]:
        """``alpha`` holds for one dimension; the family counts them all."""
        base, nulls = self.baseline, int(metrics[NULLS])
        worth, result = self.worth(), [self.nulls(nulls, rows)]
        n, m = rows - nulls, base["values"]
        if n < 2 or m < 2 or not base["means"]:
            return result
        moments = metrics[array_metrics.MOMENTS]
        kurtoses = moments.get("kurtoses") or [None] * len(base["means"])
        now = _moments({**moments, "kurtoses": kurtoses}, n)
        return [*dimension_shifts(now, _moments(base, m), self.alpha, worth), *result]

    def live(self, metrics: Mapping[str, Any], rows: int) -> dict[str, Any]:  # noqa: ARG002
        """Moments by dimension."""
        return {**metrics.get(array_metrics.MOMENTS, {}), "nulls": int(metrics[NULLS])}


class ExpectAnchorsToPointAlike(_Compared):
    """Some entities' vectors now, beside their own in the training set.

    A rotation of a whole space leaves every distribution as it was; these see it. Each row of
    the batch is ``place`` (of the anchor in the baseline) and the vector.
    """

    expectation_type: ClassVar[str] = "expect_anchors_to_point_alike"
    metric_dependencies = (array_metrics.VECTORS,)

    def statistics(self, metrics: Mapping[str, Any], rows: int) -> list[Statistic]:  # noqa: ARG002
        """Anchors that have no vector now are not compared."""
        floor = self.floors["anchors"]["warning"]
        live, then = self._pairs(metrics)
        return [drift_statistics.lost_anchors(live, then, floor)] if len(live) else []

    def live(self, metrics: Mapping[str, Any], rows: int) -> dict[str, Any]:  # noqa: ARG002
        """The cosine of each anchor with its vector in the training set."""
        live, then = self._pairs(metrics)
        if not len(live):
            return {}
        norms = np.linalg.norm(live, axis=1) * np.linalg.norm(then, axis=1)
        cosines = np.divide(
            (live * then).sum(axis=1), norms, out=np.zeros(len(live)), where=norms > 0
        )
        return {"cosines": [float(one) for one in cosines]}

    def _pairs(self, metrics: Mapping[str, Any]) -> tuple[Any, Any]:
        anchors = self.baseline["anchors"]
        result = [
            (vector, anchors[place]["vector"])
            for place, vector in metrics[array_metrics.VECTORS]
            if vector is not None and len(vector) == len(anchors[place]["vector"])
        ]
        if not result:
            return np.empty((0, 0)), np.empty((0, 0))
        return np.asarray([a for a, _ in result], float), np.asarray([b for _, b in result], float)


class ExpectShareLikeBaseline(_Compared):
    """A column of 0 and 1 (is the row a default?): its share, against the training set's."""

    expectation_type: ClassVar[str] = "expect_share_like_baseline"
    metric_dependencies = (MEAN,)

    def statistics(self, metrics: Mapping[str, Any], rows: int) -> list[Statistic]:
        """Exact, for shares near 0 and 1 too."""
        return [
            drift_statistics.share_shift(
                self.baseline["statistic"],
                _ones(metrics, rows),
                rows,
                self.baseline["share"],
                self.baseline["rows"],
                self.worth(),
            )
        ]

    def live(self, metrics: Mapping[str, Any], rows: int) -> dict[str, Any]:
        """The share."""
        return {"share": _ones(metrics, rows) / rows}


class ExpectFewStaleRows(ExpectShareLikeBaseline):
    """A column of 0 and 1 (was the row stale when it was served?)."""

    expectation_type: ClassVar[str] = "expect_few_stale_rows"

    def statistics(self, metrics: Mapping[str, Any], rows: int) -> list[Statistic]:
        """The share of stale rows beyond the tolerated one."""
        tolerated = self.floors["stale"]["warning"]
        return [drift_statistics.excess("stale", _ones(metrics, rows), rows, tolerated)]


class ExpectUsualVolume(BatchExpectation):
    """As many requests as a window of this length usually has."""

    expectation_type: ClassVar[str] = "expect_usual_volume"
    feature: str
    usual: float
    floors: dict[str, Any]
    alpha: float

    metric_dependencies = (ROWS,)
    success_keys: ClassVar[tuple[str, ...]] = ("feature", "usual", "floors", "alpha")
    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id",)

    def _validate(self, metrics: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        rows = int(metrics[ROWS])
        result = [drift_statistics.missing_volume(rows, self.usual)]
        findings = _judge(self.feature, result, self.floors, self.alpha, rows)
        return _result(findings, rows, {"usual": self.usual})


def _judge(
    feature: str,
    found: Sequence[Statistic] | None,
    floors: Mapping[str, Mapping[str, float]],
    alpha: float,
    rows: int,
) -> list[Finding]:
    if found is None:
        return [Finding(feature, "rows", float(rows), 1.0, 0.0, 0.0, INSUFFICIENT)]
    findings = []
    for one in found:
        if not (np.isfinite(one.effect) and np.isfinite(one.p)):
            raise ValueError(f"{one.name} of {feature} is {one.effect}, which says nothing.")
        floor = Floor(**floors[one.name])
        findings.append(
            Finding(
                feature=feature,
                statistic=one.name,
                effect=float(one.effect),
                p=float(one.p),
                warning=floor.warning,
                critical=floor.critical,
                verdict=one.judge(floor, alpha),
            )
        )
    return findings


def _result(findings: Sequence[Finding], rows: int, live: Mapping[str, Any]) -> dict[str, Any]:
    verdict = worst(finding.verdict for finding in findings)
    gravest = max(findings, key=lambda entry: entry.effect, default=None)
    return {
        "success": bool(not at_least(verdict, WARNING)),
        "result": {
            "observed_value": verdict if findings else OK,
            "details": {
                "verdict": verdict,
                "rows": rows,
                "findings": [finding.to_json() for finding in findings],
                "live": dict(live),
                "largest": gravest.statistic if gravest else None,
            },
        },
    }


def _numbers(metrics: Mapping[str, Any], n: int, base: Mapping[str, Any]) -> dict[str, Any]:
    return {
        # With no edge there is one bin, which needs no counting.
        "counts": [int(c or 0) for c in metrics[HISTOGRAM]] if base["edges"] else [n],
        "mean": float(metrics[MEAN]),
        "sd": float(metrics[SD] or 0.0),
    }


def _moments(held: Mapping[str, Any], rows: int) -> Moments:
    means, sds, kurtoses = (np.array(held[name], float) for name in ("means", "sds", "kurtoses"))
    return Moments(means, sds, kurtoses, rows)


def _joined(counts: Any) -> Any:
    """The bins beyond the baseline's range, joined to their neighbours."""
    inner = counts[1:-1].copy()
    inner[0] += counts[0]
    inner[-1] += counts[-1]
    return inner


def _between(edges: Sequence[float]) -> list[float]:
    """Centers of bins of which only the edges are known."""
    if not edges:
        return [0.0]
    return [edges[0], *((a + b) / 2 for a, b in pairwise(edges)), edges[-1]]


def _categories(metrics: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in metrics[COUNTS].items()}


def _ones(metrics: Mapping[str, Any], rows: int) -> int:
    return round(float(metrics[MEAN]) * rows)


def _table_of(domain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in domain.items() if name != "column"}

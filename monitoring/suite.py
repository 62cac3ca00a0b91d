"""The suite of expectations of one service, with floors and the certainty each must reach."""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import great_expectations as gx
from great_expectations.core.batch import Batch
from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResult,
)
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.datasource.fluent.interfaces import TestConnectionError
from great_expectations.expectations.core import ExpectColumnToExist
from great_expectations.expectations.expectation import Expectation

from monitoring.baseline import CATEGORICAL, EMBEDDING, NUMERIC, Baseline, FeatureBaseline
from monitoring.expectations import (
    ExpectAnchorsToPointAlike,
    ExpectCategoriesLikeBaseline,
    ExpectEmbeddingLikeBaseline,
    ExpectFewStaleRows,
    ExpectNumbersLikeBaseline,
    ExpectShareLikeBaseline,
    ExpectUsualVolume,
)
from monitoring.verdicts import FAMILY_ALPHA, FLOORS, LEAST_ROWS, Floor

# The columns beside the features in the relation that a view's expectations read.
IS_DEFAULT, IS_STALE = "is_default", "is_stale"
# An anchor suite needs fewer rows than a distribution: it compares entities with themselves.
LEAST_ANCHORS = 10

# It would tell of every temporary folder, and with a traceback of what its results say as well.
logging.getLogger("great_expectations").setLevel(logging.CRITICAL)

_CLASSES = {
    NUMERIC: ExpectNumbersLikeBaseline,
    CATEGORICAL: ExpectCategoriesLikeBaseline,
    EMBEDDING: ExpectEmbeddingLikeBaseline,
}

Floors = Mapping[tuple[str, str], Floor]


@dataclass(frozen=True)
class Rules:
    """How a service is judged. ``floors``: calibrated ones, by (feature, statistic)."""

    alpha: float
    floors: Floors
    least_rows: int = LEAST_ROWS

    @classmethod
    def of(
        cls,
        baseline: Baseline,
        floors: Floors | None = None,
        *,
        least_rows: int = LEAST_ROWS,
        family_alpha: float = FAMILY_ALPHA,
    ) -> "Rules":
        """Share the family's chance of a false alarm equally (Bonferroni)."""
        return cls(family_alpha / comparisons(baseline), floors or {}, least_rows)

    def floors_of(self, feature: str) -> dict[str, dict[str, float]]:
        """A feature's floors: its calibrated ones before the general ones."""
        return {
            name: asdict(self.floors.get((feature, name), floor)) for name, floor in FLOORS.items()
        }


def comparisons(baseline: Baseline) -> int:
    """How many statistics one check looks at; an embedding's count once for each dimension."""
    count = 1  # volume
    views = {feature.feature.view for feature in baseline.features if feature.feature.version}
    count += 2 * len(views)  # defaults, stale
    for feature in baseline.features:
        if feature.feature.kind == NUMERIC:
            count += 5
        elif feature.feature.kind == CATEGORICAL:
            count += 3
        else:
            count += 2 * len(feature.content["means"]) + 2
    return count


def expectations_of(
    baseline: Baseline,
    view: str,
    rules: Rules,
    present: set[str],
    unwatched: Collection[str] = (),
) -> list[Expectation]:
    """What is expected of one view's rows. ``present``: the relation's columns.

    ``unwatched``: labels of features that this window's rows cannot be compared with.
    """
    result: list[Expectation] = []
    own = [feature for feature in baseline.features if feature.feature.view == view]
    for one in own:
        result.append(
            ExpectColumnToExist(column=one.feature.name, meta={"feature": one.feature.label})
        )
        if one.feature.name in present and one.feature.label not in unwatched:
            made = _CLASSES[str(one.feature.kind)]
            result.append(made(column=one.feature.name, **_common(one, rules)))
    rate = next((one.default_rate for one in own if one.default_rate is not None), None)
    shared: dict[str, Any] = {"alpha": rules.alpha, "least_rows": rules.least_rows, "feature": view}
    shared["floors"] = rules.floors_of(view)
    if rate is not None and IS_DEFAULT in present:
        share = {"statistic": "defaults", "share": rate, "rows": own[0].rows,
                 "independent": own[0].content.get("independent", 1.0)}  # fmt: skip
        result.append(ExpectShareLikeBaseline(column=IS_DEFAULT, baseline=share, **shared))
    if IS_STALE in present:
        result.append(ExpectFewStaleRows(column=IS_STALE, baseline={}, **shared))
    return result


def anchors_of(feature: FeatureBaseline, rules: Rules) -> Expectation:
    """The expectation about an embedding's anchors."""
    common = {**_common(feature, rules), "least_rows": min(LEAST_ANCHORS, rules.least_rows)}
    return ExpectAnchorsToPointAlike(column=feature.feature.name, **common)


def volume_of(service: str, usual: float, rules: Rules) -> Expectation:
    """The expectation about the number of requests."""
    return ExpectUsualVolume(
        feature=service, usual=usual, floors=rules.floors_of(service), alpha=rules.alpha
    )


class Measuring:
    """Great Expectations over relations of one database, or over data frames."""

    def __init__(self, url: str | None = None) -> None:
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = ProgressBarsConfig(
            globally=False, metric_calculations=False
        )
        self._number = 0
        if url is None:
            self._source: Any = self._context.data_sources.add_pandas("frames")
        else:
            # Great Expectations substitutes what follows a dollar sign.
            text = url.replace("postgresql://", "postgresql+psycopg://", 1).replace("$", r"\$")
            self._source = self._context.data_sources.add_postgres("live", connection_string=text)

    def of_relation(self, relation: str) -> Batch:
        """The batch of all rows of a table or view.

        Raises:
            Exception: what the driver raised; everybody can tell whether that is an outage.
        """
        try:
            asset = self._source.add_table_asset(self._name(), table_name=relation)
        except TestConnectionError as wrapped:
            if wrapped.__cause__ is None:
                raise
            raise wrapped.__cause__ from None
        batch: Batch = asset.add_batch_definition_whole_table("all").get_batch()
        return batch

    def of_frame(self, frame: Any) -> Batch:
        """The batch of all rows of a pandas frame."""
        asset = self._source.add_dataframe_asset(self._name())
        definition = asset.add_batch_definition_whole_dataframe("all")
        batch: Batch = definition.get_batch({"dataframe": frame})
        return batch

    def validate(
        self, batch: Batch, expectations: list[Expectation]
    ) -> ExpectationSuiteValidationResult:
        """Measure and judge; an expectation that raises says so in its ``exception_info``."""
        suite = gx.ExpectationSuite(self._name(), expectations=expectations)
        result: ExpectationSuiteValidationResult = batch.validate(suite)
        return result

    def close(self) -> None:
        """Dispose of the database engine."""
        engine = getattr(self._source, "_engine", None)
        if engine is not None:
            engine.dispose()

    def _name(self) -> str:
        self._number += 1
        return f"drift_{self._number}"


def _common(feature: FeatureBaseline, rules: Rules) -> dict[str, Any]:
    content = {
        **feature.content, "rows": feature.rows, "null_rate": feature.null_rate,
        "values": feature.values,
    }  # fmt: skip
    return {
        "feature": feature.feature.label,
        "baseline": content,
        "floors": rules.floors_of(feature.feature.label),
        "alpha": rules.alpha,
        "least_rows": rules.least_rows,
    }

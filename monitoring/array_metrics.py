"""Metrics over columns of arrays, for Great Expectations on pandas and in PostgreSQL."""

import os
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import numpy as np
import sqlalchemy as sa
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.execution_engine import PandasExecutionEngine, SqlAlchemyExecutionEngine
from great_expectations.expectations.metrics.column_aggregate_metric_provider import (
    ColumnAggregateMetricProvider,
)
from great_expectations.expectations.metrics.metric_provider import metric_value

MOMENTS = "column.dimension_moments"
VECTORS = "column.placed_vectors"
# The batch's column that says which anchor a vector belongs to.
PLACE = "place"


class DimensionMoments(ColumnAggregateMetricProvider):
    """Mean and standard deviation (n - 1) of each dimension: ``means``, ``sds``."""

    metric_name = MOMENTS
    value_keys = ("dimensions",)

    @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(
        cls,  # noqa: N805 - Great Expectations makes a class method of it
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        **_more: Any,
    ) -> dict[str, list[float]]:
        frame, _, accessor = execution_engine.get_compute_domain(
            metric_domain_kwargs, MetricDomainTypes.COLUMN
        )
        held = frame[accessor["column"]].dropna()
        dimensions = metric_value_kwargs["dimensions"]
        if not len(held):
            return {"means": [0.0] * dimensions, "sds": [0.0] * dimensions}
        vectors = np.array([np.asarray(one, np.float64) for one in held])
        if vectors.shape[1] != dimensions:
            raise ValueError(f"Vectors have {vectors.shape[1]} dimensions, not {dimensions}.")
        sds = vectors.std(axis=0, ddof=1) if len(vectors) > 1 else np.zeros(dimensions)
        return {"means": vectors.mean(axis=0).tolist(), "sds": sds.tolist()}

    @metric_value(engine=SqlAlchemyExecutionEngine)  # type: ignore[untyped-decorator]
    def _sqlalchemy(
        cls,  # noqa: N805
        execution_engine: SqlAlchemyExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        **_more: Any,
    ) -> dict[str, list[float]]:
        selectable, _, accessor = execution_engine.get_compute_domain(
            metric_domain_kwargs, MetricDomainTypes.COLUMN
        )
        name = execution_engine.engine.dialect.identifier_preparer.quote(accessor["column"])
        dimensions = metric_value_kwargs["dimensions"]
        # One scan with an aggregate per dimension; unnesting makes a row of every number. OFFSET
        # keeps PostgreSQL from putting the view's expression in the place of each reference.
        parts = [f"min(cardinality({name}))", f"max(cardinality({name}))"]
        for place in range(1, dimensions + 1):
            parts += [f"avg({name}[{place}])", f"stddev_samp({name}[{place}])"]
        vectors: Any = sa.select(sa.column(accessor["column"])).select_from(selectable)
        once = vectors.offset(0).subquery("vectors")
        query = sa.select(*[sa.text(part) for part in parts]).select_from(once)
        row = execution_engine.execute_query(query).fetchone()
        if row is None or row[0] is None:
            return {"means": [0.0] * dimensions, "sds": [0.0] * dimensions}
        if (row[0], row[1]) != (dimensions, dimensions):
            raise ValueError(f"Vectors have {row[0]} to {row[1]} dimensions, not {dimensions}.")
        return {
            "means": [float(one) for one in row[2::2]],
            "sds": [float(one or 0.0) for one in row[3::2]],
        }


class PlacedVectors(ColumnAggregateMetricProvider):
    """The few rows of a batch of anchors: (place, vector), in order of place."""

    metric_name = VECTORS

    @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(
        cls,  # noqa: N805
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        **_more: Any,
    ) -> list[tuple[int, list[float] | None]]:
        frame, _, accessor = execution_engine.get_compute_domain(
            metric_domain_kwargs, MetricDomainTypes.COLUMN
        )
        ordered = frame.sort_values(PLACE)
        return [
            (int(place), None if vector is None else [float(one) for one in vector])
            for place, vector in zip(ordered[PLACE], ordered[accessor["column"]], strict=True)
        ]

    @metric_value(engine=SqlAlchemyExecutionEngine)  # type: ignore[untyped-decorator]
    def _sqlalchemy(
        cls,  # noqa: N805
        execution_engine: SqlAlchemyExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        **_more: Any,
    ) -> list[tuple[int, list[float] | None]]:
        selectable, _, accessor = execution_engine.get_compute_domain(
            metric_domain_kwargs, MetricDomainTypes.COLUMN
        )
        query: Any = (
            sa.select(sa.column(PLACE), sa.column(accessor["column"]))
            .select_from(selectable)
            .order_by(sa.column(PLACE))
        )
        rows = execution_engine.execute_query(query).fetchall()
        return [
            (int(place), None if vector is None else [float(one) for one in vector])
            for place, vector in rows
        ]

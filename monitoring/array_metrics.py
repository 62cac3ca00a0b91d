"""Metrics over columns of arrays, for Great Expectations on pandas and in PostgreSQL."""

import os
from collections.abc import Sequence
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
from numpy.typing import NDArray

MOMENTS = "column.dimension_moments"
VECTORS = "column.placed_vectors"
# The batch's column that says which anchor a vector belongs to.
PLACE = "place"


class DimensionMoments(ColumnAggregateMetricProvider):
    """Mean and standard deviation (n - 1) of each dimension: ``means``, ``sds``.

    ``kurtoses`` only of dimensions that spread otherwise than is ``usual``, else None: one row
    with a huge number may be all there is to it, and the others are not worth a second scan.
    """

    metric_name = MOMENTS
    value_keys = ("dimensions", "usual")

    @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(
        cls,  # noqa: N805 - Great Expectations makes a class method of it
        execution_engine: PandasExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        **_more: Any,
    ) -> dict[str, Any]:
        frame, _, accessor = execution_engine.get_compute_domain(
            metric_domain_kwargs, MetricDomainTypes.COLUMN
        )
        held = frame[accessor["column"]].dropna()
        dimensions = metric_value_kwargs["dimensions"]
        if not len(held):
            return _nothing(dimensions)
        vectors = np.array([np.asarray(entry, np.float64) for entry in held])
        if vectors.shape[1] != dimensions:
            raise ValueError(f"Vectors have {vectors.shape[1]} dimensions, not {dimensions}.")
        return moments_of(vectors, metric_value_kwargs.get("usual"))

    @metric_value(engine=SqlAlchemyExecutionEngine)  # type: ignore[untyped-decorator]
    def _sqlalchemy(
        cls,  # noqa: N805
        execution_engine: SqlAlchemyExecutionEngine,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        **_more: Any,
    ) -> dict[str, Any]:
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
            return _nothing(dimensions)
        if (row[0], row[1]) != (dimensions, dimensions):
            raise ValueError(f"Vectors have {row[0]} to {row[1]} dimensions, not {dimensions}.")
        means = [float(one) for one in row[2::2]]
        sds = [float(one or 0.0) for one in row[3::2]]
        kurtoses: list[float | None] = [None] * dimensions
        unlike = _otherwise(sds, metric_value_kwargs.get("usual"))
        if unlike:
            fourth = [
                sa.text(
                    f"avg(power(({name}[{place + 1}] - ({means[place]!r})) / {sds[place]!r}, 4))"
                )
                for place in unlike
            ]
            result = execution_engine.execute_query(sa.select(*fourth).select_from(once)).fetchone()
            for place, one in zip(unlike, result or (), strict=True):
                kurtoses[place] = float(one)
        return {"means": means, "sds": sds, "kurtoses": kurtoses}


def moments_of(vectors: NDArray[np.float64], usual: Sequence[float] | None) -> dict[str, Any]:
    """`DimensionMoments` of (n, dimensions) vectors; ``usual``: the spreads of the baseline."""
    means = vectors.mean(axis=0)
    sds = vectors.std(axis=0, ddof=1) if len(vectors) > 1 else np.zeros(vectors.shape[1])
    kurtoses: list[float | None] = [None] * len(means)
    for place in _otherwise(sds, usual):
        far = (vectors[:, place] - means[place]) / sds[place]
        kurtoses[place] = float((far**4).mean())
    return {"means": means.tolist(), "sds": sds.tolist(), "kurtoses": kurtoses}


def _nothing(dimensions: int) -> dict[str, Any]:
    return {
        "means": [0.0] * dimensions, "sds": [0.0] * dimensions, "kurtoses": [None] * dimensions,
    }  # fmt: skip


def _otherwise(sds: Any, usual: Any) -> list[int]:
    """Dimensions whose spread differs from the usual one by more than 10 %, unless it is 0."""
    if usual is None:
        return []
    return [
        place
        for place, (now, was) in enumerate(zip(sds, usual, strict=True))
        if now > 1e-12 and not was / 1.1 <= now <= was * 1.1
    ]


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

"""How far two columns of values are apart, row by row and as distributions.

Numbers, embeddings (lists of numbers) and texts (everything else, which is equal or not).
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from extensions.statistics.divergence import (
    jensen_shannon_divergence,
    population_stability_index,
)
from extensions.statistics.histogram import counts_between, edges_with_range

MOST_CATEGORIES = 20
# The levels at which a long list of changes is summed up: dense in the tails.
_LEVELS = np.unique(
    np.concatenate([[0, 0.001, 0.005, 0.995, 0.999, 1], np.linspace(0.01, 0.99, 99)])
)

Floats = NDArray[np.float64]
Kind = Literal["number", "embedding", "text"]


@dataclass(frozen=True)
class ColumnSummary:
    """One column: rows that are null, rows that have the declared default (nulls, where that is
    null), and mean and standard deviation (of numbers; of embeddings' norms).
    """

    nulls: int
    defaults: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Distribution:
    """Rows of both columns by bin or by category.

    Numbers and norms: ``edges`` between the bins, near quantiles of the first column
    (`extensions.statistics.histogram`). Texts: ``names``, the most frequent ones first; ``other``:
    rows of the categories that are not named, and their number.
    """

    edges: tuple[float, ...]
    names: tuple[str, ...]
    first: tuple[int, ...]
    second: tuple[int, ...]
    other: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class DistributionChange:
    """Both distributions, and one statistic of how far they are apart.

    ``psi``: population stability index, of numbers and norms; ``divergence``: Jensen-Shannon, in
    bits, of texts; None where a column has no value.
    """

    distribution: Distribution
    psi: float | None = None
    divergence: float | None = None


def kind_of(column: pa.ChunkedArray) -> Kind:
    """How a column is compared."""
    dtype = column.type
    if pa.types.is_list(dtype) and (
        pa.types.is_floating(dtype.value_type) or pa.types.is_integer(dtype.value_type)
    ):
        return "embedding"
    if pa.types.is_floating(dtype) or pa.types.is_integer(dtype):
        return "number"
    return "text"


def distance_of(first: pa.ChunkedArray, second: pa.ChunkedArray) -> tuple[Floats, Floats, Kind]:
    """Compare row by row; a null differs from everything but a null.

    Returns:
        (distance, change, kind), both (n,). The distance is infinite where one side is null; the
        change is second minus first for numbers, the Euclidean distance for embeddings, 1 for
        texts that differ, and 0 where one side is null.
    """
    kinds = {kind_of(first), kind_of(second)}
    kind = kinds.pop() if len(kinds) == 1 else "text"
    if kind == "number":
        left, right = numbers(first), numbers(second)
        change = right - left
        one_null = np.isnan(left) ^ np.isnan(right)
        change = np.where(np.isnan(change), 0.0, change)
        return np.where(one_null, np.inf, np.abs(change)), change, kind
    pairs = list(zip(first.to_pylist(), second.to_pylist(), strict=True))
    if kind == "embedding":
        distances = np.array([_euclidean(left, right) for left, right in pairs])
        return distances, np.where(np.isinf(distances), 0.0, distances), kind
    differ = np.array([float(left != right) for left, right in pairs])
    return differ, differ, kind


def summary_of(column: pa.ChunkedArray, kind: Kind, default: Any) -> ColumnSummary:
    """Nulls, defaults, mean, standard deviation."""
    nulls = column.null_count
    if default is not None:
        default = pa.scalar(default, column.type).as_py()  # rounded as the column's values are
    defaults = nulls if default is None else sum(v == default for v in column.to_pylist())
    if kind == "text":
        return ColumnSummary(nulls, defaults, None, None)
    values = _present(column, kind)
    if not len(values):
        return ColumnSummary(nulls, defaults, None, None)
    return ColumnSummary(nulls, defaults, float(values.mean()), float(values.std()))


def distribution_change(
    first: pa.ChunkedArray, second: pa.ChunkedArray, kind: Kind
) -> DistributionChange:
    """Both columns' distributions over bins near quantiles of the first, or over categories."""
    if kind == "text":
        left, right = (Counter(map(str, column.to_pylist())) for column in (first, second))
        names = [name for name, _ in (left + right).most_common()]
        rows = np.array([[left[name], right[name]] for name in names], np.float64)
        named = names[:MOST_CATEGORIES]
        rest = [int(side) for side in rows[MOST_CATEGORIES:].sum(axis=0)]
        distribution = Distribution(
            edges=(),
            names=tuple(named),
            first=tuple(left[name] for name in named),
            second=tuple(right[name] for name in named),
            other=(rest[0], rest[1], len(names) - len(named)),
        )
        divergence = jensen_shannon_divergence(rows[:, 0], rows[:, 1])
        return DistributionChange(distribution, divergence=divergence)
    values, others = _present(first, kind), _present(second, kind)
    if not len(values) or not len(others):
        return DistributionChange(Distribution((), (), (), ()))
    edges = edges_with_range(values)
    p, q = counts_between(values, edges), counts_between(others, edges)
    psi = population_stability_index(p, q)
    distribution = Distribution(tuple(edges), (), tuple(p.tolist()), tuple(q.tolist()))
    return DistributionChange(distribution, psi=psi)


def cumulative_shares(values: Floats) -> tuple[tuple[float, float], ...]:
    """The empirical distribution of ``values`` (n,): pairs of a value and the share at or below it.

    Of many distinct values about a hundred are kept, dense in both tails; the least and the
    greatest are always among them.
    """
    if not len(values):
        return ()
    distinct, counts = np.unique(values, return_counts=True)
    shares = np.cumsum(counts) / len(values)
    if len(distinct) > len(_LEVELS):
        places = np.unique(np.minimum(np.searchsorted(shares, _LEVELS), len(distinct) - 1))
        distinct, shares = distinct[places], shares[places]
    return tuple(zip(distinct.tolist(), shares.tolist(), strict=True))


def numbers(column: pa.ChunkedArray) -> Floats:
    """As doubles, (n,); nan for null."""
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    return values


def _present(column: pa.ChunkedArray, kind: Kind) -> Floats:
    """Numbers, or norms of embeddings, that are not null."""
    values = numbers(column) if kind == "number" else _norms(column)
    present: Floats = values[np.isfinite(values)]
    return present


def _norms(column: pa.ChunkedArray) -> Floats:
    return np.array(
        [
            np.nan if row is None else np.linalg.norm(np.array(row, float))
            for row in column.to_pylist()
        ]
    )


def _euclidean(first: list[float] | None, second: list[float] | None) -> float:
    if first is None or second is None:
        return 0.0 if first is second else float("inf")
    if len(first) != len(second):
        return float("inf")
    return float(np.linalg.norm(np.array(second, float) - np.array(first, float)))

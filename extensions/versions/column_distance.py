"""How far two columns of answers are apart: numbers, texts and embeddings.

The two distances of distributions, `stability` and `divergence`, are those of drift checks too.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

BINS = 10
MOST_WORDS = 20

Floats = NDArray[np.float64]
Bars = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Shape:
    """One column: rows that are null; mean and standard deviation where they mean something
    (for embeddings, of the norms).
    """

    nulls: int
    mean: float | None
    sd: float | None


def kind_of(column: pa.ChunkedArray) -> str:
    """``number``, ``embedding`` or ``text`` (and all else that is equal or not)."""
    kind = column.type
    if pa.types.is_list(kind) and (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        return "embedding"
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return "number"
    return "text"


def distance_of(mine: pa.ChunkedArray, theirs: pa.ChunkedArray) -> tuple[Floats, Floats, str]:
    """(how far apart, the signed change, the kind); a null is apart from everything but a null."""
    kinds = {kind_of(mine), kind_of(theirs)}
    kind = kinds.pop() if len(kinds) == 1 else "text"
    if kind == "number":
        left, right = _numbers(mine), _numbers(theirs)
        change = right - left
        one_null = np.isnan(left) ^ np.isnan(right)
        change = np.where(np.isnan(change), 0.0, change)
        return np.where(one_null, np.inf, np.abs(change)), change, kind
    pairs = list(zip(mine.to_pylist(), theirs.to_pylist(), strict=True))
    if kind == "embedding":
        apart = np.array([_between(left, right) for left, right in pairs])
        return apart, np.where(np.isinf(apart), 0.0, apart), kind
    differ = np.array([float(left != right) for left, right in pairs])
    return differ, differ, kind


def shape_of(column: pa.ChunkedArray, kind: str) -> Shape:
    """Nulls, mean, standard deviation."""
    if kind == "text":
        return Shape(column.null_count, None, None)
    values = _numbers(column) if kind == "number" else _norms(column)
    values = values[~np.isnan(values)]
    if not len(values):
        return Shape(column.null_count, None, None)
    return Shape(column.null_count, float(values.mean()), float(values.std()))


def histogram(
    mine: pa.ChunkedArray, theirs: pa.ChunkedArray, kind: str
) -> tuple[Bars, float | None, float | None]:
    """Bars (label, first, second), the stability index of numbers, the divergence of texts."""
    if kind == "text":
        left, right = (Counter(map(str, column.to_pylist())) for column in (mine, theirs))
        words = [word for word, _ in (left + right).most_common()]
        shares = np.array([[left[w], right[w]] for w in words], np.float64)
        bars = tuple((word, left[word], right[word]) for word in words[:MOST_WORDS])
        return bars, None, divergence(shares[:, 0], shares[:, 1])
    both = (_numbers(c) if kind == "number" else _norms(c) for c in (mine, theirs))
    first, second = (values[~np.isnan(values)] for values in both)
    if not len(first) or not len(second):
        return (), None, None
    edges = _edges(first)
    p, q = (np.histogram(values, edges)[0] for values in (first, second))
    drawn = np.histogram_bin_edges(np.concatenate([first, second]), bins=20)
    left_n, right_n = (np.histogram(values, drawn)[0] for values in (first, second))
    bars = tuple(
        (f"{low:.3g} to {high:.3g}", int(a), int(b))
        for low, high, a, b in zip(drawn[:-1], drawn[1:], left_n, right_n, strict=True)
    )
    return bars, stability(p, q), None


def stability(p: NDArray[Any], q: NDArray[Any]) -> float:
    """The population stability index of two histograms over the same bins: counts of rows.

    Σ (q - p) · ln(q / p) over shares: both relative entropies together. An empty bin counts as
    half a row, which keeps it finite.
    """
    left, right = (np.maximum(counts, 0.5) / max(counts.sum(), 1) for counts in (p, q))
    return float(((right - left) * np.log(right / left)).sum())


def divergence(p: Floats, q: Floats) -> float:
    """The Jensen-Shannon divergence of two histograms over the same categories, in bits: 0 to 1."""
    left, right = p / p.sum(), q / q.sum()
    middle = (left + right) / 2

    def relative(share: Floats) -> float:
        there = share > 0
        return float((share[there] * np.log2(share[there] / middle[there])).sum())

    return (relative(left) + relative(right)) / 2


def _edges(values: Floats) -> Floats:
    """Edges of bins of about equal share, between values and not on them."""
    distinct = np.unique(values)
    if len(distinct) == 1:
        middles = np.array([np.nextafter(distinct[0], -np.inf), np.nextafter(distinct[0], np.inf)])
    else:
        wanted = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])
        places = np.clip(np.searchsorted(distinct, wanted, side="right"), 1, len(distinct) - 1)
        middles = np.unique((distinct[places - 1] + distinct[places]) / 2)
    return np.concatenate([[-np.inf], middles, [np.inf]])


def _numbers(column: pa.ChunkedArray) -> Floats:
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
    return values


def _norms(column: pa.ChunkedArray) -> Floats:
    return np.array(
        [np.nan if row is None else np.linalg.norm(np.array(row, float)) for row in
         column.to_pylist()]
    )  # fmt: skip


def _between(left: list[float] | None, right: list[float] | None) -> float:
    if left is None or right is None:
        return 0.0 if left is right else float("inf")
    if len(left) != len(right):
        return float("inf")
    return float(np.linalg.norm(np.array(right, float) - np.array(left, float)))

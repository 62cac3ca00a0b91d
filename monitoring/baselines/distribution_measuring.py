"""Distributions of a training set's columns: bins and moments, frequencies, vectors."""

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from extensions.statistics.histogram import counts_between, edges_with_range
from monitoring.baselines.feature_baseline import CATEGORICAL, NUMERIC, Feature

# Beyond so many categories only the most frequent ones are named.
MOST_CATEGORIES = 5_000
ANCHORS = 50
# The square of a larger number, summed over a window, is no number any more.
LARGEST = 1e140


def numeric_content(values: NDArray[np.float64]) -> dict[str, Any]:
    """Edges, weights and moments of finite values."""
    if not len(values):
        return {"edges": [], "weights": [1.0], "mean": 0.0, "sd": 0.0, "kurtosis": 3.0,
                "minimum": None, "maximum": None}  # fmt: skip
    edges = edges_with_range(values)
    counts = counts_between(values, edges)
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    ordered = np.sort(values)
    starts = np.searchsorted(ordered, edges)
    return {
        "edges": [float(edge) for edge in edges],
        "weights": [float(count) / len(values) for count in counts],
        "centers": [float(np.median(ordered[a:b])) for a, b in pairwise(starts)],
        "mean": float(values.mean()),
        "sd": sd,
        "kurtosis": _kurtosis(values),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
    }


def embedding_content(vectors: NDArray[np.float64], keys: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Moments by dimension of (n, dimensions), and the vectors of some entities.

    ``keys`` by row, in order of time: an entity's last vector is its anchor.
    """
    if not vectors.size:
        return {"means": [], "sds": [], "kurtoses": [], "anchors": []}
    centred = vectors - vectors.mean(axis=0)
    spread = (centred**2).mean(axis=0)
    sds = vectors.std(axis=0, ddof=1) if len(vectors) > 1 else np.zeros(vectors.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        kurtoses = ((centred / np.sqrt(spread)) ** 4).mean(axis=0)
    kurtoses = np.where(spread > 0, kurtoses, 3.0)
    latest = {key: row for row, key in enumerate(keys)}
    pointing = [key for key, row in latest.items() if np.linalg.norm(vectors[row]) > 0]
    chosen = sorted(pointing, key=lambda key: hashlib.sha256(repr(key).encode()).digest())
    return {
        "means": vectors.mean(axis=0).tolist(),
        "sds": sds.tolist(),
        "kurtoses": kurtoses.tolist(),
        "anchors": [
            {"keys": list(key), "vector": vectors[latest[key]].tolist()} for key in chosen[:ANCHORS]
        ],
    }


def content_of(feature: Feature, table: pa.Table) -> dict[str, Any]:
    """The distribution of one feature of a training set, without nulls."""
    column = table[feature.name]
    if feature.kind == NUMERIC:
        # Of whole numbers beyond 2^53 the nearest double, as PostgreSQL's cast of a window's.
        return numeric_content(column.cast(pa.float64(), safe=False).drop_null().to_numpy())
    if feature.kind == CATEGORICAL:
        return categorical_content(column.drop_null())
    rows = column.is_valid()
    held = table.filter(rows)
    lists = held[feature.name].combine_chunks()
    length = next(iter(vector_lengths(lists)), 0)
    flat = pc.list_flatten(lists).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    vectors = flat.reshape(len(held), length)
    order = np.arange(len(held))
    if "event_timestamp" in held.column_names:
        order = pc.sort_indices(held, [("event_timestamp", "ascending")]).to_numpy()
    if not feature.keys or not set(feature.keys) <= set(held.column_names):
        return embedding_content(vectors[order], [])
    keys = list(zip(*(held[name].to_pylist() for name in feature.keys), strict=True))
    return embedding_content(vectors[order], [keys[place] for place in order])


def categorical_content(values: pa.ChunkedArray) -> dict[str, Any]:
    """Frequencies of categories, the most frequent ones first.

    Of more than can be kept, one half of the rows says which are kept and the other how frequent
    they are: chosen by their own count they would all seem more frequent than they are.
    """
    counts = counted_categories(values)
    if len(counts) > MOST_CATEGORIES:
        alternate = np.arange(len(values)) % 2 == 0
        named = [name for name, _ in counted_categories(values.filter(pa.array(alternate)))]
        held = dict(counted_categories(values.filter(pa.array(~alternate))))
        counts = [(name, held.get(name, 0)) for name in named[:MOST_CATEGORIES]]
        total = sum(held.values())
    else:
        total = len(values)
    return {
        "frequencies": {name: count / (total or 1) for name, count in counts},
        "other": max(0, total - sum(count for _, count in counts)) / total if total else 1.0,
        "counted": total,
    }


def counted_categories(values: pa.ChunkedArray) -> list[tuple[str, int]]:
    """Rows by category, the most frequent one first."""
    pairs = ((text(one["values"]), one["counts"]) for one in values.value_counts().to_pylist())
    return sorted(pairs, key=lambda entry: (-entry[1], entry[0]))


def vector_lengths(lists: pa.ChunkedArray | pa.Array) -> list[int]:
    """The distinct lengths of the vectors that are not null, ascending."""
    result: list[int] = pc.unique(pc.list_value_length(lists)).drop_null().to_pylist()
    return sorted(result)


def text(value: Any) -> str:
    """A category as PostgreSQL prints it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _kurtosis(values: NDArray[np.float64]) -> float:
    centred = values - values.mean()
    spread = float((centred**2).mean())
    return float(((centred / np.sqrt(spread)) ** 4).mean()) if spread > 0 else 3.0


def with_nulls(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace nan, infinities and too large numbers by null, in numbers and in vectors."""
    kind = column.type
    if pa.types.is_floating(kind):
        return pc.if_else(_is_number(column), column, pa.scalar(None, kind))
    if pa.types.is_list(kind):
        lists = column.combine_chunks()
        finite = _is_number(pc.list_flatten(lists))
        whole = np.ones(len(lists), np.bool_)
        whole[pc.list_parent_indices(lists).filter(pc.invert(finite)).to_numpy()] = False
        return pa.chunked_array([pc.if_else(pa.array(whole), lists, pa.scalar(None, kind))])
    return column


def _is_number(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    small = pc.less(pc.abs(values.cast(pa.float64(), safe=False)), LARGEST)
    return pc.fill_null(small, fill_value=False)

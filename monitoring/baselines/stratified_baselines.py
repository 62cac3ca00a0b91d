"""Stratified baselines: like hours, weekdays and request fields are compared with like ones.

A feature that follows the hour differs in every hourly window from a training set of all hours.
Where the training set shows that a feature follows the label's hour, its weekday, or a field of
the request that its transform reads, the baseline keeps its distribution by these, and a window is
compared with their mixture as its own rows are mixed (post-stratification).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

from monitoring.baselines.distribution_measuring import counted_categories
from monitoring.baselines.feature_baseline import (
    CATEGORICAL,
    NUMERIC,
    Feature,
    FeatureBaseline,
)
from monitoring.statistics import contingency_tests

HOUR, WEEKDAY, HOUR_OF_WEEK = "hour", "weekday", "hour of week"
TIME = "event_timestamp"
# A request's field has its own column in the served log, with this before its name.
REQUEST = "request"
# The chance that a feature which follows nothing is taken for one that does.
FOLLOWS_BY_CHANCE = 1e-4
MOST_STRATA = 200
# Fewer rows of the training set than this say nothing about the hours of a window.
LEAST_ROWS = 50
# Rows of the window in hours that the training set lacks are left out up to this share.
LEFT_OUT = 0.05


@dataclass(frozen=True)
class Codes:
    """Each row's stratum as a place in ``names``; an empty name is of rows that have none."""

    places: NDArray[np.int64]
    names: tuple[str, ...]


def strata_of(
    feature: Feature,
    table: pa.Table,
    content: Mapping[str, Any],
    apart: NDArray[np.int64] | None = None,
) -> dict[str, Any] | None:
    """The distribution by what the feature follows most; None where it follows nothing.

    ``apart``: rows of the training set that are independent of each other, where not all of them
    are: a request's rows have one hour and one value, which is no sign that it follows the hour.

    ``by``: `HOUR`, `WEEKDAY`, `HOUR_OF_WEEK` or ``request:field``; ``cells``: for each value of it
    (as text) rows, nulls, and counts or moments.
    """
    candidates = _candidates(feature, table)
    cells, numbers = _columns(feature, table[feature.name], content)
    rows = slice(None) if apart is None else apart
    some = None if cells is None else cells[rows]
    chances = {
        by: _follows(replace(codes, places=codes.places[rows]), some, numbers[rows])
        for by, codes in candidates.items()
    }
    fields = [by for by in candidates if by.startswith(REQUEST + ":")]
    result = min(fields, key=chances.__getitem__, default=None)
    if result is None or chances[result] >= FOLLOWS_BY_CHANCE:
        follows = [by for by in (HOUR, WEEKDAY) if chances.get(by, 1.0) < FOLLOWS_BY_CHANCE]
        if not follows:
            return None
        result = HOUR_OF_WEEK if len(follows) > 1 else follows[0]
    codes = candidates.get(result)
    if codes is None:
        codes = _of_week(candidates[WEEKDAY], candidates[HOUR])
    column = table[feature.name]
    return {
        "by": result,
        "cells": {
            name: _cell(feature, column.filter(pa.array(codes.places == place)), content)
            for place, name in enumerate(codes.names)
            if name
        },
    }


def conditioned(feature: FeatureBaseline, window: Mapping[str, int]) -> FeatureBaseline | str:
    """The baseline for a window with so many rows by stratum; else why it is not watched."""
    strata = feature.content["strata"]
    cells, rows = strata["cells"], sum(window.values())
    known = {code: count for code, count in window.items() if cells.get(code, {}).get("rows")}
    held = sum(known.values())
    if not rows:
        return feature
    # The variance of a mixture's share is the sum of w^2 / rows: so many rows it is worth.
    variance = sum(w**2 / cells[code]["rows"] for code, w in known.items())
    worth = held**2 / variance if held else 0.0
    if held < (1 - LEFT_OUT) * rows or worth < LEAST_ROWS:
        few = sum(cells[code]["rows"] for code in known)
        return (
            f"follows the {_name(strata['by'])}, and the training set has {few} rows like this "
            "window's: not watched here. Take a training set whose labels cover it."
        )
    weights = {code: w / held for code, w in known.items()}
    nulls = sum(w * cells[code]["nulls"] / cells[code]["rows"] for code, w in weights.items())
    values = {
        code: w * (1 - cells[code]["nulls"] / cells[code]["rows"]) for code, w in weights.items()
    }
    present = sum(values.values())
    mixed = dict(feature.content)
    if present > 0:
        shares = {code: w / present for code, w in values.items() if w > 0}
        mixed |= _mixed(feature.feature, [(w, cells[code]) for code, w in shares.items()])
    if feature.feature.kind == CATEGORICAL:
        mixed["counted"] = worth * (1 - nulls)
    return replace(feature, rows=round(worth), null_rate=nulls, content=mixed)


def _mixed(feature: Feature, parts: list[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    """The distribution of a mixture of cells, each with its share of the values."""
    if feature.kind == CATEGORICAL:
        frequencies: dict[str, float] = {}
        for share, cell in parts:
            total = cell["rows"] - cell["nulls"]
            for name, count in cell["counts"].items():
                frequencies[name] = frequencies.get(name, 0.0) + share * count / total
        return {"frequencies": frequencies, "other": 0.0}
    if feature.kind == NUMERIC:
        weights = sum(share * np.array(cell["counts"]) / (cell["rows"] - cell["nulls"])
                      for share, cell in parts)  # fmt: skip
        mean, sd = _moments(parts, "mean", "sd")
        return {"weights": np.asarray(weights).tolist(), "mean": float(mean), "sd": float(sd)}
    means, sds = _moments(parts, "means", "sds")
    return {"means": means.tolist(), "sds": sds.tolist()}


def _moments(parts: list[tuple[float, Mapping[str, Any]]], mean: str, sd: str) -> tuple[Any, Any]:
    """Mean and standard deviation: the mean of the variances and the variance of the means."""
    means = np.array([cell[mean] for _, cell in parts], float)
    sds = np.array([cell[sd] for _, cell in parts], float)
    shares = np.array([share for share, _ in parts]).reshape(-1, *[1] * (means.ndim - 1))
    level = (shares * means).sum(axis=0)
    return level, np.sqrt((shares * (sds**2 + (means - level) ** 2)).sum(axis=0))


def _name(by: str) -> str:
    return by.replace(REQUEST + ":", "request's ")


def _candidates(feature: Feature, table: pa.Table) -> dict[str, Codes]:
    """The strata that the feature may depend on, by name."""
    result: dict[str, Codes] = {}
    for field in feature.requests:
        if field in table.column_names and _is_discrete(table.schema.field(field).type):
            result[f"{REQUEST}:{field}"] = _texts(table[field])
    if TIME in table.column_names and pa.types.is_timestamp(table.schema.field(TIME).type):
        times = table[TIME].cast(pa.timestamp("us"), safe=False)  # UTC, as they are kept
        result[HOUR] = _texts(pc.hour(times))
        result[WEEKDAY] = _texts(pc.day_of_week(times, count_from_zero=False))
    return {by: codes for by, codes in result.items() if 2 <= len(codes.names) <= MOST_STRATA}


def _texts(column: pa.ChunkedArray) -> Codes:
    texts = pc.fill_null(column.cast(pa.string()), "").combine_chunks().dictionary_encode()
    return Codes(texts.indices.to_numpy().astype(np.int64), tuple(texts.dictionary.to_pylist()))


def _is_discrete(kind: pa.DataType) -> bool:
    """Whether its values have one text, here and in PostgreSQL."""
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind))


def _of_week(weekdays: Codes, hours: Codes) -> Codes:
    names = tuple(f"{day} {hour}" for day in weekdays.names for hour in hours.names)
    return Codes(weekdays.places * len(hours.names) + hours.places, names)


def _columns(
    feature: Feature, column: pa.ChunkedArray, content: Mapping[str, Any]
) -> tuple[Any, NDArray[np.float64]]:
    """Each row's cell of the distribution (nulls are one), and its numbers (nulls are nan).

    Vectors have no cells, and categories no numbers.
    """
    if feature.kind == CATEGORICAL:
        return _texts(column).places, np.empty((len(column), 0))
    if feature.kind == NUMERIC:
        values = column.cast(pa.float64(), safe=False).to_numpy()
        cells = 1 + np.searchsorted(content["edges"], values, "right")
        return np.where(np.isnan(values), 0, cells), values[:, None]
    vectors = np.full((len(column), len(content["means"])), np.nan)
    vectors[column.is_valid().to_numpy()] = _vectors(column.drop_null(), len(content["means"]))
    return None, vectors


def _vectors(column: pa.ChunkedArray, length: int) -> NDArray[np.float64]:
    flat = pc.list_flatten(column.combine_chunks()).cast(pa.float64(), safe=False)
    result: NDArray[np.float64] = flat.to_numpy(zero_copy_only=False).reshape(len(column), length)
    return result


def _follows(codes: Codes, cells: Any, numbers: NDArray[np.float64]) -> float:
    """The chance of strata as unlike each other if the feature does not follow them.

    Cells are a table; of numbers, and of each dimension, level and spread are tested as well: over
    many strata and bins a table sees only large differences. The least chance times their number.
    """
    chances: list[float] = []
    if cells is not None:
        wide = int(cells.max()) + 1
        counts = np.bincount(codes.places * wide + cells, minlength=len(codes.names) * wide)
        table = counts.reshape(-1, wide).astype(float)
        # Rare strata and rare values are one each.
        chances.append(contingency_tests.independence(_pooled_rows(_pooled_rows(table).T).T))
    held = ~np.isnan(numbers).any(axis=1)
    if numbers.shape[1] and held.any():
        groups = _pooled_groups(codes.places[held])
        ranks = stats.rankdata(numbers[held], axis=0) / held.sum() - 0.5
        chances += contingency_tests.scores_differ(groups, ranks).tolist()
        chances += contingency_tests.scores_differ(groups, ranks**2).tolist()
    return min(1.0, len(chances) * min(chances, default=1.0))


def _pooled_rows(table: NDArray[np.float64]) -> NDArray[np.float64]:
    sums = table.sum(axis=1)
    rare = sums < contingency_tests.LEAST_EXPECTED * 2
    if rare.sum() < 2:
        return table
    return np.vstack([table[~rare], table[rare].sum(axis=0)])


def _pooled_groups(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pool rare strata into one."""
    rare = np.bincount(groups) < contingency_tests.LEAST_EXPECTED * 2
    return np.where(rare[groups], len(rare), groups)


def _cell(feature: Feature, column: pa.ChunkedArray, content: Mapping[str, Any]) -> dict[str, Any]:
    cell: dict[str, Any] = {"rows": len(column), "nulls": column.null_count}
    held = column.drop_null()
    if feature.kind == NUMERIC:
        values = held.cast(pa.float64(), safe=False).to_numpy()
        counts = np.histogram(values, [-np.inf, *content["edges"], np.inf])[0]
        return {
            **cell, "counts": counts.tolist(), "mean": float(values.mean()) if len(values) else 0.0,
            "sd": float(values.std()) if len(values) else 0.0,
        }  # fmt: skip
    if feature.kind == CATEGORICAL:
        return {**cell, "counts": dict(counted_categories(held))}
    vectors = _vectors(held, len(content["means"]))
    if not len(vectors):
        zeros = [0.0] * len(content["means"])
        return {**cell, "means": zeros, "sds": zeros}
    return {**cell, "means": vectors.mean(axis=0).tolist(), "sds": vectors.std(axis=0).tolist()}

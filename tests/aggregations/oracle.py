"""Aggregations by definition, in plain Python over rows; shares no code with the compiler.

A row is a dictionary of a `purchases` table (`tests.aggregations.purchases`). Whole numbers are
Python's, fractions numpy's doubles, summed from the first row to the last; a feature's type is
rounded to once, at the end.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

Row = dict[str, Any]
WHOLE = ("Int32", "Int64")
FRACTION = ("Float32", "Float64")


@dataclass(frozen=True)
class Wanted:
    """A feature as the test declares it; ``meets`` is its filter."""

    name: str
    function: str
    column: str
    dtype: str
    window: timedelta | None
    meets: Callable[[Row], bool] | None
    default: Any
    limit: int = 0
    divide_by: int | None = None
    half_life: timedelta | None = None


@dataclass(frozen=True)
class WantedView:
    """The features of a view, the filter of all its rows, and whether rows have an id."""

    features: tuple[Wanted, ...]
    meets: Callable[[Row], bool] | None
    has_id: bool


ORDERED = ("sum", "mean", "stddev", "first", "last", "last_n", "decayed_sum", "decayed_count")


def value(
    view: WantedView, feature: Wanted, rows: Iterable[Row], user: int, as_of: datetime
) -> Any:
    """The feature of one user at one moment, from what was known by then."""
    known = [
        row
        for row in rows
        if row["user_id"] == user
        and row["bought_at"] <= as_of
        and row["known_at"] <= as_of
        and (feature.window is None or row["bought_at"] > as_of - feature.window)
        and (feature.half_life is None or row["bought_at"] > as_of - 64 * feature.half_life)
        and (view.meets is None or view.meets(row))
        and (feature.meets is None or feature.meets(row))
        and (not feature.column or row[feature.column] is not None)
    ]
    known.sort(key=lambda row: _place(view, row))
    with np.errstate(all="ignore"):
        found = _FUNCTIONS[feature.function](feature, known, as_of)
        return feature.default if found is None else _typed(feature, found)


def uncertainty(
    view: WantedView, feature: Wanted, rows: Iterable[Row], user: int, as_of: datetime
) -> float:
    """How far a decayed value may be off, since libraries' exponentials differ; else 0.

    A weight is exp(-x) with x up to 64 ln 2; x comes of three roundings, each of 2^-53 of it, and
    what x is off by is what the weight is off by, relatively.
    """
    if feature.half_life is None:
        return 0.0
    column = feature.column
    if column:
        rows = [{**row, column: row[column] and abs(row[column])} for row in rows]
    whole = float(value(view, feature, rows, user, as_of))
    step = 2.0**-23 if feature.dtype == "Float32" else (3 * 64 * math.log(2) + 2) * 2.0**-53
    return abs(whole) * step if math.isfinite(whole) else math.inf


def _place(view: WantedView, row: Row) -> tuple[Any, ...]:
    """Event time, then the id's bytes, or the values of the columns whose order matters."""
    if view.has_id:
        return (row["bought_at"], row["order_id"].encode())
    columns = sorted(
        {(each.column, each.dtype.strip("[]") == "String") for each in view.features
         if each.function in ORDERED and each.column}
    )  # fmt: skip
    return (row["bought_at"], *(_rank(row[name], as_text=text) for name, text in columns))


def _rank(one: Any, *, as_text: bool) -> tuple[Any, ...]:
    """Nulls last, NaN above every number, text by its bytes."""
    if one is None:
        return (2, 0)
    if as_text:
        return (0, _text(one).encode())
    if isinstance(one, float) and math.isnan(one):
        return (1, 0)
    return (0, one)


def _text(one: Any) -> str:
    return str(one).lower() if isinstance(one, bool) else str(one)


def _double(one: Any) -> np.float64:
    # Zero has no sign.
    return np.float64(float(one)) + np.float64(0)


def _exact_sum(values: Sequence[Any]) -> np.float64:
    """Whole numbers and decimals exactly, and then as a double; doubles one after another."""
    if isinstance(values[0], int | Decimal):
        total = sum(values[1:], start=values[0])
        return np.float64(float(total))
    return _running_sum([_double(each) for each in values])


def _running_sum(values: Sequence[np.float64]) -> np.float64:
    total = values[0]
    for each in values[1:]:
        total = total + each
    return total


def _over(dividend: np.float64, divisor: int) -> np.float64:
    return np.float64(0) if abs(dividend) < 1e-280 else dividend / np.float64(divisor)


def _count(_: Wanted, rows: list[Row], __: datetime) -> Any:
    return len(rows) or None


def _count_distinct(feature: Wanted, rows: list[Row], _: datetime) -> Any:
    return len({_rank(row[feature.column], as_text=False) for row in rows}) or None


def _sum(feature: Wanted, rows: list[Row], _: datetime) -> Any:
    values = [row[feature.column] for row in rows]
    if not values:
        return None
    return sum(values) if feature.dtype in WHOLE else _exact_sum(values)


def _mean(feature: Wanted, rows: list[Row], _: datetime) -> Any:
    values = [row[feature.column] for row in rows]
    if not values:
        return None
    # One division, so that minutes from milliseconds are rounded once.
    return _over(_exact_sum(values), len(values) * (feature.divide_by or 1))


def _stddev(feature: Wanted, rows: list[Row], _: datetime) -> Any:
    values = [row[feature.column] for row in rows]
    if len(values) < 2:
        return None
    mean = _over(_exact_sum(values), len(values))
    apart = [_double(each) - mean for each in values]
    squares = [np.float64(0) if abs(each) < 1e-150 else each * each for each in apart]
    return np.sqrt(_running_sum(squares) / np.float64(len(values) - 1))


def _extreme(least: bool) -> Callable[[Wanted, list[Row], datetime], Any]:
    def find(feature: Wanted, rows: list[Row], _: datetime) -> Any:
        as_text = feature.dtype == "String"
        values = sorted(
            (row[feature.column] for row in rows), key=lambda one: _rank(one, as_text=as_text)
        )
        return (values[0] if least else values[-1]) if values else None

    return find


def _first(feature: Wanted, rows: list[Row], _: datetime) -> Any:
    return rows[0][feature.column] if rows else None


def _last(feature: Wanted, rows: list[Row], _: datetime) -> Any:
    return rows[-1][feature.column] if rows else None


def _last_n(feature: Wanted, rows: list[Row], _: datetime) -> Any:
    return [row[feature.column] for row in rows[::-1][: feature.limit]] or None


def _top_k(feature: Wanted, rows: list[Row], _: datetime) -> Any:
    kind = feature.dtype.strip("[]")
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(_rank(row[feature.column], as_text=kind == "String"), []).append(row)
    best = sorted(
        groups.items(),
        key=lambda group: (
            -len(group[1]),
            -max(row["bought_at"] for row in group[1]).timestamp(),
            group[0],
        ),
    )
    return [group[0][feature.column] for _, group in best[: feature.limit]] or None


def _decayed(feature: Wanted, rows: list[Row], as_of: datetime) -> Any:
    assert feature.half_life is not None
    terms = []
    for row in rows:
        age = (as_of - row["bought_at"]).total_seconds()
        weight = np.float64(0.5 ** (age / feature.half_life.total_seconds()))
        one = _double(row[feature.column]) if feature.column else np.float64(1)
        terms.append(np.float64(0) if abs(one) <= 1e-200 else one * weight)
    return _running_sum(terms) if terms else None


def _time_since(feature: Wanted, rows: list[Row], as_of: datetime) -> Any:
    if not rows:
        return None
    microseconds = (as_of - rows[-1]["bought_at"]) // timedelta(microseconds=1)
    if feature.dtype in WHOLE:
        return microseconds // 1_000_000
    return np.float64(microseconds / 1_000_000)


_FUNCTIONS: dict[str, Callable[[Wanted, list[Row], datetime], Any]] = {
    "count": _count,
    "count_distinct": _count_distinct,
    "sum": _sum,
    "mean": _mean,
    "stddev": _stddev,
    "min": _extreme(least=True),
    "max": _extreme(least=False),
    "first": _first,
    "last": _last,
    "last_n": _last_n,
    "top_k": _top_k,
    "decayed_sum": _decayed,
    "decayed_count": _decayed,
    "time_since": _time_since,
}


def _typed(feature: Wanted, found: Any) -> Any:
    if isinstance(found, list):
        return tuple(_scalar(feature.dtype.strip("[]"), each) for each in found)
    if feature.divide_by and feature.function != "mean":
        found = _over(_double(found), feature.divide_by)
    return _scalar(feature.dtype, found)


def _scalar(dtype: str, found: Any) -> Any:
    if dtype in WHOLE:
        return int(found)
    if dtype in FRACTION:
        double = _double(found)
        if dtype == "Float64":
            return double
        return np.float32(0) if abs(double) < 1.1754943508222875e-38 else np.float32(double)
    return _text(found) if dtype == "String" else found

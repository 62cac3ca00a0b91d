"""Hypothesis strategies: any function over any window, filter and column type, on unkind rows."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.aggregations.oracle import Row, Wanted, WantedView
from tests.aggregations.purchases import FILTERS, START, purchase

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
NUMBERS = ("pieces", "cents", "price", "rating", "cost")
WHOLE_NUMBERS = ("pieces", "cents")
TEXTS = ("sku", "pieces", "cents", "gift")
WINDOWS = (None, timedelta(seconds=1), HOUR, 7 * HOUR, timedelta(days=2))

_DEFAULTS: dict[str, Any] = {
    "Int32": -7, "Int64": 0, "Float32": np.float32(0.5), "Float64": np.float64(-1.25),
    "String": "ni'x", "Bool": True, "UnixTimestamp": START,
}  # fmt: skip


def default_of(kind: str) -> Any:
    """A default that no value is by chance."""
    return _DEFAULTS[kind]


@dataclass(frozen=True)
class Drawn:
    """A view, its filters by feature, a history and the moments to ask about."""

    view: WantedView
    filters: dict[str, str]
    rows: tuple[Row, ...]
    moments: tuple[datetime, ...]


def columns_of(function: str, kind: str) -> tuple[str, ...]:
    """The columns from which a function makes a type."""
    if function == "decayed_count":
        return ("",)
    if function in ("count", "time_since"):
        return ("", "sku", "price")
    if function == "count_distinct":
        return ("sku", "pieces", "price", "cost", "gift", "due_at")
    if kind == "Int32":
        return ("pieces",)
    if kind == "Int64":
        return WHOLE_NUMBERS
    return {"String": TEXTS, "Bool": ("gift",), "UnixTimestamp": ("due_at",)}.get(kind, NUMBERS)


_WHOLE, _FRACTIONS = ("Int32", "Int64"), ("Float32", "Float64")
_ORDERED = (*_WHOLE, *_FRACTIONS, "String", "UnixTimestamp")
# Each function with the types that it makes.
MADE: dict[str, tuple[str, ...]] = {
    "count": _WHOLE,
    "count_distinct": _WHOLE,
    "sum": (*_WHOLE, *_FRACTIONS),
    "mean": _FRACTIONS,
    "stddev": _FRACTIONS,
    "min": _ORDERED,
    "max": _ORDERED,
    "first": (*_ORDERED, "Bool"),
    "last": (*_ORDERED, "Bool"),
    "last_n": (*_WHOLE, *_FRACTIONS, "String", "Bool"),
    "top_k": (*_WHOLE, *_FRACTIONS, "String", "Bool"),
    "decayed_sum": _FRACTIONS,
    "decayed_count": _FRACTIONS,
    "time_since": (*_WHOLE, *_FRACTIONS),
}
KINDS = [(function, kind) for function, kinds in MADE.items() for kind in kinds]


@st.composite
def wanted(draw: st.DrawFn, number: int) -> Wanted:
    function, kind = draw(st.sampled_from(KINDS))
    is_list = function in ("last_n", "top_k")
    divides = kind in _FRACTIONS and not is_list
    decays = function.startswith("decayed")
    return Wanted(
        name=f"f{number}",
        function=function,
        column=draw(st.sampled_from(columns_of(function, kind))),
        dtype=f"[{kind}]" if is_list else kind,
        window=draw(st.sampled_from(WINDOWS)),
        meets=None,
        default=(_DEFAULTS[kind],) if is_list else _DEFAULTS[kind],
        limit=draw(st.integers(1, 4)) if is_list else 0,
        divide_by=draw(st.sampled_from((None, 3, 60_000))) if divides else None,
        half_life=draw(st.sampled_from((timedelta(seconds=2), HOUR))) if decays else None,
    )


# Few moments, so that ties in time are common; some to the microsecond at a window's edge.
_times = st.builds(
    lambda hours, step: START + hours * HOUR + step * MICROSECOND,
    st.sampled_from((0, 0, 0, 1, 2, 7, 8, 40, 48)),
    st.sampled_from((0, 0, 0, 0, 1, -1)),
)
_fractions = st.sampled_from(
    (*(0.1, 0.2, 0.3, -0.7, 1e16, 12.5) * 2, 0.0, -0.0, 1e-300, 5e-324, 1e-200)
) | st.sampled_from((*(1e5, 7.7, -1e-3) * 3, float("inf"), float("nan")))


def _or_null(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from((False, True, True, True, True)).flatmap(
        lambda there: values if there else st.none()
    )


_values = st.fixed_dictionaries(
    {
        "order_id": st.sampled_from(("a", "B", "ä", "10", "9", "z", "é", "e\u0301", "b", "Z", "_"))
        | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3),
        "user_id": st.sampled_from((1, 1, 1, 1, 1, 2)),
        "bought_at": _times,
        "lag": st.sampled_from((0, 0, 0, 0, 1, -1)).map(lambda n: n * MICROSECOND)
        | st.sampled_from((timedelta(0), HOUR, 30 * HOUR, -2 * HOUR)),
        "pieces": _or_null(st.integers(-3, 5)),
        "cents": _or_null(st.sampled_from((7, -1, 2**30, 2**59, 2**59 + 1, 2**53 + 1))),
        "price": _or_null(_fractions),
        "rating": _or_null(st.sampled_from((0.0, -0.0, 0.5, -2.25, float(np.float32(0.1))))),
        "cost": _or_null(st.sampled_from(("0.1", "0.10", "1", "12.345", "-7")).map(Decimal)),
        "sku": _or_null(st.sampled_from(("a", "B", "b", "ä", "ａ", "😀", ""))),
        "gift": _or_null(st.booleans()),
        "due_at": _or_null(_times),
    }
)
_histories = st.integers(0, 14).flatmap(
    lambda length: st.lists(_values, min_size=length, max_size=length)
)


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    """A view of up to five features, at most 14 rows, and three moments."""
    features = [draw(wanted(number)) for number in range(1, draw(st.integers(2, 6)))]
    filters: dict[str, str] = {}
    for name in ["", *(each.name for each in features)]:
        if text := draw(st.sampled_from(("", "", *FILTERS))):
            filters[name] = text
    rows = {}
    for number, values in enumerate(draw(_histories)):
        lag = values.pop("lag")
        row = purchase(number, **values, known_at=values["bought_at"] + lag)
        rows[row["order_id"]] = row
    view = WantedView(
        tuple(
            Wanted(**{**each.__dict__, "meets": FILTERS.get(filters.get(each.name, ""))})
            for each in features
        ),
        FILTERS.get(filters.get("", "")),
        draw(st.booleans()),
    )
    edges = [None, *(w for w in WINDOWS if w)]
    moments = [
        draw(_times)
        if not rows or draw(st.booleans())
        else draw(st.sampled_from(sorted(r["bought_at"] for r in rows.values())))
        + (draw(st.sampled_from(edges)) or timedelta(0))
        for _ in range(3)
    ]
    return Drawn(view, filters, tuple(rows.values()), tuple(moments))


@st.composite
def summed(draw: st.DrawFn) -> Drawn:
    """One exact sum over prices whose order matters, stored in another order than they happened."""
    hours = draw(st.permutations(range(6)))
    prices = draw(st.lists(st.sampled_from((0.1, 0.3, 1e16, -1e16)), min_size=6, max_size=6))
    rows = [
        purchase(number, bought_at=START + hour * HOUR, price=price)
        for number, (hour, price) in enumerate(zip(hours, prices, strict=True))
    ]
    total = Wanted("f1", "sum", "price", "Float64", None, None, default_of("Float64"))
    return Drawn(WantedView((total,), None, True), {}, tuple(rows), (START + 6 * HOUR,))

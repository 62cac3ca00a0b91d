"""A dense history of purchases, and views that have every function over every kind of column."""

import random
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np

from tests.aggregations.drawing import HOUR, KINDS, columns_of, default_of
from tests.aggregations.oracle import Row, Wanted, WantedView
from tests.aggregations.purchases import FILTERS, START, purchase

MOMENTS = (START + 20 * HOUR, START + 50 * HOUR, START + 60 * HOUR)
FEATURES_PER_VIEW = 9


def dense_rows(rows: int = 500, seed: int = 7) -> list[Row]:
    """Purchases of three users in 60 hours: many at one moment, some late, some announced."""
    draw = random.Random(seed)
    found = []
    for number in range(rows):
        at = START + draw.randrange(60) * HOUR + draw.choice((0, 0, 1)) * timedelta(microseconds=1)
        lag = draw.choice((0, 0, 0, 1, 30, -2)) * HOUR
        row = purchase(
            number,
            user_id=draw.choice((1, 2, 3)),
            bought_at=at,
            known_at=at + lag,
            pieces=draw.randrange(-3, 6),
            cents=draw.choice((7, -1, 2**30, 2**50 + 1)),
            price=draw.uniform(-1e3, 1e3),
            rating=float(np.float32(draw.uniform(-5, 5))),
            cost=Decimal(draw.randrange(-999, 999)) / 100,
            sku=draw.choice(("a", "B", "b", "ä", "ａ", "😀", "")),
            gift=draw.random() < 0.5,
            due_at=at + draw.randrange(9) * HOUR,
        )
        if draw.random() < 0.1:
            row[draw.choice(("pieces", "cents", "price", "sku", "gift"))] = None
        found.append(row)
    return found


def dense_views() -> dict[str, tuple[WantedView, dict[str, str]]]:
    """Views by name, with their filters: every function with every type and column once."""
    draw = random.Random(3)
    every = [
        (function, kind, column)
        for function, kind in KINDS
        for column in columns_of(function, kind)
    ]
    draw.shuffle(every)
    found = {}
    for start in range(0, len(every), FEATURES_PER_VIEW):
        chunk = every[start : start + FEATURES_PER_VIEW]
        number = start // FEATURES_PER_VIEW
        endless = number % 4 == 3
        filters = {f"f{i}": draw.choice(list(FILTERS)) for i in range(len(chunk)) if i % 3 == 0}
        if number % 3 == 1:
            filters[""] = draw.choice(list(FILTERS))
        features = tuple(
            _feature(f"f{i}", *one, None if endless else draw.choice((3, 9, 24)) * HOUR, filters)
            for i, one in enumerate(chunk)
        )
        view = WantedView(features, FILTERS.get(filters.get("", "")), has_id=number % 2 == 0)
        found[f"{number}: {', '.join(sorted({each.function for each in features}))}"] = (
            view,
            filters,
        )
    return found


def _feature(
    name: str,
    function: str,
    kind: str,
    column: str,
    window: timedelta | None,
    filters: dict[str, str],
) -> Wanted:
    is_list = function in ("last_n", "top_k")
    default = default_of(kind)
    return Wanted(
        name=name,
        function=function,
        column=column,
        dtype=f"[{kind}]" if is_list else kind,
        window=window,
        meets=FILTERS.get(filters.get(name, "")),
        default=(default,) if is_list else default,
        limit=3 if is_list else 0,
        divide_by=60_000 if kind == "Float32" and function == "mean" else None,
        half_life=HOUR if function.startswith("decayed") else None,
    )


def questions() -> list[tuple[tuple[int], datetime]]:
    return [((user,), at) for user in (1, 2, 3) for at in MOMENTS]

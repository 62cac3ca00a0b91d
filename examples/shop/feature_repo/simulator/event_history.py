"""The seeded history: what visitors did, what they ordered, how the catalogue changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.messages import EPOCH
from feature_repo.simulator.shop import CATEGORIES, Ints, texts, uuids
from feature_repo.simulator.simulation import DAY, HOUR, MILLI, SECOND, Simulation

ROWS_PER_BATCH = 65_536
STATUSES = np.array(["paid", "invoiced", "declined"], object)
STATUS_SHARES = (0.85, 0.09, 0.06)
# Monday to Sunday, relative to the busiest day.
_WEEKDAYS = np.array([0.8, 0.75, 0.75, 0.8, 0.85, 0.95, 1.0])

_TIME = pa.timestamp("us", tz="UTC")
SCHEMAS = {
    "products": pa.schema(
        [
            pa.field("lsn", pa.int64(), nullable=False),
            pa.field("sku", pa.string(), nullable=False),
            pa.field("category", pa.string()),
            pa.field("price", pa.decimal128(12, 2)),
            pa.field("deleted", pa.bool_(), nullable=False),
            pa.field("changed_at", _TIME, nullable=False),
            pa.field("ingested_at", _TIME, nullable=False),
        ]
    ),
    "page_views": pa.schema(
        [
            pa.field("view_id", pa.string(), nullable=False),
            pa.field("visitor_id", pa.string(), nullable=False),
            pa.field("sku", pa.string(), nullable=False),
            pa.field("act", pa.string(), nullable=False),
            pa.field("viewed_at", _TIME, nullable=False),
            pa.field("ingested_at", _TIME, nullable=False),
        ]
    ),
    "orders": pa.schema(
        [
            pa.field("order_id", pa.string(), nullable=False),
            pa.field("visitor_id", pa.string(), nullable=False),
            pa.field("sku", pa.string(), nullable=False),
            pa.field("amount", pa.decimal128(12, 2), nullable=False),
            pa.field("quantity", pa.int16(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("ordered_at", _TIME, nullable=False),
            pa.field("ingested_at", _TIME, nullable=False),
        ]
    ),
}
TIMES = {"products": "changed_at", "page_views": "viewed_at", "orders": "ordered_at"}


@dataclass(frozen=True)
class Columns:
    """The rows of one source in order of arrival, as numpy columns.

    Times are in microseconds, money in cents. ``op`` (of products) is no column of the table.
    """

    source: str
    values: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.values["ingested_at"])

    def batches(self, rows: int = ROWS_PER_BATCH) -> Iterator[pa.RecordBatch]:
        """The rows in Arrow (`SCHEMAS`), ``rows`` to a batch."""
        schema = SCHEMAS[self.source]
        for begin in range(0, len(self), rows):
            arrays = [self._arrow(field, slice(begin, begin + rows)) for field in schema]
            yield pa.record_batch(arrays, schema=schema)

    def rows(self, places: Ints) -> list[dict[str, Any]]:
        """Rows as Python's values, by column; products' with their ``op``."""
        found = {}
        for name, values in self.values.items():
            told = values[places].tolist()
            if name == TIMES[self.source] or name == "ingested_at":
                told = [EPOCH + timedelta(microseconds=moment) for moment in told]
            elif name in ("price", "amount"):
                told = [None if cents is None else Decimal(cents).scaleb(-2) for cents in told]
            found[name] = told
        return [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]

    def _arrow(self, field: pa.Field, part: slice) -> pa.Array:
        values = self.values[field.name][part]
        if pa.types.is_decimal(field.type):
            cents = [None if each is None else Decimal(each).scaleb(-2) for each in values.tolist()]
            return pa.array(cents, field.type)
        return pa.array(values, field.type)


class Event(NamedTuple):
    """A delivery: its source, and its row by column; ``op`` is of products alone."""

    source: str
    row: dict[str, Any]


def columns_by_source(simulation: Simulation) -> dict[str, Columns]:
    """The whole history of each source, in order of arrival."""
    views, orders = _visits(simulation)
    return {
        "products": _delivered(simulation, "products", _changes(simulation), 5),
        "page_views": _delivered(simulation, "page_views", views, 6),
        "orders": _delivered(simulation, "orders", orders, 7),
    }


def events(simulation: Simulation, rows: int = 8_192) -> Iterator[Event]:
    """The deliveries of all sources in one order of arrival; memory holds ``rows`` of them."""
    columns = simulation.columns
    names = list(columns)
    arrivals = np.concatenate([columns[name].values["ingested_at"] for name in names])
    sources = np.repeat(np.arange(len(names)), [len(columns[name]) for name in names])
    places = np.concatenate([np.arange(len(columns[name])) for name in names])
    order = np.argsort(arrivals, kind="stable")
    for begin in range(0, len(order), rows):
        part = order[begin : begin + rows]
        told = {
            number: iter(columns[name].rows(places[part[sources[part] == number]]))
            for number, name in enumerate(names)
        }
        for number in sources[part].tolist():
            yield Event(names[number], next(told[number]))


def _changes(simulation: Simulation) -> dict[str, npt.NDArray[Any]]:
    shop = simulation.shop
    deleted = shop.change_op == "d"
    category, price = CATEGORIES[shop.change_category], shop.change_price.astype(object)
    category[deleted] = None
    price[deleted] = None
    return {
        "lsn": shop.change_lsn,
        "sku": shop.skus[shop.change_product],
        "category": category,
        "price": price,
        "deleted": deleted,
        "changed_at": shop.change_at,
        "op": shop.change_op.astype(object),
    }


def _visits(
    simulation: Simulation,
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Page views with changes of carts, and order lines; each in no particular order."""
    shop, until = simulation.shop, simulation.until_us
    rng = simulation.generator(3)
    visitors = shop.draw_visitors(rng, simulation.views)
    moments = _moments(simulation, rng, visitors)
    products = shop.draw_products(rng, visitors, moments)

    def follow(base: Ints, share: float, least: int, most: int) -> tuple[Ints, Ints]:
        """Indexes of those that are followed by something, and when, before the end."""
        chosen = np.flatnonzero(rng.random(len(base)) < share)
        at = base[chosen] + rng.integers(least, most, len(chosen))
        return chosen[at < until], at[at < until]

    added, added_at = follow(moments, simulation.cart_share, 5 * SECOND, 300 * SECOND)
    added_at = added_at // MILLI * MILLI
    of_add, ordered_at = follow(added_at, simulation.order_share, 60 * SECOND, 5_400 * SECOND)
    kept = np.ones(len(added), bool)
    kept[of_add] = False
    left, left_at = follow(added_at, 0.4, 30 * SECOND, 7_200 * SECOND)
    left, left_at = left[kept[left]], left_at[kept[left]] // MILLI * MILLI

    who = np.concatenate([visitors, visitors[added], visitors[added[left]]])
    what = np.concatenate([products, products[added], products[added[left]]])
    when = np.concatenate([moments, added_at, left_at])
    acts = np.repeat(
        np.array(["view", "add", "remove"], object), [len(visitors), len(added), len(left)]
    )
    views = {
        "view_id": texts(uuids(rng, when)),
        "visitor_id": shop.visitors[who],
        "sku": shop.skus[what],
        "act": acts,
        "viewed_at": when,
    }
    bought = added[of_add]
    quantity = np.minimum(rng.geometric(0.75, len(bought)), 20)
    orders = {
        "order_id": texts(uuids(rng, ordered_at)),
        "visitor_id": shop.visitors[visitors[bought]],
        "sku": shop.skus[products[bought]],
        "amount": (shop.price_at(products[bought], ordered_at) * quantity).astype(object),
        "quantity": quantity,
        "status": STATUSES[rng.choice(3, len(bought), p=STATUS_SHARES)],
        "ordered_at": ordered_at,
    }
    return views, orders


def _moments(simulation: Simulation, rng: np.random.Generator, visitors: Ints) -> Ints:
    """When each visit was, in microseconds (whole milliseconds): by weekday and preferred hour."""
    starts = simulation.start_us + np.arange(simulation.days) * DAY
    weights = _WEEKDAYS[(starts // DAY + 3) % 7]
    day = rng.choice(simulation.days, len(visitors), p=weights / weights.sum())
    hour = (simulation.shop.draw_hours(rng, visitors) * HOUR).astype(np.int64)
    moments: Ints = (starts[day] + (hour - starts[day]) % DAY) // MILLI * MILLI
    return moments


def _delivered(
    simulation: Simulation, source: str, values: dict[str, npt.NDArray[Any]], purpose: int
) -> Columns:
    """With arrivals and duplicates, in order of arrival."""
    rng = simulation.generator(purpose)
    happened = values[TIMES[source]].astype(np.int64)
    count = len(happened)
    arrival = happened + _lag(simulation, rng, happened)
    copies = rng.choice(count, round(count * simulation.duplicate_share), replace=False)
    gap = (rng.lognormal(np.log(30), 1.5, len(copies)) * SECOND).astype(np.int64)
    remaining = simulation.until_us - arrival[copies]
    again = arrival[copies] + np.where(gap > remaining, (rng.random(len(gap)) * remaining), gap)
    place = np.concatenate([np.arange(count), copies])
    arrival = np.concatenate([arrival, again.astype(np.int64)])
    # Of one instant the first delivery comes before its copy.
    order = np.lexsort((np.arange(len(place)), arrival))
    found = {name: each[place[order]] for name, each in values.items()}
    return Columns(source, {**found, "ingested_at": arrival[order]})


def _lag(simulation: Simulation, rng: np.random.Generator, happened: Ints) -> Ints:
    """Microseconds until arrival: seconds, or hours to a week for the late ones."""
    count = len(happened)
    ordinary = (rng.lognormal(np.log(2), 0.8, count) * SECOND).astype(np.int64)
    offline = (rng.lognormal(np.log(6), 1.2, count) * HOUR).astype(np.int64)
    late = rng.random(count) < simulation.late_share
    lag = np.where(late, np.clip(offline, HOUR // 4, 7 * DAY), ordinary)
    # What would come after the end came in time, or else at any moment before it.
    remaining = simulation.until_us - happened
    lag = np.where(lag > remaining, ordinary, lag)
    return np.where(lag > remaining, (rng.random(count) * remaining).astype(np.int64), lag)

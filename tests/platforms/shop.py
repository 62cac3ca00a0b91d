"""The shop: random visitors, and in plain Python what is true of them."""

import io
import json
import math
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import fastavro
import numpy as np

from tests.platforms.description import (
    Keys,
    Platform,
    Routes,
    Row,
    Rows,
    SecondVersion,
    copy_repository,
)
from tests.versions.repositories import Repository

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "shop"
_DAY = timedelta(days=1)
VISITORS = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"visitor {n}")) for n in range(6)]
# Look-alikes, and what a text protocol might trip over.
SKUS = ["A-1", "a-1", "A-01", "É", "E\u0301", 'q"{},\\', "7", "x" * 40]
STATUSES = ["paid", "paid", "invoiced", "declined"]
CATEGORIES = ["shoes", "books", "tea"]
_ORDER_SCHEMA = {
    "type": "record",
    "name": "OrderLine",
    "namespace": "shop",
    "fields": [
        {"name": "orderId", "type": "string"},
        {"name": "visitorId", "type": "string"},
        {"name": "sku", "type": "string"},
        {
            "name": "amount",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2},
        },
        {"name": "quantity", "type": "int"},
        {
            "name": "status",
            "type": {
                "type": "enum",
                "name": "OrderStatus",
                "symbols": ["paid", "invoiced", "declined"],
            },
        },
        {"name": "orderedAt", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}


def history(rng: Random, end: datetime) -> Rows:
    """Rows of 45 days before ``end``, by whole hours; some arrive days late, some early."""

    def times() -> tuple[datetime, datetime]:
        at = end - timedelta(hours=rng.randint(0, 45 * 24))
        late = rng.choice([0, 0, 0, 1, 1, -90, 60, 3600, 86400 * 3])
        return at, at + timedelta(seconds=late)

    def lines(number: int) -> Iterator[tuple[str, str, str, datetime, datetime]]:
        for n in range(number):
            yield f"id{n:04}", rng.choice(VISITORS[:5]), rng.choice(SKUS[:7]), *times()

    views = [
        {
            "view_id": each, "visitor_id": visitor, "sku": sku, "viewed_at": at,
            "ingested_at": known, "act": rng.choice(["view", "view", "view", "add", "remove"]),
        }
        for each, visitor, sku, at, known in lines(260)
    ]  # fmt: skip
    orders = [
        {
            "order_id": each, "visitor_id": visitor, "sku": sku, "ordered_at": at,
            "ingested_at": known, "amount": Decimal(rng.randint(0, 99999)) / 100,
            "quantity": rng.randint(1, 3), "status": rng.choice(STATUSES),
        }
        for each, visitor, sku, at, known in lines(90)
    ]  # fmt: skip
    changes = []
    for lsn, (_, _, sku, at, known) in enumerate(lines(60)):
        gone = rng.random() < 0.25
        changes.append(
            {
                "lsn": lsn, "sku": sku, "changed_at": at, "ingested_at": known, "deleted": gone,
                "category": None if gone else rng.choice(CATEGORIES),
                "price": None if gone else Decimal(rng.randint(0, 99999)) / 100,
            }
        )  # fmt: skip
    found = {"page_views": views, "orders": orders, "products": changes}
    return {name: sorted(rows, key=lambda row: row["ingested_at"]) for name, rows in found.items()}


def _known(rows: Rows, source: str, as_of: datetime, days: int | None, **equal: str) -> list[Row]:
    time = {"page_views": "viewed_at", "orders": "ordered_at", "products": "changed_at"}[source]
    return [
        row
        for row in rows[source]
        if row[time] <= as_of
        and row["ingested_at"] <= as_of
        and (days is None or row[time] > as_of - days * _DAY)
        and all(row[name] == value for name, value in equal.items())
    ]


def _bought(rows: Rows, as_of: datetime, days: int | None, **equal: str) -> list[Row]:
    """Order lines whose payment was not declined."""
    lines = _known(rows, "orders", as_of, days, **equal)
    return [each for each in lines if each["status"] != "declined"]


def visitor_spend(rows: Rows, keys: Keys, as_of: datetime) -> tuple[Any, ...]:
    """Cents, order lines and units of 30 days."""
    bought = _bought(rows, as_of, 30, visitor_id=keys[0])
    cents = sum(int(each["amount"] * 100) for each in bought)
    return cents, len(bought), sum(each["quantity"] for each in bought)


def visitor_recent(rows: Rows, keys: Keys, as_of: datetime) -> tuple[Any, ...]:
    """Products, the latest first, of one time in order of their names."""
    latest: dict[str, datetime] = {}
    for each in _known(rows, "page_views", as_of, 30, visitor_id=keys[0], act="view"):
        latest[each["sku"]] = max(each["viewed_at"], latest.get(each["sku"], each["viewed_at"]))
    by_name = sorted(latest, key=str.encode)
    return (tuple(sorted(by_name, key=lambda sku: latest[sku], reverse=True)[:20]),)


def visitor_cart(rows: Rows, keys: Keys, as_of: datetime) -> tuple[Any, ...]:
    """Something went in last, and was not bought."""
    views = _known(rows, "page_views", as_of, None, visitor_id=keys[0])
    cart = [row for row in views if row["act"] != "view"]
    if not cart:
        return (False,)
    last = max(cart, key=lambda row: (row["viewed_at"], row["view_id"]))
    bought = _bought(rows, as_of, None, visitor_id=keys[0])
    return (last["act"] == "add" and all(row["ordered_at"] < last["viewed_at"] for row in bought),)


def visitor_last_order(rows: Rows, keys: Keys, as_of: datetime) -> tuple[Any, ...]:
    """Hours, or -1."""
    bought = _bought(rows, as_of, 365, visitor_id=keys[0])
    if not bought:
        return (np.float32(-1),)
    return (np.float32(_seconds(as_of - max(row["ordered_at"] for row in bought)) / 3600),)


def product_conversion(rows: Rows, keys: Keys, as_of: datetime) -> tuple[Any, ...]:
    """Views, orders and their ratio."""
    views = len(_known(rows, "page_views", as_of, 14, sku=keys[0], act="view"))
    orders = len(_bought(rows, as_of, 14, sku=keys[0]))
    return views, orders, np.float32(orders / views if views else 0)


def product_popularity(rows: Rows, keys: Keys, as_of: datetime) -> tuple[Any, ...]:
    """A sum in order of time and id."""
    views = _known(rows, "page_views", as_of, 14, sku=keys[0], act="view")
    score = 0.0
    for each in sorted(views, key=lambda row: (row["viewed_at"], row["view_id"])):
        score += math.exp(_seconds(as_of - each["viewed_at"]) / -259200)
    return (score,)


def product_profile(rows: Rows, keys: Keys, as_of: datetime) -> tuple[Any, ...]:
    """Category and cents of the last change, unless that ended it."""
    known = _known(rows, "products", as_of, None, sku=keys[0])
    last = max(known, key=lambda row: (row["changed_at"], row["lsn"]), default=None)
    if last is None or last["deleted"]:
        return "unknown", -1
    return last["category"], int(last["price"] * 100)


def visitor_product(rows: Rows, keys: Keys, as_of: datetime) -> tuple[Any, ...]:
    """Views of the pair."""
    pair = {"visitor_id": keys[0], "sku": keys[1]}
    return (len(_known(rows, "page_views", as_of, 30, act="view", **pair)),)


def entities(rows: Rows, join_keys: tuple[str, ...]) -> list[Keys]:
    """All of them, also those without a row."""
    if join_keys == ("visitor_id",):
        return [(visitor,) for visitor in VISITORS]
    if join_keys == ("sku",):
        return [(sku,) for sku in SKUS]
    return [(visitor, sku) for visitor in VISITORS for sku in SKUS]


def message(source: str, row: Row) -> bytes:
    """JSON, Avro or a change of Debezium's."""
    if source == "page_views":
        return json.dumps(
            {
                "viewId": row["view_id"], "visitorId": row["visitor_id"], "sku": row["sku"],
                "act": row["act"], "viewedAt": row["viewed_at"].isoformat(),
            }
        ).encode()  # fmt: skip
    if source == "orders":
        line = {
            "orderId": row["order_id"], "visitorId": row["visitor_id"], "sku": row["sku"],
            "amount": row["amount"], "orderedAt": row["ordered_at"],
            "quantity": row["quantity"], "status": row["status"],
        }  # fmt: skip
        out = io.BytesIO()
        fastavro.schemaless_writer(out, _ORDER_SCHEMA, line)
        return out.getvalue()
    told = {"sku": row["sku"], "category": row["category"], "price": str(row["price"])}
    at = round(row["changed_at"].timestamp() * 1000)
    change: dict[str, Any] = {"source": {"lsn": row["lsn"], "ts_ms": at}, "ts_ms": at}
    if row["deleted"]:
        change |= {"op": "d", "before": {"sku": row["sku"]}, "after": None}
    else:
        change |= {"op": "c", "before": None, "after": told}
    return json.dumps(change).encode()


def _seconds(age: timedelta) -> float:
    return (age // timedelta(microseconds=1)) / 1e6


ORACLE = {
    oracle.__name__: oracle
    for oracle in (
        visitor_spend, visitor_recent, visitor_cart, visitor_last_order, product_conversion,
        product_popularity, product_profile, visitor_product,
    )
}  # fmt: skip


def _declare(repository: Repository) -> None:
    repository.edit(
        "views.py",
        """    freshness="realtime",
    reads="products",
""",
        """    version=2,
    freshness="realtime",
    reads="products",
""",
    )


ROUTES = Routes(
    page="start_page",
    page_path=lambda visitor: f"/v1/shop/visitor/{visitor}",
    page_names=("visitorId", "features"),
    rank="offers",
    rank_path="/v1/shop/offers",
    rank_names=("visitorId", "skus", "sku"),
    groups=("visitorFeatures", "productFeatures", "pairFeatures"),
    context=("coupon_cents", "couponCents", 1_000),
)
# Prices three times as high.
SECOND = SecondVersion(
    view="product_profile",
    feature="price_cents",
    old="coalesce(p.price_cents, -1::bigint)",
    new="coalesce(3 * p.price_cents, -1::bigint)",
    answer=lambda answer: (answer[0], answer[1] * 3 if answer[1] >= 0 else -1),
    declare=_declare,
)
PLATFORM = Platform(
    copy=partial(copy_repository, FOLDER),
    parameters={"visitors": 30, "products": 30, "days": 40, "views": 2_500, "seed": 5},
    history=history,
    oracle=ORACLE,
    entities=entities,
    message=message,
    refused=("page_views", [{"visitor_id": "nobody"}, {"sku": ""}, {"act": "steal"}]),
    bad={
        "page_views": [b"{", b'{"viewId": "x"}', b"\xff"],
        "orders": [b"\xff", b""],
        "products": [b"{", b'{"op": "c"}'],
    },
    # What Debezium sends behind a delete.
    silent={"products": [None]},
    routes=ROUTES,
    second=SECOND,
)

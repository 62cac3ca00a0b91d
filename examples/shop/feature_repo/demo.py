"""What `skewless demo` shows of this shop: labels, requests, live orders and a file.

The engine imports this module by its name (``feature_repo.demo``) and uses what it defines:
``LABELS`` (SQL over the history, with ``event_timestamp``), ``SERVICE``, and `Demo`, made from the
labels.
"""

import csv
import io
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd

from feature_repo.messages import TOPICS, message

LABELS = """
SELECT
    v.visitor_id, v.sku, v.viewed_at AS event_timestamp, 0::bigint AS coupon_cents,
    (EXISTS (
        SELECT FROM orders AS o
        WHERE o.visitor_id = v.visitor_id AND o.sku = v.sku AND o.status <> 'declined'
            AND o.ordered_at BETWEEN v.viewed_at AND v.viewed_at + interval '2 hours'
    ))::int AS bought
FROM page_views AS v
WHERE v.act = 'view' AND v.viewed_at > now() - interval '20 hours' LIMIT 10000
"""
SERVICE = "offers"

_OFFERED_PRODUCTS = 100


class Demo:
    """One visitor of the labels, and products to offer to that visitor.

    Attributes:
        value: The feature that is watched; `page` and `count` say where it is served.
        topic: Where live orders are sent.
        source: The history source that the file is imported into.
    """

    value = "orders_30d"
    topic = TOPICS["orders"]
    source = "orders"

    def __init__(self, labels: pd.DataFrame) -> None:
        self._visitor = str(labels["visitor_id"].mode()[0])
        self._skus = [str(sku) for sku in labels["sku"].unique()[:_OFFERED_PRODUCTS]]
        self.page = f"/v1/shop/visitor/{self._visitor}"

    def requests(self) -> dict[str, tuple[str, Any]]:
        """By what they are: a path, and the body of a POST or None."""
        context = {"couponCents": 500}
        offers = {"visitorId": self._visitor, "skus": self._skus, "context": context}
        return {
            "one visitor": (self.page, None),
            f"offering {len(self._skus)} products": ("/v1/shop/offers", offers),
        }

    def count(self, reply: Any) -> int:
        """The watched value, of a reply of `page`."""
        return int(reply["features"][self.value])

    def event(self, number: int) -> tuple[bytes, bytes]:
        """Key and value of a live order line, which makes the watched value larger by one."""
        line = {
            "order_id": f"demo-{number}",
            "visitor_id": self._visitor,
            "sku": self._skus[number % len(self._skus)],
            "amount": Decimal("12.50"),
            "quantity": 1,
            "status": "paid",
            "ordered_at": datetime.now(UTC),
        }
        sent = message("orders", line)
        assert sent.value is not None
        return sent.key, sent.value

    def file(self, rows: int) -> tuple[str, int]:
        """A CSV file of yesterday's orders, and by how much it makes the value larger."""
        day_before = datetime.now(UTC) - timedelta(days=1)
        out = io.StringIO()
        lines = csv.writer(out)
        lines.writerow(["visitor_id", "sku", "ordered_at", "amount"])
        mine = 0
        for number in range(rows):
            visitor = self._visitor if number % 4 == 0 else str(uuid.uuid4())
            mine += visitor == self._visitor
            at = day_before + timedelta(seconds=number)
            sku = self._skus[number % len(self._skus)]
            lines.writerow([visitor, sku, at.isoformat(), "30.00"])
        return out.getvalue(), mine

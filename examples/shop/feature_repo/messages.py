"""The streams' messages: rows of the tables as browsers, the checkout and Debezium send them.

The simulator and the demo send these. `skewless replay --from` makes page views and order lines of
stored rows by their streams' mapping alone, and changes of the catalogue by `product_change`.
"""

import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import fastavro

from feature_repo.schemas import ORDER

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TOPICS = {"page_views": "shop-page-views", "orders": "shop-orders", "products": "shop-catalogue"}
_ORDER = fastavro.parse_schema(json.loads(ORDER))


class Message(NamedTuple):
    """What a producer hands to Kafka; a ``value`` of None is the tombstone behind a delete."""

    topic: str
    key: bytes
    value: bytes | None


def page_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a browser sends; times in milliseconds where they are whole ones."""
    return {
        "viewId": row["view_id"],
        "visitorId": row["visitor_id"],
        "sku": row["sku"],
        "act": row["act"],
        "viewedAt": _iso(row["viewed_at"]),
    }


def order_line(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkout writes of a line."""
    return {
        "orderId": row["order_id"],
        "visitorId": row["visitor_id"],
        "sku": row["sku"],
        "amount": Decimal(row["amount"]),
        "quantity": row["quantity"],
        "status": row["status"],
        "orderedAt": row["ordered_at"],
    }


def product_change(row: Mapping[str, Any]) -> dict[str, Any]:
    """What Debezium captures of a table with PostgreSQL's default replica identity.

    A delete knows of the row its key alone, an update nothing of the row before. ``op`` of the
    row is c (new) or u (changed); a row that does not say it is new.
    """
    at_us = (row["changed_at"] - EPOCH) // timedelta(microseconds=1)
    told = {"sku": row["sku"], "category": row["category"], "price": None}
    if row["price"] is not None:
        told["price"] = str(row["price"])
    deleted = row["deleted"]
    return {
        "op": "d" if deleted else row.get("op", "c"),
        "before": told if deleted else None,
        "after": None if deleted else told,
        "source": {
            "connector": "postgresql", "schema": "public", "table": "products",
            "lsn": row["lsn"], "ts_ms": at_us // 1_000, "ts_us": at_us,
        },
        "ts_ms": at_us // 1_000,
    }  # fmt: skip


def message(source: str, row: Mapping[str, Any]) -> Message:
    """A row of a source (its columns by name) as its stream's message."""
    topic = TOPICS[source]
    if source == "page_views":
        return Message(topic, row["visitor_id"].encode(), _json(page_view(row)))
    if source == "orders":
        out = io.BytesIO()
        fastavro.schemaless_writer(out, _ORDER, order_line(row))
        return Message(topic, row["visitor_id"].encode(), out.getvalue())
    return Message(topic, _json({"sku": row["sku"]}), _json(product_change(row)))


def tombstone(change: Message) -> Message:
    """What Debezium sends behind a delete, so that a compacted topic forgets the key."""
    return change._replace(value=None)


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, ensure_ascii=False).encode()


def _iso(moment: datetime) -> str:
    unit = "microseconds" if moment.microsecond % 1_000 else "milliseconds"
    return moment.astimezone(UTC).isoformat(timespec=unit).removesuffix("+00:00") + "Z"

"""The schemas of the streams' messages, for who sends them and for who reads them."""

import json

PAGE_VIEW = json.dumps(
    {
        "type": "object",
        "properties": {
            "viewId": {"type": "string", "minLength": 1, "maxLength": 100},
            "visitorId": {"type": "string", "format": "uuid"},
            "sku": {"type": "string", "minLength": 1, "maxLength": 40},
            "act": {"enum": ["view", "add", "remove"]},
            "viewedAt": {"type": "string"},
        },
        "required": ["viewId", "visitorId", "sku", "viewedAt"],
    }
)

ORDER = json.dumps(
    {
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
)

# Debezium's JSON converter with `decimal.handling.mode=string`: the row, without the envelope.
PRODUCT = json.dumps(
    {
        "type": "object",
        "properties": {
            "sku": {"type": "string", "minLength": 1, "maxLength": 40},
            "category": {"type": "string", "minLength": 1},
            "price": {"type": "string", "pattern": "^[0-9]{1,10}([.][0-9]{1,2})?$"},
        },
        "required": ["sku", "category", "price"],
    }
)

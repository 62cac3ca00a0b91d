"""Streams' messages: their JSON Schemas, and what a mapping of names cannot say."""

import json
from typing import Any

from feast import Entity, ValueType

from feature_repo.entities import item, user


def _id(entity: Entity) -> dict[str, Any]:
    """An id's schema, as the entity's value type says.

    Whole numbers are taken as text too, since JavaScript holds no large integer.
    """
    if entity.value_type == ValueType.STRING:
        return {"type": "string"}
    return {"type": ["integer", "string"], "minimum": 0, "pattern": "^(0|[1-9][0-9]*)$"}


WATCH_EVENT = json.dumps(
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["userId", "itemId", "watchDurationMin", "progress"],
        "properties": {
            "eventId": {"type": ["string", "null"], "minLength": 1, "maxLength": 256},
            "userId": _id(user),
            "itemId": _id(item),
            "watchDurationMin": {"type": "number", "minimum": 0, "maximum": 24 * 60},
            "progress": {"type": "number", "minimum": 0, "maximum": 1},
            "watchedAt": {"type": ["string", "integer", "null"]},
        },
    }
)


def watch_event(fields: dict[str, Any]) -> dict[str, Any]:
    """Minutes, as published, to the whole milliseconds that are stored."""
    fields["watchDurationMin"] = round(fields["watchDurationMin"] * 60_000)
    return fields


def published_event(columns: dict[str, Any]) -> dict[str, Any]:
    """A stored watch in the published shape, for replay."""
    return {
        "eventId": columns["event_id"],
        "userId": columns["user_id"],
        "itemId": columns["item_id"],
        "watchedAt": columns["watched_at"],
        "watchDurationMin": columns["duration_ms"] / 60_000,
        "progress": columns["progress"],
    }

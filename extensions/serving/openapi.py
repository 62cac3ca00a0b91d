"""The OpenAPI document of the hot routes, and a page that shows it. Feast's own is at /docs."""

from typing import Any

from extensions.serving.settings import Settings

_ID = {"oneOf": [{"type": "integer"}, {"type": "string"}]}
_FEATURES = {"type": "object", "additionalProperties": True}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message"],
            "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
        }
    },
}
_LAYOUT = {"type": "string", "enum": ["rows", "columns"]}
_INCLUDE = {
    "name": "include", "in": "query", "required": False,
    "schema": {"type": "string", "enum": ["meta"]},
}  # fmt: skip

PAGE = b"""<!doctype html><meta charset="utf-8"><title>Skewless</title>
<h1>Skewless</h1><p>The hot routes are described in <a href="/v1/openapi.json">OpenAPI</a>;
Feast's own routes in <a href="/docs">its pages</a>.</p>"""


def document(settings: Settings) -> dict[str, Any]:
    """OpenAPI 3.1 of ``/v1``."""
    ranking = {
        "type": "object",
        "required": ["userId", "itemIds"],
        "additionalProperties": False,
        "properties": {
            "userId": _ID,
            "itemIds": {"type": "array", "items": _ID, "maxItems": settings.max_items},
            "context": _FEATURES,
            "layout": _LAYOUT,
        },
    }
    batch = {
        "type": "object",
        "required": ["service", "entities"],
        "additionalProperties": False,
        "properties": {
            "service": {"type": "string"},
            "entities": {"type": "array", "items": _FEATURES, "maxItems": settings.max_items},
            "context": _FEATURES,
            "layout": _LAYOUT,
        },
    }
    user = {**_INCLUDE, "name": "user_id", "in": "path", "required": True, "schema": _ID}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Skewless", "version": "1"},
        "paths": {
            "/v1/features/user/{user_id}": {
                "get": {
                    "summary": "A user's own features",
                    "parameters": [user, _INCLUDE],
                    "responses": _responses(["userId", "features", "latencyMs"]),
                }
            },
            "/v1/features/rank": {
                "post": {
                    "summary": "Features to rank items for a user, in the order asked",
                    "parameters": [_INCLUDE],
                    "requestBody": _body(ranking),
                    "responses": _responses(["userId", "userFeatures", "latencyMs"]),
                }
            },
            "/v1/features": {
                "post": {
                    "summary": "Features of any service for entity rows",
                    "parameters": [_INCLUDE],
                    "requestBody": _body(batch),
                    "responses": _responses(["service", "latencyMs"]),
                }
            },
        },
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _responses(required: list[str]) -> dict[str, Any]:
    reply = {"type": "object", "required": required}
    found: dict[str, Any] = {
        "200": {"description": "Found", "content": {"application/json": {"schema": reply}}}
    }
    for status, what in (
        (400, "Not JSON"), (401, "No token or key"), (403, "Not permitted"),
        (404, "No such service"), (409, "The service cannot be served"), (413, "Too large"),
        (422, "A field is not as it must be"), (503, "Redis does not answer, or too many requests"),
    ):  # fmt: skip
        found[str(status)] = {
            "description": what,
            "content": {"application/json": {"schema": _ERROR}},
        }
    return found

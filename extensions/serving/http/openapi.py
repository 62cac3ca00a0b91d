"""The OpenAPI document of our own routes; `routes.feast_app` merges Feast's into it, for /docs."""

from typing import Any

from extensions.serving.settings import Settings

MOST = 2**63
ARROW, MSGPACK = "application/vnd.apache.arrow.stream", "application/msgpack"
# Feast's own descriptions of routes that this server answers itself.
HIDDEN = ("/health",)

_TEXT = {"type": "string"}
_ID = {
    "oneOf": [
        {"type": "integer", "minimum": -MOST, "maximum": MOST - 1},
        {"type": "string", "maxLength": 10_240},
    ]
}
_FEATURES = {"type": "object", "additionalProperties": True}
_COLUMN = {"type": "array", "items": {}}
_COLUMNS = {"type": "object", "additionalProperties": _COLUMN}
_MILLISECONDS = {"type": "number", "minimum": 0}
_LAYOUT = {"type": "string", "enum": ["rows", "columns"], "default": "rows"}
_INCLUDE = {
    "name": "include", "in": "query", "required": False,
    "description": "meta: per view its version, as-of time, status and definition.",
    "schema": {"type": "string", "enum": ["meta"]},
}  # fmt: skip
_STATUS = {"type": "string", "enum": ["fresh", "stale", "default"]}
_MOMENT = {"type": ["string", "null"], "format": "date-time"}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _either(one: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [one, {"type": "array", "items": one}]}


_META = {"type": "object", "additionalProperties": _ref("ViewMeta")}
_CONTEXT = {
    "type": "object",
    "description": "What transforms read of the request itself; requestHour is now, if left out.",
    "additionalProperties": True,
    "examples": [{"requestHour": 21}],
}


def document(settings: Settings) -> dict[str, Any]:
    """OpenAPI 3.1 of ``/v1``, ``/health``, ``/ready`` and ``/metrics``."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Skewless",
            "version": "1",
            "description": "Features online: ours under /v1, and all of Feast's own routes.",
        },
        "tags": [
            {"name": "features", "description": "What models and pages ask for."},
            {"name": "operations", "description": "What operators ask."},
            {"name": "feast", "description": "Feast's own routes, for Feast's own clients."},
        ],
        "paths": {**_features(settings), **_operations()},
        "components": {
            "schemas": _schemas(settings),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def complete(path: str, operation: dict[str, Any]) -> None:
    """Add to one of Feast's operations what it answers here when it does not answer 200."""
    operation["tags"] = ["feast"]
    found = operation.setdefault("responses", {})
    said = [*_ERRORS, (202, "Accepted")] if operation.get("requestBody") else [*_ERRORS]
    for status, what in said:
        # Feast's errors have one shape for validation and another for what is not found.
        found[str(status)] = {"description": what, "content": {"application/json": {"schema": {}}}}
    for response in found.values():
        # Some of its routes answer 200 with no body, and the chat with a page.
        if path in ("/push", "/chat") and "content" in response:
            response["content"] = {**response["content"], "text/html": {"schema": _TEXT}}


def _features(settings: Settings) -> dict[str, Any]:
    user = {
        "name": "user_id", "in": "path", "required": True, "schema": _ID, "example": 1,
        "description": "As the entity declares it: a whole number, or a text.",
    }  # fmt: skip
    return {
        "/v1/features/user/{user_id}": {
            "get": {
                **_about("features", f"A user's own features (service {settings.user_service})"),
                "operationId": "user_features",
                "parameters": [user, _INCLUDE],
                "responses": _responses("UserFeatures", body=False),
            }
        },
        "/v1/features/rank": {
            "post": {
                **_about(
                    "features",
                    f"Features to rank items for a user, in the order asked "
                    f"(service {settings.rank_service})",
                ),
                "operationId": "rank_features",
                "parameters": [_INCLUDE],
                "requestBody": _body("RankRequest"),
                "responses": _responses("RankReply", "RankColumns"),
            }
        },
        "/v1/features": {
            "post": {
                **_about("features", "Features of any feature service for entity rows"),
                "operationId": "features",
                "parameters": [_INCLUDE],
                "requestBody": _body("FeaturesRequest"),
                "responses": _responses("FeaturesReply", "FeaturesColumns"),
            }
        },
    }


def _operations() -> dict[str, Any]:
    ready = {"application/json": {"schema": _ref("Readiness")}}
    alive = {"application/json": {"schema": _object(["status"], status=_TEXT)}}
    return {
        "/health": {
            "get": {
                **_about("operations", "Alive"),
                "operationId": "health",
                "responses": {
                    "200": {"description": "Alive", "content": alive},
                    "503": {"description": "A thread of the worker has ended", "content": alive},
                },
            }
        },
        "/ready": {
            "get": {
                **_about("operations", "Redis reachable, plan compiled, warmed up"),
                "operationId": "ready",
                "responses": {
                    "200": {"description": "Ready", "content": ready},
                    "503": {"description": "Not ready", "content": ready},
                },
            }
        },
        "/metrics": {
            "get": {
                **_about("operations", "Figures for Prometheus"),
                "operationId": "metrics",
                "responses": {
                    "200": {"description": "Text", "content": {"text/plain": {"schema": _TEXT}}}
                },
            }
        },
    }


def _schemas(settings: Settings) -> dict[str, Any]:
    pair = _object(
        ["itemId", "itemFeatures", "interactionFeatures"],
        itemId=_ID, itemFeatures=_FEATURES, interactionFeatures=_FEATURES,
    )  # fmt: skip
    row = _object(["entity", "features"], entity=_FEATURES, features=_FEATURES)
    common = {"latencyMs": _MILLISECONDS, "meta": _META, "plan": {"type": "integer"}}
    return {
        "RankRequest": {
            **_object(
                ["userId", "itemIds"],
                userId=_ID,
                itemIds={"type": "array", "items": _ID, "maxItems": settings.max_items},
                context=_CONTEXT,
                layout=_LAYOUT,
            ),
            "additionalProperties": False,
            "examples": [{"userId": 1, "itemIds": [1, 2, 3], "context": {"requestHour": 21}}],
        },
        "FeaturesRequest": {
            **_object(
                ["service", "entities"],
                service=_TEXT,
                entities={"type": "array", "items": _FEATURES, "maxItems": settings.max_items},
                context=_CONTEXT,
                layout=_LAYOUT,
            ),
            "additionalProperties": False,
            "examples": [
                {"service": settings.user_service, "entities": [{"user_id": 1}, {"user_id": 2}]}
            ],
        },
        "UserFeatures": _object(
            ["userId", "features", "latencyMs"], userId=_ID, features=_FEATURES, **common
        ),
        "RankReply": _object(
            ["userId", "userFeatures", "items", "latencyMs"],
            userId=_ID, userFeatures=_FEATURES, items={"type": "array", "items": pair}, **common,
        ),
        "RankColumns": _object(
            ["userId", "userFeatures", "itemIds", "itemFeatures", "interactionFeatures",
             "latencyMs"],
            userId=_ID, userFeatures=_FEATURES, itemIds={"type": "array", "items": _ID},
            itemFeatures=_COLUMNS, interactionFeatures=_COLUMNS, **common,
        ),
        "FeaturesReply": _object(
            ["service", "results", "latencyMs"],
            service=_TEXT, results={"type": "array", "items": row}, **common,
        ),
        "FeaturesColumns": _object(
            ["service", "entities", "features", "latencyMs"],
            service=_TEXT, entities=_COLUMNS, features=_COLUMNS, **common,
        ),
        "ViewMeta": _object(
            ["version", "asOf", "status", "fingerprint"],
            version={"type": "integer"},
            asOf=_either(_MOMENT),
            status=_either(_STATUS),
            fingerprint={"type": ["string", "null"]},
            near={"type": "object"},
        ),
        "Readiness": _object(
            ["ready", "redis", "plan", "registry", "warm", "registryLagSeconds"],
            **{n: {"type": "boolean"} for n in ("ready", "redis", "plan", "registry", "warm")},
            registryLagSeconds={"type": "number"},
        ),
        "Refusal": _object(
            ["error"], error=_object(["message"], field=_TEXT, message=_TEXT)
        ),
    }  # fmt: skip


_ERRORS = (
    (400, "Not JSON, or not HTTP"),
    (401, "No valid token or key"),
    (403, "Not permitted"),
    (404, "No such service, view or route"),
    (405, "Another method"),
    (408, "The request came too slowly"),
    (409, "The service cannot be served by this route"),
    (413, "Too large"),
    (415, "A compressed body"),
    (422, "A field is not as it must be, or asks for too much; `field` names it"),
    (431, "Too much of a URL and headers"),
    (503, "Redis does not answer in time, or too many requests; see Retry-After"),
)


def _about(tag: str, summary: str) -> dict[str, Any]:
    return {"tags": [tag], "summary": summary}


def _body(schema: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _ref(schema)}}}


def _responses(*schemas: str, body: bool = True) -> dict[str, Any]:
    reply = _ref(schemas[0]) if len(schemas) == 1 else {"anyOf": [_ref(one) for one in schemas]}
    latency = {"X-Feature-Latency-Ms": {"schema": _MILLISECONDS, "description": "On every answer"}}
    columns = {ARROW: {"schema": {"type": "string", "format": "binary"}},
               MSGPACK: {"schema": {"type": "string", "format": "binary"}}}  # fmt: skip
    found: dict[str, Any] = {
        "200": {
            "description": "Found",
            "headers": latency,
            "content": {"application/json": {"schema": reply}, **columns},
        }
    }
    for status, what in _ERRORS:
        if body or status not in (413, 415):
            found[str(status)] = {
                "description": what,
                "content": {"application/json": {"schema": _ref("Refusal")}},
            }
    found["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return found

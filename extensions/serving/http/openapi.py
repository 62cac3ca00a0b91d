"""The OpenAPI 3.1 document of our own routes, typed by the feature services as they are now.

`openapi_services` has the schemas of services; `openapi_feast` adds Feast's own routes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extensions.serving.features.request_plan import Plan
from extensions.serving.http.openapi_services import (
    Schema,
    ServiceSchemas,
    closed,
    columns_object,
    id_schema,
    rows_object,
    schema_name,
)
from extensions.serving.settings import Settings

ARROW, MSGPACK = "application/vnd.apache.arrow.stream", "application/msgpack"
TEXT: Schema = {"type": "string"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_MILLISECONDS = {"type": "number", "minimum": 0}
_INCLUDE = {
    "name": "include", "in": "query", "required": False,
    "description": "meta: per view its version, as-of time, status and definition.",
    "schema": {"type": "string", "enum": ["meta"]},
}  # fmt: skip
_STATUS = {"type": "string", "enum": ["fresh", "stale", "default"]}
_AS_OF = {"type": ["string", "null"], "format": "date-time"}

ERRORS = (
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


@dataclass(frozen=True)
class Subject:
    """What the document describes.

    ``plans``: the plans of feature services by name; a text where there is none, and why.
    ``own_security``, ``feast_security``: OpenAPI's security requirements of ``/v1`` and of
    Feast's routes, each an alternative; empty where everybody may ask.
    """

    settings: Settings
    plans: Mapping[str, Plan | str]
    own_security: Sequence[dict[str, list[str]]] = ()
    feast_security: Sequence[dict[str, list[str]]] = ()

    def services(self) -> list[ServiceSchemas]:
        """The services that ``/v1`` serves, each with a name of its own for its schemas."""
        found: dict[str, ServiceSchemas] = {}
        for service, plan in sorted(self.plans.items()):
            if isinstance(plan, Plan):
                name = unique = schema_name(service)
                number = 2
                while unique in found:
                    unique, number = f"{name}{number}", number + 1
                found[unique] = ServiceSchemas(plan, unique, self.settings.max_items)
        return list(found.values())


def ref(name: str) -> dict[str, str]:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def document(subject: Subject) -> dict[str, Any]:
    """OpenAPI 3.1 of ``/v1``, ``/health``, ``/ready`` and ``/metrics``."""
    services = subject.services()
    by_name = {service.plan.service: service for service in services}
    user = by_name.get(subject.settings.user_service)
    rank = by_name.get(subject.settings.rank_service)
    if user and len(user.plan.join_keys) != 1:
        user = None
    if rank and not rank.ranks():
        rank = None
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Skewless",
            "version": "1",
            "description": "Online features: our routes under /v1, and Feast's own.",
        },
        "servers": [{"url": "/", "description": "This server"}],
        "tags": [
            {"name": "features", "description": "Features for models and applications."},
            {"name": "operations", "description": "Health, readiness and metrics."},
            {"name": "feast", "description": "Feast's own routes, for Feast's clients."},
        ],
        "paths": {**_features(subject, services, user, rank), **_operations()},
        "components": {
            "schemas": {
                **_common(),
                **_user(user),
                **_rank(rank),
                **_any(services, rank),
            },
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _features(
    subject: Subject,
    services: Sequence[ServiceSchemas],
    user: ServiceSchemas | None,
    rank: ServiceSchemas | None,
) -> dict[str, Any]:
    example = next(iter(user.example_row().values())) if user else 1
    user_id = {
        "name": "user_id", "in": "path", "required": True, "example": example,
        "schema": user.id(user.join_keys[0]) if user else id_schema(None),
        "description": "As the entity declares it: a whole number, or a text.",
    }  # fmt: skip
    security = {"security": list(subject.own_security)}
    settings = subject.settings
    return {
        "/v1/features/user/{user_id}": {
            "get": {
                **_about("features", f"A user's own features (service {settings.user_service})"),
                "operationId": "user_features",
                "parameters": [user_id, _INCLUDE],
                "responses": _responses(ref("UserFeatures"), body=False),
                **security,
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
                "requestBody": _body(ref("RankRequest"), _rank_examples(rank)),
                "responses": _responses(ref("RankReply"), ref("RankColumns")),
                **security,
            }
        },
        "/v1/features": {
            "post": {
                **_about("features", "Features of any feature service for entity rows"),
                "operationId": "features",
                "parameters": [_INCLUDE],
                "requestBody": _body(
                    ref("FeaturesRequest"),
                    {service.plan.service: _any_example(service) for service in services},
                ),
                "responses": _responses(ref("FeaturesReply"), ref("FeaturesColumns")),
                **security,
            }
        },
    }


def _operations() -> dict[str, Any]:
    ready = {"application/json": {"schema": ref("Readiness")}}
    alive = {"application/json": {"schema": ref("Health")}}

    def route(summary: str, name: str, responses: Mapping[int, tuple[str, Any]]) -> Any:
        return {
            "get": {
                **_about("operations", summary),
                "operationId": name,
                "responses": {
                    str(status): {"description": what, "content": content}
                    for status, (what, content) in responses.items()
                },
                "security": [],
            }
        }

    return {
        "/health": route(
            "Alive",
            "health",
            {200: ("Alive", alive), 503: ("A thread of the worker has ended", alive)},
        ),
        "/ready": route(
            "Redis reachable, plan compiled, warmed up",
            "ready",
            {200: ("Ready", ready), 503: ("Not ready", ready)},
        ),
        "/metrics": route(
            "Figures for Prometheus", "metrics", {200: ("Text", {"text/plain": {"schema": TEXT}})}
        ),
    }


def _common() -> dict[str, Schema]:
    booleans = ("ready", "redis", "plan", "registry", "warm")
    return {
        "Error": closed(
            {
                "error": closed(
                    {
                        "message": {**TEXT, "description": "What is wrong, for a person."},
                        "field": {**TEXT, "description": "The field or header at fault."},
                    },
                    required=["message"],
                )
            }
        ),
        "ViewMeta": {
            "type": "object",
            "properties": {
                "version": {"type": "integer"},
                "asOf": _one_or_many(_AS_OF),
                "status": _one_or_many(_STATUS),
                "fingerprint": {"type": ["string", "null"]},
                "near": {"type": "object"},
            },
            "required": ["version", "asOf", "status", "fingerprint"],
        },
        "Health": closed({"status": TEXT}),
        "Readiness": closed(
            {
                **{name: {"type": "boolean"} for name in booleans},
                "registryLagSeconds": {"type": "number"},
            }
        ),
    }


def _user(service: ServiceSchemas | None) -> dict[str, Schema]:
    features: Schema = {"type": "object", "additionalProperties": True}
    user_id = id_schema(None)
    if service:
        features, user_id = ref(f"{service.name}Features"), service.id(service.join_keys[0])
    return {"UserFeatures": _reply({"userId": user_id, "features": features})}


def _rank(service: ServiceSchemas | None) -> dict[str, Schema]:
    names = ("RankUserFeatures", "RankItemFeatures", "RankInteractionFeatures")
    user_id = item_id = id_schema(None)
    if service:
        user_key, item_key = service.ranking_keys()
        user_id, item_id = service.id(user_key), service.id(item_key)
        parts = service.ranking_parts()
        rows = {name: rows_object(part) for name, part in zip(names, parts, strict=True)}
        columns = {"RankItemColumns": columns_object(parts[1])}
        columns["RankInteractionColumns"] = columns_object(parts[2])
    else:
        anything: Schema = {"type": "object", "additionalProperties": True}
        rows = dict.fromkeys(names, anything)
        columns = dict.fromkeys(("RankItemColumns", "RankInteractionColumns"), anything)
    head = {"userId": user_id, "userFeatures": ref("RankUserFeatures")}
    return {
        **rows,
        **columns,
        "RankRequest": {"type": "object"},  # of a service that there is not
        "RankItem": closed(
            {
                "itemId": item_id,
                "itemFeatures": ref("RankItemFeatures"),
                "interactionFeatures": ref("RankInteractionFeatures"),
            }
        ),
        "RankReply": _reply({**head, "items": {"type": "array", "items": ref("RankItem")}}),
        "RankColumns": _reply(
            {
                **head,
                "itemIds": {"type": "array", "items": item_id},
                "itemFeatures": ref("RankItemColumns"),
                "interactionFeatures": ref("RankInteractionColumns"),
            }
        ),
    }


def _any(services: Sequence[ServiceSchemas], rank: ServiceSchemas | None) -> dict[str, Schema]:
    """The route of any service: a schema for each, told apart by the service's name."""
    schemas: dict[str, Schema] = {}
    for service in services:
        name, features = service.name, service.features() + service.transformed()
        which = {**TEXT, "const": service.plan.service}
        row = closed({"entity": ref(f"{name}Entity"), "features": ref(f"{name}Features")})
        schemas |= {
            **service.requests(ranking=service is rank),
            f"{name}Features": rows_object(features),
            f"{name}FeatureColumns": columns_object(features),
            f"{name}Row": row,
            f"{name}Reply": _reply(
                {"service": which, "results": {"type": "array", "items": ref(f"{name}Row")}}
            ),
            f"{name}Columns": _reply(
                {
                    "service": which,
                    "entities": service.entity_columns(),
                    "features": ref(f"{name}FeatureColumns"),
                }
            ),
        }
    for union, part in (
        ("FeaturesRequest", "Request"), ("FeaturesReply", "Reply"), ("FeaturesColumns", "Columns"),
    ):  # fmt: skip
        schemas[union] = _by_service(services, part)
    return schemas


def _by_service(services: Sequence[ServiceSchemas], part: str) -> Schema:
    if not services:
        return {"type": "object"}
    return {
        "oneOf": [ref(f"{service.name}{part}") for service in services],
        "discriminator": {
            "propertyName": "service",
            "mapping": {
                service.plan.service: f"#/components/schemas/{service.name}{part}"
                for service in services
            },
        },
    }


def _rank_examples(service: ServiceSchemas | None) -> dict[str, Any]:
    if service is None:
        return {}
    user_key, item_key = service.ranking_keys()
    rows = [service.example_row(n) for n in (1, 2, 3)]
    example = {"userId": rows[0][user_key], "itemIds": [row[item_key] for row in rows]}
    return {"three_items": {**example, **service.example_context()}}


def _any_example(service: ServiceSchemas) -> dict[str, Any]:
    entities = [service.example_row(1), service.example_row(2)]
    return {
        "service": service.plan.service, "entities": entities, **service.example_context(),
    }  # fmt: skip


def _reply(properties: Mapping[str, Any]) -> Schema:
    """A reply's object: these properties, and what every reply has."""
    return closed(
        {
            **properties,
            "latencyMs": _MILLISECONDS,
            "meta": {"type": "object", "additionalProperties": ref("ViewMeta")},
            "plan": {"type": "integer", "description": "The number of the plan that made it."},
        },
        [*properties, "latencyMs"],
    )


def _one_or_many(schema: Schema) -> Schema:
    return {"oneOf": [schema, {"type": "array", "items": schema}]}


def _about(tag: str, summary: str) -> dict[str, Any]:
    return {"tags": [tag], "summary": summary}


def _body(schema: Schema, examples: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"required": True, "content": {"application/json": content}}


def error_response(description: str) -> dict[str, Any]:
    """A response of the one shape that all errors have."""
    return {"description": description, "content": {"application/json": {"schema": ref("Error")}}}


def _responses(*schemas: Schema, body: bool = True) -> dict[str, Any]:
    reply = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    latency = {"X-Feature-Latency-Ms": {"schema": _MILLISECONDS, "description": "On every answer"}}
    found: dict[str, Any] = {
        "200": {
            "description": "Found",
            "headers": latency,
            "content": {"application/json": {"schema": reply}, ARROW: _BINARY, MSGPACK: _BINARY},
        }
    }
    for status, what in ERRORS:
        if body or status not in (413, 415):
            found[str(status)] = error_response(what)
    found["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return found

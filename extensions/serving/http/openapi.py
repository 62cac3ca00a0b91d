"""The OpenAPI 3.1 document of our own routes, typed by the feature services as they are now.

`openapi_services` has the schemas of services; `openapi_feast` adds Feast's own routes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extensions.service_routes import (
    GENERIC_FEATURES,
    GENERIC_RANK,
    DeclaredRoute,
    ReplyNames,
)
from extensions.serving.features.request_plan import Plan
from extensions.serving.http.openapi_services import (
    Schema,
    ServiceSchemas,
    closed,
    columns_object,
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

    def services(self) -> list["ServiceSchemas"]:
        """The services that ``/v1`` serves, each with a name of its own for its schemas."""
        plans = [plan for _, plan in sorted(self.plans.items()) if isinstance(plan, Plan)]
        # Those of declared routes come first: clients are generated from them.
        taken = {_declared_name(plan.route) for plan in plans if plan.route}
        return [
            ServiceSchemas(plan, _unique(schema_name(plan.service), taken), self.settings.max_items)
            for plan in plans
        ]


@dataclass(frozen=True)
class RouteSchemas:
    """A route that answers for one service: its path, what things are called, its schemas.

    ``name``: what the names of its schemas begin with. ``parameter``: the id in its path; None: a
    ranking.
    """

    service: ServiceSchemas
    path: str
    parameter: str | None
    names: ReplyNames
    name: str
    operation: str

    @property
    def part_names(self) -> tuple[str, str, str]:
        """The names of the schemas of a ranking's features: the entity's, an item's, the pair's."""
        names = self.names
        first, second, third = (
            self.name + schema_name(part)
            for part in (names.features, names.item_features, names.pair_features)
        )
        return first, second, third


def _declared_name(route: DeclaredRoute) -> str:
    return schema_name(route.path.rstrip("/").rpartition("/")[2])


def _unique(name: str, taken: set[str]) -> str:
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}{number}", number + 1
    taken.add(unique)
    return unique


def routes_of(services: Sequence[ServiceSchemas]) -> list[RouteSchemas]:
    """The routes of single services: declared ones, then the generic ones."""
    declared, generic = [], []
    taken = {service.name for service in services}
    for service in services:
        plan, route = service.plan, service.plan.route
        if route is not None and plan.names is not None:
            last = route.path.rstrip("/").rpartition("/")[2]
            path = f"{route.path}{{{route.parameter}}}" if route.parameter else route.path
            name = _declared_name(route)
            declared.append(
                RouteSchemas(service, path, route.parameter, plan.names, name, f"{last}_features")
            )
        keys = plan.own_keys
        if len(keys) not in (1, 2) or len(keys) != len(plan.join_keys) or plan.own_names.clash():
            continue
        one = len(keys) == 1
        start = (GENERIC_FEATURES if one else GENERIC_RANK).replace("{service}", plan.service)
        name = _unique(f"{service.name}{'One' if one else 'Rank'}", taken)
        parameter = keys[0] if one else None
        path = f"{start}{{{parameter}}}" if one else start
        operation = f"{'features' if one else 'rank'}_of_{plan.service}"
        generic.append(RouteSchemas(service, path, parameter, plan.own_names, name, operation))
    # Where a declared route has a generic one's path, it answers.
    return list({route.path: route for route in (*generic, *declared)}.values())


def ref(name: str) -> dict[str, str]:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def document(subject: Subject) -> dict[str, Any]:
    """OpenAPI 3.1 of ``/v1``, ``/health``, ``/ready`` and ``/metrics``."""
    services = subject.services()
    routes = routes_of(services)
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
        "paths": {**_features(subject, services, routes), **_operations()},
        "components": {
            "schemas": {
                **_common(),
                **_any(services),
                **{name: schema for route in routes for name, schema in _route(route).items()},
            },
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _features(
    subject: Subject, services: Sequence[ServiceSchemas], routes: Sequence[RouteSchemas]
) -> dict[str, Any]:
    security = {"security": list(subject.own_security)}
    return {
        **{route.path: {**_operation(route, security)} for route in routes},
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


def _operation(route: RouteSchemas, security: Mapping[str, Any]) -> dict[str, Any]:
    service, plan = route.service, route.service.plan
    if route.parameter is None:
        leading, other = plan.pair
        rows = [service.example_row(n) for n in (1, 2, 3)]
        ranked = [row[other] for row in rows]
        example = {route.names.entity: rows[0][leading], route.names.items: ranked}
        examples = {"three_items": {**example, **service.example_context()}}
        summary = f"Features to rank items for one entity, in the order asked ({plan.service})"
        return {
            "post": {
                **_about("features", summary),
                "operationId": route.operation,
                "parameters": [_INCLUDE],
                "requestBody": _body(ref(f"{route.name}Request"), examples),
                "responses": _responses(ref(f"{route.name}Reply"), ref(f"{route.name}Columns")),
                **security,
            }
        }
    [key] = plan.own_keys
    parameter = {
        "name": route.parameter, "in": "path", "required": True,
        "example": service.example_row()[key], "schema": service.id(key, texts=False),
        "description": "As the entity declares it: a whole number, or a text.",
    }  # fmt: skip
    return {
        "get": {
            **_about("features", f"The features of one entity ({plan.service})"),
            "operationId": route.operation,
            "parameters": [parameter, _INCLUDE],
            "responses": _responses(ref(f"{route.name}Features"), body=False),
            **security,
        }
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


def _route(route: RouteSchemas) -> dict[str, Schema]:
    """The schemas of a single service's route."""
    service, names = route.service, route.names
    if route.parameter is not None:
        [key] = service.plan.own_keys
        features = ref(f"{service.name}Features")
        reply = {names.entity: service.id(key, texts=False), names.features: features}
        return {f"{route.name}Features": _reply(reply)}
    leading, other = service.plan.pair
    first, second, third = route.part_names
    parts = service.ranking_parts()
    rows = dict(zip((first, second, third), map(rows_object, parts), strict=True))
    columns = {_columns_name(name): columns_object(part)
               for name, part in zip((second, third), parts[1:], strict=True)}  # fmt: skip
    head = {names.entity: service.id(leading), names.features: ref(first)}
    item = service.id(other)
    return {
        **rows,
        **columns,
        **service.rank_request(names, f"{route.name}Request"),
        f"{route.name}Item": closed(
            {names.item: item, names.item_features: ref(second), names.pair_features: ref(third)}
        ),
        f"{route.name}Reply": _reply(
            {**head, "items": {"type": "array", "items": ref(f"{route.name}Item")}}
        ),
        f"{route.name}Columns": _reply(
            {
                **head,
                names.items: {"type": "array", "items": item},
                names.item_features: ref(_columns_name(second)),
                names.pair_features: ref(_columns_name(third)),
            }
        ),
    }


def _columns_name(name: str) -> str:
    return name.removesuffix("Features") + "Columns"


def _any(services: Sequence[ServiceSchemas]) -> dict[str, Schema]:
    """The route of any service: a schema for each, told apart by the service's name."""
    schemas: dict[str, Schema] = {}
    for service in services:
        name, features = service.name, service.features() + service.transformed()
        which = {**TEXT, "const": service.plan.service}
        row = closed({"entity": ref(f"{name}Entity"), "features": ref(f"{name}Features")})
        schemas |= {
            **service.requests(),
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

"""Feast's own routes in the OpenAPI document: descriptions, examples, and what they answer here."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from feast import FeatureStore, FeatureView, Field, PushSource
from feast.feature_view import DUMMY_ENTITY_ID

from extensions.serving.http.openapi import ERRORS, TEXT, Subject, document, error_response
from extensions.serving.http.openapi_services import example_id

# Answered by this server itself, and described in `openapi`.
_HIDDEN = ("/health",)
# Feast's schemas of errors, which have another shape here.
_REPLACED = ("HTTPValidationError", "ValidationError")
# The routes that answer 200 without a body, or with a page.
_NOT_JSON = ("/push", "/chat")
# The routes that can answer before the work is done.
_LATER = ("/push", "/materialize", "/materialize-incremental")
_DESCRIPTIONS = {
    "/get-online-features": "Features of a service or of references, by columns of ids.",
    "/push": "Rows for the views of a push source. The example writes a row of entity -1.",
    "/write-to-online-store": (
        "Rows of one view, for Redis alone. The example writes a row of entity -1."
    ),
    "/materialize": "Rows of the logs within a range of time, into Redis.",
    "/materialize-incremental": "Rows of the logs since the last materialization, into Redis.",
    "/search": "The nearest documents of a view with a vector index.",
    "/chat": "Feast's demonstration of a chat over features.",
    "/v1/vector_stores": "Views with a vector index, as OpenAI's API lists vector stores.",
    "/v1/vector_stores/{vector_store_id}": "One view with a vector index.",
    "/v1/vector_stores/{vector_store_id}/search": "A search, as in OpenAI's API.",
}
_AT = "2026-01-01T00:00:00+00:00"
_NOBODY = -1


def whole_document(app: FastAPI, store: FeatureStore, subject: Subject) -> dict[str, Any]:
    """The document of our routes and of all that Feast's application serves.

    Args:
        app: Feast's application, its routes final.
        store: the repository, for the examples; its cached registry is read.
        subject: what our part describes.
    """
    whole = document(subject)
    theirs = get_openapi(title="Feast", version="1", routes=app.routes)
    names = _operation_ids(app)
    examples = _examples(store, subject)
    for path, operations in theirs["paths"].items():
        if path in _HIDDEN:
            continue
        for method, operation in operations.items():
            operation["operationId"] = names[path, method]
            operation["security"] = list(subject.feast_security)
            _complete(path, operation, examples.get(path) if method == "post" else None)
        whole["paths"][path] = operations
    schemas = theirs.get("components", {}).get("schemas", {})
    ours = whole["components"]["schemas"]
    for name, schema in schemas.items():
        if name not in _REPLACED and name not in ours:
            ours[name] = _optional(schema) if name.endswith("Request") else schema
    return whole


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    """A request's schema with its defaults as text: generators take ``default`` as required."""
    properties = {}
    for name, held in schema.get("properties", {}).items():
        given = {key: value for key, value in held.items() if key != "default"}
        if "default" in held:
            text = f"Default: {orjson.dumps(held['default']).decode()}."
            given["description"] = (
                f"{held['description']} {text}" if "description" in held else text
            )
        properties[name] = given
    return {**schema, "properties": properties}


def _operation_ids(app: FastAPI) -> dict[tuple[str, str], str]:
    """The name of each route's function, which is shorter than FastAPI's own ids."""
    return {
        (route.path, method.lower()): route.name
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def _complete(path: str, operation: dict[str, Any], example: Any) -> None:
    """Add to one of Feast's operations what it answers here when it does not answer 200."""
    operation["tags"] = ["feast"]
    if path in _DESCRIPTIONS:
        operation["description"] = _DESCRIPTIONS[path]
    responses = operation.setdefault("responses", {})
    for status, what in ERRORS:
        responses[str(status)] = error_response(what)
    if path in _LATER:
        content: dict[str, Any] = {"application/json": {}}
        responses["202"] = {"description": "Accepted; it is done later", "content": content}
    if path in _NOT_JSON:
        ok = responses["200"]
        ok["content"] = {**ok.get("content", {}), "text/html": {"schema": TEXT}}
    if example is not None:
        body = operation["requestBody"]["content"]["application/json"]
        body["examples"] = {"example": {"value": example}}


def _examples(store: FeatureStore, subject: Subject) -> Mapping[str, Any]:
    """Requests of this repository's own services and views that can be sent as they are."""
    found: dict[str, Any] = {}
    services = subject.services()
    short = [s for s in services if s.plan.route and not s.plan.route.ranks]
    for service in [*short, *services][:1]:
        rows = [service.example_row(n) for n in (1, 2)]
        entities: dict[str, Any] = {key: [row[key] for row in rows] for key in service.join_keys}
        for name, value in service.example_request_fields().items():
            entities[name] = [value] * len(rows)
        found["/get-online-features"] = {
            "feature_service": service.plan.service, "entities": entities,
        }  # fmt: skip
    views = store.registry.list_feature_views(store.project, allow_cache=True)
    pushed = [view for view in views if isinstance(view.stream_source, PushSource)]
    for view in [*pushed, *views][:1]:
        found["/write-to-online-store"] = {
            "feature_view_name": view.name, "df": _example_rows(view),
        }  # fmt: skip
        found["/materialize"] = {
            "start_ts": _AT, "end_ts": _AT.replace("T00", "T01"), "feature_views": [view.name],
        }  # fmt: skip
        found["/materialize-incremental"] = {"end_ts": _AT, "feature_views": [view.name]}
    for view in pushed[:1]:
        assert view.stream_source is not None
        found["/push"] = {
            "push_source_name": view.stream_source.name, "df": _example_rows(view), "to": "online",
        }  # fmt: skip
    return found


def _example_rows(view: FeatureView) -> dict[str, list[Any]]:
    """One row, in columns: an entity that there is not, with the features' defaults."""
    columns: dict[str, list[Any]] = {
        field.name: [example_id(field.dtype.to_value_type(), _NOBODY)]
        for field in view.entity_columns
        if field.name != DUMMY_ENTITY_ID
    }
    columns |= {field.name: [_example_value(field)] for field in view.features}
    source = view.batch_source
    for name in (source.timestamp_field, source.created_timestamp_column) if source else ():
        if name:
            columns[name] = [_AT]
    return columns


def _example_value(field: Field) -> Any:
    default = field.tags.get("default")
    if default is not None:
        return orjson.loads(default)
    kind = field.dtype.to_value_type().name
    if kind.endswith(("_LIST", "_SET")):
        return []
    return {"BOOL": False, "STRING": "text"}.get(kind, 0)

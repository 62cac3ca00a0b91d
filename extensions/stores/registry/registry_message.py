"""Reads all of Feast's registry in one statement.

`SqlRegistry.proto` reads table by table, in a transaction each: some forty round trips, between
which the registry may change. Servers read it on each promotion and rollback, and on a busy machine
each round trip waits for its turn. One statement sees one state.
"""

from collections.abc import Iterable
from typing import Any

from feast.infra.registry import sql as tables
from feast.protos.feast.core.Project_pb2 import Project as ProjectProto
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from sqlalchemy import Connection, Table, literal, select, union_all

# By the message's field: the table, and its column of serialized messages.
_PARTS: dict[str, tuple[Table, str]] = {
    "entities": (tables.entities, "entity_proto"),
    "feature_views": (tables.feature_views, "feature_view_proto"),
    "data_sources": (tables.data_sources, "data_source_proto"),
    "on_demand_feature_views": (tables.on_demand_feature_views, "feature_view_proto"),
    "stream_feature_views": (tables.stream_feature_views, "feature_view_proto"),
    "feature_services": (tables.feature_services, "feature_service_proto"),
    "saved_datasets": (tables.saved_datasets, "saved_dataset_proto"),
    "validation_references": (tables.validation_references, "validation_reference_proto"),
    "permissions": (tables.permissions, "permission_proto"),
    "label_views": (tables.label_views, "feature_view_proto"),
}
_PROJECTS, _INFRA = "projects", "infra"


def _selected(name: str, table: Table, column: str) -> Any:
    return select(literal(name), table.c.project_id, table.c[column])


_STATEMENT = union_all(
    _selected(_PROJECTS, tables.projects, "project_proto"),
    _selected(_INFRA, tables.managed_infra, "infra_proto"),
    *(_selected(name, table, column) for name, (table, column) in _PARTS.items()),
)


def registry_message(conn: Connection) -> RegistryProto:
    """The message that `SqlRegistry.proto` makes, of one state of the registry."""
    return _message(
        (name, project, bytes(held)) for name, project, held in conn.execute(_STATEMENT)
    )


def _message(rows: Iterable[tuple[str, str, bytes]]) -> RegistryProto:
    message = RegistryProto()
    held = list(rows)
    projects = [ProjectProto.FromString(content) for name, _, content in held if name == _PROJECTS]
    known = {project.spec.name for project in projects}
    message.projects.extend(projects)
    for name, project, content in held:
        if project not in known or name == _PROJECTS:
            continue
        if name == _INFRA:
            message.infra.ParseFromString(content)
            continue
        entry = getattr(message, name).add()
        entry.ParseFromString(content)
        owner = entry.spec if "spec" in entry.DESCRIPTOR.fields_by_name else entry
        owner.project = project
    if projects:
        message.infra.SetInParent()  # as Feast's, which copies an empty one where there is none
        newest = max(projects, key=lambda one: one.meta.last_updated_timestamp.ToMicroseconds())
        message.last_updated.CopyFrom(newest.meta.last_updated_timestamp)
    return message

"""Which views and versions the feature services name, read without importing Feast.

Feast's messages are declared here again, with the few fields that are asked for: protobuf's wire
format is made for readers that know less than the writer. Importing Feast takes seconds, which a
rollback does not have.
"""

from functools import cache
from typing import Any

import psycopg
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_STRING = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_INT32 = descriptor_pb2.FieldDescriptorProto.TYPE_INT32
_MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
# message: (field, its number, its type, the message it holds or None, repeated)
_FIELDS: dict[str, list[tuple[str, int, Any, str | None, bool]]] = {
    "Projection": [
        ("feature_view_name", 1, _STRING, None, False),
        ("version_tag", 10, _INT32, None, False),
    ],
    "Spec": [
        ("name", 1, _STRING, None, False),
        ("features", 3, _MESSAGE, "Projection", True),
    ],
    "Service": [("spec", 1, _MESSAGE, "Spec", False)],
}


def service_refs(conn: psycopg.Connection, project: str) -> list[tuple[str, str, int | None]]:
    """(service, view, the version that it names or None), of all services."""
    references = []
    for (message,) in conn.execute(
        "SELECT feature_service_proto FROM feature_services WHERE project_id = %s "
        "ORDER BY feature_service_name",
        [project],
    ).fetchall():
        service = _service()()
        service.ParseFromString(bytes(message))
        for projection in service.spec.features:
            named = projection.version_tag if projection.HasField("version_tag") else None
            references.append((service.spec.name, projection.feature_view_name, named))
    return references


def followers(conn: psycopg.Connection, project: str, view: str) -> list[str]:
    """The services that name no version of the view, and so follow its pointer."""
    return sorted(
        {
            service
            for service, name, version in service_refs(conn, project)
            if name == view and version is None
        }
    )


@cache
def _service() -> Any:
    """The class of the message, with the fields above."""
    file = descriptor_pb2.FileDescriptorProto(
        name="skewless_services.proto", package="skewless", syntax="proto2"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind, holds, repeated in fields:
            message.field.add(
                name=field,
                number=number,
                type=kind,
                type_name=f".skewless.{holds}" if holds else None,
                label=3 if repeated else 1,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("skewless.Service"))

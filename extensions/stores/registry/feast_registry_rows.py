"""Feast's own rows of a view, in its SQL registry: the default, and a snapshot per version.

Written with Feast's messages on a connection of the caller's, so that they change in the same
transaction as the version's state. (Feast's methods each open a transaction of their own.)
"""

import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
from psycopg import sql

from extensions.errors import ConflictError
from extensions.stores.registry.version_store import Kind

# The tag of a view in Feast's registry that holds the version's SQL, for Feast's UI and command
# line. It is written when a view is published, is no part of its definition, and hides a tag of
# the same name in the files.
SQL_TAG = "sql"

_TABLES: dict[Kind, str] = {
    "computation": "feature_views",
    "transform": "on_demand_feature_views",
}
_TYPES: dict[Kind, str] = {"computation": "feature_view", "transform": "on_demand_feature_view"}


def parse(kind: Kind, message: bytes) -> Any:
    """Feast's message of a view."""
    from feast.protos.feast.core.FeatureView_pb2 import FeatureView  # noqa: PLC0415 - imports Feast
    from feast.protos.feast.core.OnDemandFeatureView_pb2 import (  # noqa: PLC0415
        OnDemandFeatureView,
    )

    proto: Any = FeatureView() if kind == "computation" else OnDemandFeatureView()
    proto.ParseFromString(message)
    return proto


def stamped(kind: Kind, message: bytes, project: str, version: int) -> Any:
    """The message, saying which version it is; Feast's two ways of saying so agree."""
    proto = parse(kind, message)
    proto.spec.project = project
    proto.spec.version = f"v{version}"
    proto.meta.current_version_number = version
    return proto


def snapshot(conn: psycopg.Connection, project: str, view: str, version: int) -> bytes | None:
    """Feast's snapshot of a version."""
    row = conn.execute(
        "SELECT feature_view_proto FROM feature_view_version_history "
        "WHERE feature_view_name = %s AND project_id = %s AND version_number = %s",
        [view, project, version],
    ).fetchone()
    return bytes(row[0]) if row else None


def snapshots(conn: psycopg.Connection, project: str) -> dict[tuple[str, int], bytes]:
    """All of Feast's snapshots, by view and version."""
    rows = conn.execute(
        "SELECT feature_view_name, version_number, feature_view_proto "
        "FROM feature_view_version_history WHERE project_id = %s",
        [project],
    ).fetchall()
    return {(view, version): bytes(message) for view, version, message in rows}


def default(conn: psycopg.Connection, project: str, kind: Kind, view: str) -> bytes | None:
    """Feast's row of a view: the version that it reads unless told otherwise."""
    row = conn.execute(
        sql.SQL(
            "SELECT feature_view_proto FROM {} WHERE feature_view_name = %s AND project_id = %s"
        ).format(sql.Identifier(_TABLES[kind])),
        [view, project],
    ).fetchone()
    return bytes(row[0]) if row else None


def write_snapshot(
    conn: psycopg.Connection, project: str, kind: Kind, view: str, version: int, message: bytes
) -> None:
    """Insert or replace a version's snapshot."""
    conn.execute(
        "INSERT INTO feature_view_version_history (feature_view_name, project_id, version_number, "
        "feature_view_type, feature_view_proto, created_timestamp, description, version_id) "
        "VALUES (%s, %s, %s, %s, %s, %s, '', %s) "
        "ON CONFLICT (feature_view_name, project_id, version_number) "
        "DO UPDATE SET feature_view_proto = excluded.feature_view_proto",
        [view, project, version, _TYPES[kind], message, int(time.time()), str(uuid.uuid4())],
    )


def write_default(
    conn: psycopg.Connection, project: str, kind: Kind, view: str, message: bytes
) -> None:
    """Make a message the one that Feast reads unless told otherwise."""
    conn.execute(
        sql.SQL(
            "INSERT INTO {} (feature_view_name, project_id, last_updated_timestamp, "
            "feature_view_proto) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (feature_view_name, project_id) DO UPDATE SET "
            "feature_view_proto = excluded.feature_view_proto, "
            "last_updated_timestamp = excluded.last_updated_timestamp"
        ).format(sql.Identifier(_TABLES[kind])),
        [view, project, int(time.time()), message],
    )


def delete_snapshot(conn: psycopg.Connection, project: str, view: str, version: int) -> None:
    """Feast's commands know the version no more."""
    conn.execute(
        "DELETE FROM feature_view_version_history "
        "WHERE feature_view_name = %s AND project_id = %s AND version_number = %s",
        [view, project, version],
    )


def delete_default(conn: psycopg.Connection, project: str, kind: Kind, view: str) -> None:
    """Feast knows the view no more."""
    conn.execute(
        sql.SQL("DELETE FROM {} WHERE feature_view_name = %s AND project_id = %s").format(
            sql.Identifier(_TABLES[kind])
        ),
        [view, project],
    )


def services(conn: psycopg.Connection, project: str) -> Iterator[Any]:
    """All feature services, as Feast's messages."""
    from feast.protos.feast.core.FeatureService_pb2 import FeatureService  # noqa: PLC0415

    for (message,) in conn.execute(
        "SELECT feature_service_proto FROM feature_services WHERE project_id = %s "
        "ORDER BY feature_service_name",
        [project],
    ).fetchall():
        service: Any = FeatureService()
        service.ParseFromString(bytes(message))
        yield service


def transforms(conn: psycopg.Connection, project: str) -> Iterator[Any]:
    """All on-demand views, as Feast's messages."""
    for (message,) in conn.execute(
        "SELECT feature_view_proto FROM on_demand_feature_views WHERE project_id = %s",
        [project],
    ).fetchall():
        yield parse("transform", bytes(message))


def follow(
    conn: psycopg.Connection, project: str, view: str, before: Iterable[str], after: Any
) -> list[str]:
    """Give those who follow ``view`` the features of the message ``after``.

    Who had all features of ``before`` has all of the new ones; who names some of them keeps
    those. Where the schema stays, no row is touched. Returns the services' names.

    Raises:
        SkewlessError: a service or a transform reads a feature that ``after`` does not have.
    """
    whole = frozenset(before)
    following = []
    for service in services(conn, project):
        who, changed = f"The service {service.spec.name}", False
        for projection in service.spec.features:
            if projection.feature_view_name == view and not projection.HasField("version_tag"):
                following.append(service.spec.name)
                changed |= fit(projection, whole, after, who)
        if changed:
            conn.execute(
                "UPDATE feature_services SET feature_service_proto = %s, "
                "last_updated_timestamp = %s WHERE feature_service_name = %s AND project_id = %s",
                [service.SerializeToString(), int(time.time()), service.spec.name, project],
            )
    for table in ("on_demand_feature_views", "feature_view_version_history"):
        _follow_sources(conn, project, table, view, whole, after)
    return sorted(set(following))


def fit(projection: Any, whole: frozenset[str], after: Any, who: str, source: str = "") -> bool:
    """Make a projection ask for what ``after`` has; returns whether it had to change.

    ``source``: of a transform's function, which must not name what is no more.

    Raises:
        ConflictError: it reads a feature that ``after`` does not have.
    """
    columns = {column.name: column for column in after.spec.features}
    held = {column.name: column.value_type for column in projection.feature_columns}
    wanted = list(columns) if held.keys() == whole else list(held)
    read = [name for name in held if name in source] if source else wanted
    missing = sorted(set(read) - columns.keys())
    if missing:
        raise ConflictError(
            f"{who} reads {after.spec.name}:{missing[0]}, which that version does not have: "
            "change it first."
        )
    if held == {name: columns[name].value_type for name in wanted if name in columns}:
        return False
    del projection.feature_columns[:]
    projection.feature_columns.extend(columns[name] for name in wanted if name in columns)
    return True


def _follow_sources(
    conn: psycopg.Connection,
    project: str,
    table: str,
    view: str,
    whole: frozenset[str],
    after: Any,
) -> None:
    """Transforms read the default version: the default rows, and the snapshots of them."""
    statement = "SELECT ctid::text, feature_view_proto FROM {} WHERE project_id = %s"
    if table == "feature_view_version_history":
        statement += " AND feature_view_type = 'on_demand_feature_view'"
    rows = conn.execute(sql.SQL(statement).format(sql.Identifier(table)), [project]).fetchall()
    for place, message in rows:
        proto = parse("transform", bytes(message))
        who = f"The transform {proto.spec.name}"
        source = proto.spec.feature_transformation.user_defined_function.body_text or "-"
        changed = False
        for each in proto.spec.sources.values():
            projection = each.feature_view_projection
            if projection.feature_view_name == view:
                changed |= fit(projection, whole, after, who, source)
        if changed:
            conn.execute(
                sql.SQL("UPDATE {} SET feature_view_proto = %s WHERE ctid = %s::tid").format(
                    sql.Identifier(table)
                ),
                [proto.SerializeToString(), place],
            )

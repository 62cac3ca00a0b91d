"""`skewless retire`: stop computing an unused version, delete its online rows, later its log.

The mark is one transaction; what follows is removed step by step and noted, so that whoever comes
next (retire, apply, the refresh loop) goes on where it was cut short.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from feast import FeatureStore, FeatureView
from psycopg import sql

from extensions.asof.watermarks import PATIENCE_SECONDS, alone_on
from extensions.database.scalars import clock
from extensions.errors import ConflictError
from extensions.failpoints import point
from extensions.stores.log_publishing import online_store
from extensions.stores.registry import feast_registry_rows
from extensions.stores.registry.version_store import Published, find, hold_pointer, published
from extensions.versions.failpoints import Fault

# A stream worker looks for what is live every second; what it computed before it looked must be
# in Redis before the rows are taken out.
NOTICED_AFTER_SECONDS = 3.0


@dataclass(frozen=True)
class Retired:
    """The result of a retire; ``log_drops_at`` None: the log is dropped already."""

    view: str
    version: int
    online_removed: bool
    log_drops_at: datetime | None


def retire(
    store: FeatureStore,
    conn: psycopg.Connection,
    view: str,
    version: int,
    *,
    keep_log_days: float = 0.0,
    declared: int | None = None,
) -> Retired:
    """Retire a version. ``conn`` must be in autocommit.

    ``declared``: the version that the files name; a default goes only with its files.

    Raises:
        SkewlessError: a service or a transform uses it, it is the default, or unknown.
    """
    with _version_lock(conn, find(conn, view, version)), conn.transaction():
        hold_pointer(conn, view, wait=False)
        one = find(conn, view, version)
        if one.state != "retired":
            _check(conn, store.project, one, published(conn, view), declared)
            point(Fault.RETIRE_CHECKED)
            conn.execute(
                "UPDATE view_versions SET state = 'retired', state_since = clock_timestamp(), "
                "drop_log_at = clock_timestamp() + %s * interval '1 day' "
                "WHERE view_name = %s AND version = %s",
                [keep_log_days, view, version],
            )
            if one.state == "active":
                feast_registry_rows.delete_default(conn, store.project, one.kind, view)
            point(Fault.RETIRE_MARKED)
        # Asked for again: whatever a straggler wrote meanwhile goes as well.
        feast_registry_rows.delete_snapshot(conn, store.project, view, version)
        _forget_progress(conn, one)
        conn.execute(
            "UPDATE view_versions SET online_removed_at = NULL "
            "WHERE view_name = %s AND version = %s",
            [view, version],
        )
    point(Fault.RETIRE_COMMITTED)
    finish_retired(store, conn)
    left = find(conn, view, version)
    return Retired(
        view,
        version,
        left.online_removed_at is not None,
        None if left.log_dropped_at else left.drop_log_at,
    )


def finish_retired(store: FeatureStore, conn: psycopg.Connection) -> list[str]:
    """Delete the due remains of retired versions; returns what was deleted."""
    removed = []
    for one in published(conn):
        if one.state == "retired" and one.kind == "computation":
            if one.online_removed_at is None:
                _remove_online(store, conn, one)
                removed.append(f"{one.name} from Redis")
            if one.log_dropped_at is None and _drop_log(conn, one):
                removed.append(f"the log {one.log_table}")
    return removed


def unfinished(conn: psycopg.Connection) -> list[Published]:
    """Retired versions with remains that are due to be deleted."""
    now = clock(conn)
    return [
        one
        for one in published(conn)
        if one.state == "retired"
        and one.kind == "computation"
        and (
            one.online_removed_at is None
            or (one.log_dropped_at is None and one.drop_log_at and one.drop_log_at <= now)
        )
    ]


def users_of(conn: psycopg.Connection, project: str, one: Published) -> list[str]:
    """The services that name the version, or follow the pointer while it is the default."""
    found = []
    for service in feast_registry_rows.services(conn, project):
        for projection in service.spec.features:
            if projection.feature_view_name != one.view_name:
                continue
            pinned = projection.version_tag if projection.HasField("version_tag") else None
            if pinned == one.version or (pinned is None and one.state == "active"):
                found.append(service.spec.name)
    return sorted(set(found))


def readers_of(conn: psycopg.Connection, project: str, view: str) -> list[str]:
    """The transforms that read a view: in their default version, or in one that is kept."""
    defaults = {
        transform.spec.name
        for transform in feast_registry_rows.transforms(conn, project)
        if any(
            source.feature_view_projection.feature_view_name == view
            for source in transform.spec.sources.values()
        )
    }
    kept = {
        one.view_name
        for one in published(conn)
        if one.kind == "transform" and one.kept and view in one.content["reads"]
    }
    return sorted(defaults | kept)


def feast_view(one: Published) -> FeatureView:
    """Feast's view as it was published, to address its online rows."""
    proto: Any = feast_registry_rows.parse(one.kind, one.feast_proto)
    view: FeatureView = FeatureView.from_proto(proto)
    view.current_version_number = one.version
    view.projection.version_tag = one.version
    return view


def _check(
    conn: psycopg.Connection,
    project: str,
    one: Published,
    known: list[Published],
    declared: int | None,
) -> None:
    if users := users_of(conn, project, one):
        raise ConflictError(
            f"{one.name} is used by {', '.join(users)}: point "
            f"{'it' if len(users) == 1 else 'them'} at another version first."
        )
    if one.state != "active":
        return
    others = [other for other in known if other.kept and other.version != one.version]
    if others or declared is not None:
        raise ConflictError(
            f"{one.name} is the default of its view: promote another version first, or, to end "
            "the view, take it out of the files and retire its other versions."
        )
    if readers := readers_of(conn, project, one.view_name):
        raise ConflictError(
            f"{one.view_name} is read by the transform {readers[0]}: change that first, and "
            "retire the versions of it that read the view."
        )


def _version_lock(conn: psycopg.Connection, one: Published) -> AbstractContextManager[None]:
    """Hold the version's lock, so that no tick and no reconciliation runs meanwhile."""
    if one.kind == "transform":
        return nullcontext()
    return alone_on(conn, one.definition.computation(), patience=PATIENCE_SECONDS)


def _forget_progress(conn: psycopg.Connection, one: Published) -> None:
    for table in (
        "watermarks", "stream_sweeps", "stream_refusals", "refused_entities", "online_epochs",
    ):  # fmt: skip
        conn.execute(
            sql.SQL("DELETE FROM {} WHERE view_name = %s AND version = %s").format(
                sql.Identifier(table)
            ),
            [one.view_name, one.version],
        )


def _remove_online(store: FeatureStore, conn: psycopg.Connection, one: Published) -> None:
    since = (clock(conn) - one.state_since).total_seconds()
    time.sleep(max(0.0, NOTICED_AFTER_SECONDS - since))
    online_store(store).delete_table(store.config, feast_view(one))
    point(Fault.RETIRE_ONLINE_REMOVED)
    conn.execute(
        "UPDATE view_versions SET online_removed_at = clock_timestamp() "
        "WHERE view_name = %s AND version = %s",
        [one.view_name, one.version],
    )
    point(Fault.RETIRE_ONLINE_NOTED)


def _drop_log(conn: psycopg.Connection, one: Published) -> bool:
    """Drop the log and its backfill records once its retention has ended; whether it was due."""
    with conn.transaction():
        due = conn.execute(
            "UPDATE view_versions SET log_dropped_at = clock_timestamp() "
            "WHERE view_name = %s AND version = %s AND drop_log_at <= clock_timestamp()",
            [one.view_name, one.version],
        )
        if not due.rowcount:
            return False
        conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(one.log_table)))
        conn.execute("DELETE FROM log_cuts WHERE log_table = %s", [one.log_table])
        _forget_progress(conn, one)
        for table in ("backfills", "backfill_refusals", "backfill_chunks"):
            conn.execute(
                sql.SQL("DELETE FROM {} WHERE view_name = %s AND version = %s").format(
                    sql.Identifier(table)
                ),
                [one.view_name, one.version],
            )
        point(Fault.RETIRE_LOG_DROPPED)
    return True

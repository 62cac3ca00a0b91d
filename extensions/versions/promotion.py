"""Promote and rollback: move a view's default version in one transaction, with an audit record."""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from extensions.account_name import account_name
from extensions.errors import ConflictError, InputError
from extensions.failpoints import point
from extensions.stores.registry import feast_registry_rows
from extensions.stores.registry.service_references import followers
from extensions.stores.registry.version_store import (
    Move,
    Promotion,
    Published,
    active,
    find,
    hold_pointer,
    note_move,
    promotions,
    published,
    set_state,
    versions_of,
)
from extensions.versions.failpoints import Fault


@dataclass(frozen=True)
class Moved:
    """A completed move. ``following``: the services that serve ``to_version`` from now on."""

    view: str
    kind: Move
    from_version: int | None
    to_version: int
    moved_at: datetime
    moved_by: str
    reason: str | None
    forced: bool
    following: tuple[str, ...]


def promote(
    conn: psycopg.Connection,
    project: str,
    view: str,
    version: int,
    *,
    reason: str | None = None,
    by: str | None = None,
    force: bool = False,
) -> Moved:
    """Make a version the default of its view. ``conn`` must be in autocommit.

    ``force`` takes a version whose values are not complete and fresh; it is recorded.

    Raises:
        SkewlessError: there is no such version, it is the default, retired or not ready, a
            service reads a feature that it lacks, or somebody else is at this view.
    """
    return _move(conn, project, view, version, "promote", reason, by, force=force)


def rollback(
    conn: psycopg.Connection,
    project: str,
    view: str,
    to: int | None = None,
    *,
    reason: str | None = None,
    by: str | None = None,
    force: bool = False,
) -> Moved:
    """Undo the last promotion, or make ``to`` the default again.

    Raises:
        InputError: as `promote`, or there is nothing to go back to.
    """
    known = versions_of(conn, view)
    current = active(known)
    if to is None:
        to = previous_version(promotions(conn, view), current.version if current else None)
        if to is None or not any(one.version == to and one.kept for one in known):
            raise InputError(
                f"There is no version of {view} to go back to: say which, with --to vN "
                "(`skewless versions` lists them)."
            )
    return _move(conn, project, view, to, "rollback", reason, by, force=force, current=current)


def rollback_once(
    conn: psycopg.Connection,
    project: str,
    view: str,
    reason: str,
    *,
    by: str,
    against: int | None = None,
) -> str:
    """`rollback` for programs that may ask twice: once for each reason.

    Args:
        conn: A connection in autocommit.
        project: Feast's project.
        view: The view.
        reason: Names the request; a rollback that was made for it before is what is returned.
        by: Who asks, for the record of moves.
        against: The version to go back from; another default is left alone, since somebody has
            moved it meanwhile.

    Returns:
        What was done, as in ``v2 -> v1``.

    Raises:
        SkewlessError: as `rollback`.
    """
    with conn.transaction():
        hold_pointer(conn, view, wait=False)
        for move in reversed(promotions(conn, view)):
            if move.kind == "rollback" and move.reason == reason:
                return f"v{move.from_version} -> v{move.to_version}"
        default = active(published(conn, view))
        if against is not None and (default is None or default.version != against):
            now = "no version" if default is None else f"v{default.version}"
            return f"left alone: {now} is the default, and no more v{against}"
        moved = rollback(conn, project, view, reason=reason, by=by)
    return f"v{moved.from_version} -> v{moved.to_version}"


def previous_version(moves: list[Promotion], current: int | None) -> int | None:
    """The version that the promotion of ``current`` replaced; earlier rollbacks do not count."""
    for move in reversed(moves):
        if move.to_version == current and move.kind != "rollback":
            return move.from_version
    return None


def not_ready_reason(conn: psycopg.Connection, one: Published) -> str | None:
    """Why a version may not be promoted: not filled, never ticked, or stale; None if it may."""
    if one.kind == "transform":
        return None
    if one.filled_at is None:
        return f"{one.name} is not filled yet: run `skewless apply`"
    row = conn.execute(
        "SELECT clock_timestamp() - least(processed_through, published_through) FROM watermarks "
        "WHERE view_name = %s AND version = %s AND published_through IS NOT NULL",
        [one.view_name, one.version],
    ).fetchone()
    if row is None:
        return f"{one.name} was never computed: run `skewless refresh --view {one.view_name}`"
    if one.budget is not None and row[0] > one.budget:
        return (
            f"{one.name} is {str(row[0]).partition('.')[0]} behind, of {one.budget} allowed: run "
            f"`skewless refresh --view {one.view_name}`"
        )
    return None


def _move(
    conn: psycopg.Connection,
    project: str,
    view: str,
    version: int,
    kind: Move,
    reason: str | None,
    by: str | None,
    *,
    force: bool,
    current: Published | None = None,
) -> Moved:
    seen = current or active(published(conn, view))
    with conn.transaction():
        hold_pointer(conn, view, wait=False)
        known = published(conn, view)
        target, old = find(conn, view, version), active(known)
        if (old and old.version) != (seen and seen.version):
            raise ConflictError(
                f"Another operator has just made v{old.version if old else '–'} the default of "
                f"{view}: look at `skewless versions`, then decide again."
            )
        _check(conn, target, force=force)
        point(Fault.MOVE_CHECKED)

        if old is not None:
            set_state(conn, view, old.version, "live" if old.filled_at else "staged")
        set_state(conn, view, version, "active")
        point(Fault.MOVE_STATES_SET)

        message = feast_registry_rows.snapshot(conn, project, view, version) or target.feast_proto
        feast_registry_rows.write_default(conn, project, target.kind, view, message)
        if old is not None and old.content["types"] != target.content["types"]:
            after = feast_registry_rows.parse(target.kind, message)
            feast_registry_rows.follow(conn, project, view, old.features, after)
        following = followers(conn, project, view)
        point(Fault.MOVE_FEAST_WRITTEN)

        who = by or account_name()
        versions = (old.version if old else None, version)
        at = note_move(conn, view, kind, versions, who, reason, forced=force)
        point(Fault.MOVE_NOTED)
    point(Fault.MOVE_COMMITTED)
    return Moved(view, kind, versions[0], version, at, who, reason, force, tuple(following))


def _check(conn: psycopg.Connection, target: Published, *, force: bool) -> None:
    if target.state == "active":
        raise ConflictError(
            f"v{target.version} is the default of {target.view_name} already: nothing was changed."
        )
    if target.state == "retired":
        raise ConflictError(
            f"{target.name} was retired and its values are gone: publish its definition again "
            "under the next number."
        )
    if not force and (why := not_ready_reason(conn, target)):
        raise ConflictError(f"{why}; --force takes it as it is, and is recorded.")

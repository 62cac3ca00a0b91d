"""Publish a view's version, or check that a published one is unchanged; follow default pointers."""

import copy
from datetime import UTC, datetime
from typing import Any

import psycopg
from feast import FeatureService, FeatureView, OnDemandFeatureView, StreamFeatureView

from extensions.account_name import account_name
from extensions.asof.definition_fingerprint import Definition
from extensions.errors import ConflictError, DefinitionError
from extensions.stores.registry import feast_registry_rows
from extensions.stores.registry import version_store as rows
from extensions.stores.registry.version_store import Kind, Published
from extensions.version_names import sql_file


def is_versioned(view: Any) -> bool:
    """Views that we compute, and transforms that name a version; all others are Feast's."""
    if isinstance(view, OnDemandFeatureView):
        return number_of(view) is not None
    plain = isinstance(view, FeatureView) and not isinstance(view, StreamFeatureView)
    return plain and "freshness" in view.tags


def number_of(view: Any) -> int | None:
    """The version that a view names, from v1 on."""
    text = str(getattr(view, "version", "") or "").lower().removeprefix("version")
    digits = text.removeprefix("v")
    return int(digits) if digits.isdigit() and int(digits) > 0 else None


def publish(
    conn: psycopg.Connection, project: str, view: Any, mine: Definition, known: list[Published]
) -> int:
    """Publish a definition, or check that it is what was published under its number.

    The first version of a view becomes the default; a later one is staged.

    Args:
        conn: The registry's database, in a transaction.
        project: Feast's project.
        view: The Feast view or transform.
        mine: Its definition.
        known: The versions of it that were published.

    Returns:
        The number of the default version.

    Raises:
        SkewlessError: it is published otherwise, or was retired.
    """
    same = next((each for each in known if each.version == mine.version), None)
    default = rows.active(known)
    message = feast_registry_rows.stamped(
        kind_of(view), view.to_proto().SerializeToString(), project, mine.version
    )
    if mine.kind == "computation":
        message.spec.tags[feast_registry_rows.SQL_TAG] = mine.content["sql"]
    if same is None:
        _check_keys(mine, known)
        state: rows.State = "active"
        if default is not None:
            # A transform has no values of its own to fill.
            state = "live" if mine.kind == "transform" else "staged"
        raw = message.SerializeToString()
        rows.record(conn, mine, state, raw)
        if default is None:
            rows.note_move(conn, mine.view, "first", (None, mine.version), account_name(), None)
        [same] = [each for each in rows.published(conn, mine.view) if each.version == mine.version]
        write_version(conn, project, same, raw)
        return default.version if default else mine.version
    check_unchanged(mine, same, known)
    held = feast_registry_rows.snapshot(conn, project, same.view_name, same.version)
    if held is not None:
        before = feast_registry_rows.parse(same.kind, held)
        message.meta.created_timestamp.CopyFrom(before.meta.created_timestamp)
        if same.kind == "computation" and not message.meta.materialization_intervals:
            message.meta.materialization_intervals.extend(before.meta.materialization_intervals)
        if not message.meta.state:
            message.meta.state = before.meta.state
    else:
        message.meta.created_timestamp.FromDatetime(datetime.now(UTC))
    raw = message.SerializeToString(deterministic=True)
    if held is None or _differ(same.kind, held, raw) or same.state == "active":
        write_version(conn, project, same, raw)
    return default.version if default else mine.version


def check_unchanged(mine: Definition, same: Published, known: list[Published]) -> None:
    """Refuse a change of a published definition, and the reuse of a retired number.

    Raises:
        SkewlessError: with the number to take instead.
    """
    number = max(each.version for each in known) + 1
    advice = (
        f'make v{number} (version="v{number}", {sql_file(mine.view, number)})'
        if mine.kind == "computation"
        else f'make v{number} (version="v{number}")'
    )
    if same.state == "retired":
        raise ConflictError(f"{mine.name} was retired and its number is used up: {advice}.")
    if changed := mine.changed(same.definition):
        raise ConflictError(
            f"{mine.name} is published and its {', '.join(changed)} must not change: take the "
            f"change back, or {advice}."
        )


def _check_keys(mine: Definition, known: list[Published]) -> None:
    for other in known:
        before = other.content.get("join_keys")
        if (
            other.state != "retired"
            and before
            and sorted(before) != sorted(mine.content["join_keys"])
        ):
            raise ConflictError(
                f"{mine.name} has other join keys than {other.name}: that is another view, so give "
                "it another name."
            )


def follow_pointers(conn: psycopg.Connection, service: FeatureService) -> None:
    """Unpin projections whose version nobody named, and give them the default's features."""
    named = [each for each in getattr(service, "_features", []) if not isinstance(each, str)]
    for given, projection in zip(named, service.feature_view_projections, strict=False):
        if is_versioned(given) and given.projection.version_tag is None:
            projection.version_tag = None
    for projection in service.feature_view_projections:
        if projection.version_tag is None:
            follow_pointer(conn, projection)


def follow_pointer(conn: psycopg.Connection, projection: Any) -> None:
    """Give a projection of all of some version's features all of the default's.

    Raises:
        SkewlessError: it names a feature that the default does not have.
    """
    known = rows.published(conn, projection.name)
    default = rows.active(known)
    if default is None:
        return
    held, there = {field.name for field in projection.features}, set(default.definition.features)
    if any(held == set(version.definition.features) for version in known) and held != there:
        proto = feast_registry_rows.parse(default.kind, default.feast_proto)
        kind: Any = FeatureView if default.kind == "computation" else OnDemandFeatureView
        projection.features = copy.copy(kind.from_proto(proto).features)
    elif not held <= there:
        raise DefinitionError(
            f"{projection.name}:{min(held - there)} is asked for, which the default, "
            f"v{default.version}, does not have: promote the version that has it first, or name "
            f'it: "{projection.name}@vN".'
        )


def write_version(
    conn: psycopg.Connection, project: str, version: Published, message: bytes
) -> None:
    """Write a version's snapshot to Feast's registry, and the view's row if it is the default."""
    feast_registry_rows.write_snapshot(
        conn, project, version.kind, version.view_name, version.version, message
    )
    if version.state == "active":
        feast_registry_rows.write_default(conn, project, version.kind, version.view_name, message)


def _differ(kind: Kind, held: bytes, message: bytes) -> bool:
    return bool(feast_registry_rows.parse(kind, held) != feast_registry_rows.parse(kind, message))


def kind_of(view: Any) -> Kind:
    """Whether a view is a transform or a computation."""
    return "transform" if isinstance(view, OnDemandFeatureView) else "computation"

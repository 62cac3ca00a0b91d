"""The registry: Feast's SQL registry, in which a published version stays what it is.

Whoever applies (`feast apply`, `FeatureStore.apply`, a notebook): a published definition cannot
be redefined, a new version of a published view is staged and not made the default, and a pointer
that was moved stays where it was moved to. All of a view is written in one transaction.

Feast 0.67 names its registry's class in its own source, so this module puts its subclass in that
place when it is imported, which happens when `feature_store.yaml` names our stores.
"""

import copy
import functools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import feast.feature_store
import psycopg
from feast import FeatureService, FeatureView, OnDemandFeatureView, StreamFeatureView
from feast.base_feature_view import BaseFeatureView
from feast.diff import registry_diff
from feast.errors import FeatureViewNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID, FeatureViewState
from feast.infra.registry.sql import SqlRegistry
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from sqlalchemy.exc import IntegrityError, ProgrammingError

from extensions.addresses import REPO_ROOT
from extensions.asof.computation import COMPUTATIONS, computation_of, computation_sql, pg_type
from extensions.asof.definition_fingerprint import Definition
from extensions.asof.definition_validation import check_view
from extensions.errors import SkewlessError
from extensions.stores.registry import feast_registry_rows
from extensions.stores.registry import version_store as rows
from extensions.stores.registry.version_store import Kind, Published
from extensions.stores.registry.version_timeline import (
    ServedEra,
    TransformEra,
    served_eras,
    transform_eras,
)
from extensions.stores.schema_history import keep_earlier

# Tries to make what several programs make at once on an empty database.
FIRST_ATTEMPTS = 10


class SkewlessSqlRegistry(SqlRegistry):
    """Views that we compute, and transforms that name a version, are published once and for all."""

    def __init__(self, registry_config: Any, project: str, repo_path: Path | None) -> None:
        """Open the registry; several programs may be the first to."""
        open_registry = super().__init__
        _again_if_another_was_first(lambda: open_registry(registry_config, project, repo_path))

    def _apply_object(self, *args: Any, **kwargs: Any) -> Any:
        """As Feast's, which looks whether a row is there and then inserts it: others may, too."""
        apply_object = super()._apply_object
        return _again_if_another_was_first(lambda: apply_object(*args, **kwargs))

    def proto(self) -> RegistryProto:
        """All of the registry, as of now.

        Feast keeps what it parsed by the message's address in memory and its version id, which a
        SQL registry leaves empty: a later message at the address of one that was let go would be
        taken for it, and a pointer that moved not be seen.
        """
        message: RegistryProto = super().proto()
        message.version_id = str(uuid.uuid4())
        return message

    def apply_feature_view(
        self,
        feature_view: BaseFeatureView,
        project: str,
        commit: bool = True,
        no_promote: bool = False,
    ) -> None:
        """Publish a new version, or note what may change about a published one.

        Raises:
            SkewlessError: a published definition would change, or a number be used again.
        """
        check_view(feature_view)
        if not (is_versioned(feature_view) and self._here()):
            before = self._plain_view(feature_view, project)
            changed = before is not None and keep_earlier(before, feature_view)
            apply_view = super().apply_feature_view
            _again_if_another_was_first(
                lambda: apply_view(feature_view, project, commit, no_promote)
            )
            if changed and self.enable_online_versioning:
                self._say_empty(before, project)
            return
        feature_view.ensure_valid()  # type: ignore[no-untyped-call]
        self._ensure_feature_view_name_is_unique(feature_view, project)
        self._initialize_project_if_not_exists(project_name=project)
        view: Any = feature_view
        from_file = view.created_timestamp is None
        with self._rows() as conn:
            rows.hold_pointer(conn, view.name, wait=True)
            known = rows.published(conn, view.name) or self._adopt(conn, view, project)
            mine = self.definition(view, project, known)
            if mine.kind == "transform":
                for projection in view.source_feature_view_projections.values():
                    _follow_pointer(conn, projection)
            default = publish(conn, project, view, mine, known)
        view.current_version_number = mine.version
        if from_file and default != mine.version:
            click.echo(
                f"{view.name}: v{default} stays the default; v{mine.version} is published beside "
                f"it (`skewless promote {view.name} v{mine.version}` makes it the default).",
                err=True,
            )
        if self.cache_mode == "sync":
            self.refresh()

    def apply_feature_service(
        self, feature_service: FeatureService, project: str, commit: bool = True
    ) -> None:
        """A service that names no version follows the pointer; ``"view@vN"`` stays at vN.

        One that is to be precomputed is refused: nobody would keep what was computed.

        Feast pins what is given as a view object to the version in its file, whether or not it
        is the default by now; the pin that nobody wrote is taken off.
        """
        if feature_service.precompute_online:
            raise SkewlessError(
                f"The feature service {feature_service.name} has precompute_online=True, which "
                "this online store does not keep: its rows are read in one round trip as they "
                "are. Take precompute_online out; the service serves the same values."
            )
        if self._here():
            feature_service.prepare_for_apply(self, project, allow_cache=True)
            with self._rows() as conn:
                follow_pointers(conn, feature_service)
        super().apply_feature_service(feature_service, project, commit)

    def apply_materialization(
        self,
        feature_view: Any,
        project: str,
        start_date: datetime,
        end_date: datetime,
        commit: bool = True,
    ) -> None:
        """Note the range at the version that was materialized, which need not be the default."""
        if not (is_versioned(feature_view) and self._here()):
            super().apply_materialization(feature_view, project, start_date, end_date, commit)
            return
        version: int = feature_view.current_version_number or number_of(feature_view) or 0
        with self._rows() as conn:
            rows.hold_pointer(conn, feature_view.name, wait=True)
            one = rows.find(conn, feature_view.name, version)
            held = feast_registry_rows.snapshot(conn, project, one.view_name, version)
            proto = feast_registry_rows.stamped(one.kind, held or one.feast_proto, project, version)
            interval = proto.meta.materialization_intervals.add()
            interval.start_time.FromDatetime(start_date)
            interval.end_time.FromDatetime(end_date)
            proto.meta.state = FeatureViewState.AVAILABLE_ONLINE.to_proto()
            _write(conn, project, one, proto.SerializeToString())
        if self.cache_mode == "sync":
            self.refresh()

    def delete_feature_view(self, name: str, project: str, commit: bool = True) -> None:
        """Delete a view of which nothing is published any more.

        Raises:
            SkewlessError: versions of it are computed or served.
        """
        if self._here():
            with self._rows() as conn:
                kept = [one for one in rows.published(conn, name) if one.kept]
            if kept:
                versions = ", ".join(f"v{one.version}" for one in kept)
                raise SkewlessError(
                    f"{name} is published ({versions}): bring its file back, or take its versions "
                    f"out of use first with `skewless retire {name} vN`."
                )
        super().delete_feature_view(name, project, commit)

    def teardown(self) -> None:
        """Feast's rows and what was published; the logs and the record of moves stay."""
        super().teardown()  # type: ignore[no-untyped-call]
        if self._here():
            with self._rows() as conn:
                conn.execute("DELETE FROM view_versions")

    def served_eras(self, view: str) -> tuple[ServedEra, ...]:
        """Which version of a view was the default when; empty where there was only one."""
        if not self._here():
            return ()
        with self._rows() as conn:
            return served_eras(conn, view)

    def transform_eras(self, name: str) -> tuple[TransformEra, ...]:
        """Which version of a transform was the default when; empty where there was only one."""
        if not self._here():
            return ()
        with self._rows() as conn:
            return transform_eras(conn, name)

    def definition(self, view: Any, project: str, known: list[Published]) -> Definition:
        """The definition of a view as its file has it.

        Raises:
            SkewlessError: it names no version, or its SQL is not there.
        """
        if isinstance(view, OnDemandFeatureView):
            return Definition.of_transform(view)
        version = number_of(view)
        if version is None:
            raise SkewlessError(
                f'View {view.name} names no version: give it version="v1" and keep its SQL in '
                f"{COMPUTATIONS}/{view.name}.v1.sql."
            )
        try:
            text = computation_sql(_root(), view)
        except SkewlessError:
            mine = [one for one in known if one.version == version]
            if not mine:
                raise
            text = mine[0].content["sql"]
        keys = [
            (column.name, pg_type(column.dtype))
            for column in view.entity_columns
            if column.name != DUMMY_ENTITY_ID
        ]
        sources = self.list_data_sources(project, allow_cache=False)
        return Definition.of_computation(computation_of(view, keys, sources, text), view)

    def _plain_view(self, view: BaseFeatureView, project: str) -> FeatureView | None:
        """A view that Feast versions, if at all, as it is registered now."""
        if not isinstance(view, FeatureView):
            return None
        try:
            held: FeatureView = self.get_feature_view(view.name, project)
        except FeatureViewNotFoundException:
            return None
        return held

    def _say_empty(self, before: Any, project: str) -> None:
        """Say that a schema which is a new version of Feast's begins without rows online."""
        view = self._plain_view(before, project)
        if view is not None and view.current_version_number != before.current_version_number:
            click.echo(
                f"{view.name}: the changed schema is v{view.current_version_number}, which has no "
                f"values online yet: run `skewless rebuild-online --view {view.name}`.",
                err=True,
            )

    def _adopt(self, conn: psycopg.Connection, view: Any, project: str) -> list[Published]:
        """What was applied before versions were kept: Feast's default is the first published."""
        kind = _kind(view)
        message = feast_registry_rows.default(conn, project, kind, view.name)
        if message is None:
            return []
        proto = feast_registry_rows.parse(kind, message)
        old: Any = (FeatureView if kind == "computation" else OnDemandFeatureView).from_proto(proto)
        if number_of(old) is None or number_of(old) == number_of(view):
            return []
        mine = self.definition(old, project, [])
        publish(conn, project, old, mine, [])
        return rows.published(conn, view.name)

    def _here(self) -> bool:
        """Whether this registry's database keeps versions: a PostgreSQL that was migrated."""
        if self.write_engine.dialect.name != "postgresql":
            return False
        with self._rows() as conn:
            return rows.has_versions(conn)

    @contextmanager
    def _rows(self) -> Iterator[psycopg.Connection]:
        with self.write_engine.begin() as connection:
            driver: Any = connection.connection.driver_connection
            yield driver


def _again_if_another_was_first(step: Callable[[], Any]) -> Any:
    """Do a step that makes what is missing; another program may make it in between."""
    for attempt in range(FIRST_ATTEMPTS):
        try:
            return step()
        except (IntegrityError, ProgrammingError):
            if attempt + 1 == FIRST_ATTEMPTS:
                raise
            time.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - no secret
    return None


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
    """Publish ``mine`` or check that it is what was published; returns the default version.

    The first version of a view is the default at once; a later one is staged.

    Raises:
        SkewlessError: it is published otherwise, or was retired.
    """
    same = next((one for one in known if one.version == mine.version), None)
    default = rows.active(known)
    message = feast_registry_rows.stamped(_kind(view), view.to_proto().SerializeToString(), project,
                                 mine.version)  # fmt: skip
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
            rows.note_move(conn, mine.view, "first", (None, mine.version), rows.operator(), None)
        [same] = [one for one in rows.published(conn, mine.view) if one.version == mine.version]
        _write(conn, project, same, raw)
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
        _write(conn, project, same, raw)
    return default.version if default else mine.version


def check_unchanged(mine: Definition, same: Published, known: list[Published]) -> None:
    """A published definition stays; a retired number is not used again.

    Raises:
        SkewlessError: with the number to take instead.
    """
    number = max(one.version for one in known) + 1
    advice = (
        f'make v{number} (version="v{number}", computations/{mine.view}.v{number}.sql)'
        if mine.kind == "computation"
        else f'make v{number} (version="v{number}")'
    )
    if same.state == "retired":
        raise SkewlessError(f"{mine.name} was retired and its number is used up: {advice}.")
    if changed := mine.changed(same.definition):
        raise SkewlessError(
            f"{mine.name} is published and its {', '.join(changed)} must not change: take the "
            f"change back, or {advice}."
        )


def _check_keys(mine: Definition, known: list[Published]) -> None:
    for one in known:
        before = one.content.get("join_keys")
        if (
            one.state != "retired"
            and before
            and sorted(before) != sorted(mine.content["join_keys"])
        ):
            raise SkewlessError(
                f"{mine.name} has other join keys than {one.name}: that is another view, so give "
                "it another name."
            )


def follow_pointers(conn: psycopg.Connection, service: FeatureService) -> None:
    """Take off the pins that nobody wrote, and ask for the features that the default has."""
    named = [one for one in getattr(service, "_features", []) if not isinstance(one, str)]
    for one, projection in zip(named, service.feature_view_projections, strict=False):
        if is_versioned(one) and one.projection.version_tag is None:
            projection.version_tag = None
    for projection in service.feature_view_projections:
        if projection.version_tag is None:
            _follow_pointer(conn, projection)


def _follow_pointer(conn: psycopg.Connection, projection: Any) -> None:
    """Who asks for all features of some version asks for all of the default's."""
    known = rows.published(conn, projection.name)
    default = rows.active(known)
    if default is None:
        return
    held, there = {field.name for field in projection.features}, set(default.definition.features)
    if any(held == set(one.definition.features) for one in known) and held != there:
        proto = feast_registry_rows.parse(default.kind, default.feast_proto)
        kind: Any = FeatureView if default.kind == "computation" else OnDemandFeatureView
        projection.features = copy.copy(kind.from_proto(proto).features)
    elif not held <= there:
        raise SkewlessError(
            f"{projection.name}:{min(held - there)} is asked for, which the default, "
            f"v{default.version}, does not have: promote the version that has it first, or name "
            f'it: "{projection.name}@vN".'
        )


def _write(conn: psycopg.Connection, project: str, one: Published, message: bytes) -> None:
    """A version's snapshot, and the default's row too where it is the default."""
    feast_registry_rows.write_snapshot(conn, project, one.kind, one.view_name, one.version, message)
    if one.state == "active":
        feast_registry_rows.write_default(conn, project, one.kind, one.view_name, message)


def _differ(kind: Kind, held: bytes, message: bytes) -> bool:
    return bool(feast_registry_rows.parse(kind, held) != feast_registry_rows.parse(kind, message))


def _kind(view: Any) -> Kind:
    return "transform" if isinstance(view, OnDemandFeatureView) else "computation"


def _root() -> Path:
    """The repository that is applied, where `feast apply` works; else the one around us."""
    here = Path.cwd()
    return here if (here / COMPUTATIONS).is_dir() else REPO_ROOT


def _without_sql_tag(diff: Callable[..., Any]) -> Callable[..., Any]:
    """Feast's comparison of two objects for `feast plan`, but for the tag that we add."""

    @functools.wraps(diff)
    def compared(current: Any, new: Any, object_type: Any) -> Any:
        if isinstance(current, FeatureView) and feast_registry_rows.SQL_TAG in current.tags:
            current, new = copy.copy(current), copy.copy(new)
            for view in (current, new):
                view.tags = {k: v for k, v in view.tags.items() if k != feast_registry_rows.SQL_TAG}
        return diff(current, new, object_type)

    return compared


def install() -> None:
    """Make every `FeatureStore` of this process use this registry for ``registry_type: sql``."""
    feast.feature_store.SqlRegistry = SkewlessSqlRegistry  # type: ignore[attr-defined]
    registry_diff.diff_registry_objects = _without_sql_tag(registry_diff.diff_registry_objects)


install()

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
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import feast.feature_store
import feast.repo_operations
import psycopg
from feast import FeatureService, FeatureView, OnDemandFeatureView
from feast.base_feature_view import BaseFeatureView
from feast.diff import registry_diff
from feast.errors import FeatureViewNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID, FeatureViewState
from feast.infra.registry.sql import SqlRegistry
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError

from extensions.addresses import repository_of
from extensions.asof.aggregations.completion import complete, completing
from extensions.asof.aggregations.declaration import aggregations_of
from extensions.asof.computation_loading import computation_of, declared_computation
from extensions.asof.definition_fingerprint import Definition
from extensions.asof.definition_validation import check_aliases, check_view
from extensions.database.project_claim import check_project
from extensions.errors import ConflictError, DefinitionError
from extensions.feature_types import pg_type
from extensions.repository import repo_root
from extensions.stores.registry import feast_registry_rows
from extensions.stores.registry import version_store as rows
from extensions.stores.registry.registry_message import registry_message
from extensions.stores.registry.repository_files import pruned
from extensions.stores.registry.version_publication import (
    follow_pointer,
    follow_pointers,
    is_versioned,
    kind_of,
    number_of,
    publish,
    write_version,
)
from extensions.stores.registry.version_store import Published
from extensions.stores.registry.version_timeline import (
    ServedEra,
    TransformEra,
    served_eras,
    transform_eras,
)
from extensions.stores.schema_history import keep_earlier
from extensions.version_names import COMPUTATIONS, sql_file

# Tries to make what several programs make at once on an empty database.
FIRST_ATTEMPTS = 10


class SkewlessSqlRegistry(SqlRegistry):
    """Views that we compute, and transforms that name a version, are published once and for all."""

    def __init__(self, registry_config: Any, project: str, repo_path: Path | None) -> None:
        """Open the registry; several programs may be the first to.

        Raises:
            ConflictError: its database belongs to another project.
        """
        self._project = project
        self._repository = repo_path or repository_of(make_url(registry_config.path))
        open_registry = super().__init__
        _again_if_another_was_first(lambda: open_registry(registry_config, project, repo_path))
        if self.write_engine.dialect.name == "postgresql":
            with self._rows() as conn:
                check_project(conn, project)

    def _apply_object(self, *args: Any, **kwargs: Any) -> Any:
        """As Feast's, which looks whether a row is there and then inserts it: others may, too."""
        apply_object = super()._apply_object
        return _again_if_another_was_first(lambda: apply_object(*args, **kwargs))

    def proto(self) -> RegistryProto:
        """All of the registry as of now, from one statement.

        Feast keeps what it parsed by the message's address in memory and its version id, which a
        SQL registry leaves empty: a later message at the address of one that was let go would be
        taken for it, and a pointer that moved not be seen.
        """
        with self.read_engine.connect() as conn:
            message = registry_message(conn)
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
        given = getattr(feature_view, "batch_source", None)
        for source in complete(feature_view):
            if feature_view.batch_source is not given:  # type: ignore[attr-defined]
                # Given as an object: when files are read, sources are read with them.
                self.apply_data_source(source, project)
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
                    follow_pointer(conn, projection)
            default = publish(conn, project, view, mine, known)
        view.current_version_number = mine.version
        if from_file and default != mine.version:
            click.echo(
                f"{view.name}: v{default} stays the default; v{mine.version} is published beside "
                f"it.\n  → `skewless promote {view.name} v{mine.version}` makes it the default.",
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
            raise DefinitionError(
                f"The feature service {feature_service.name} has precompute_online=True, which "
                "this online store does not keep: its rows are read in one round trip as they "
                "are. Take precompute_online out; the service serves the same values."
            )
        if any(each.name_alias for each in feature_service.feature_view_projections):
            check_aliases(feature_service, self.list_on_demand_feature_views(project))
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
            published = rows.find(conn, feature_view.name, version)
            held = feast_registry_rows.snapshot(conn, project, published.view_name, version)
            proto = feast_registry_rows.stamped(
                published.kind, held or published.feast_proto, project, version
            )
            interval = proto.meta.materialization_intervals.add()
            interval.start_time.FromDatetime(start_date)
            interval.end_time.FromDatetime(end_date)
            proto.meta.state = FeatureViewState.AVAILABLE_ONLINE.to_proto()
            write_version(conn, project, published, proto.SerializeToString())
        if self.cache_mode == "sync":
            self.refresh()

    def delete_feature_view(self, name: str, project: str, commit: bool = True) -> None:
        """Delete a view of which nothing is published any more.

        Raises:
            ConflictError: versions of it are computed or served.
        """
        if self._here():
            with self._rows() as conn:
                kept = [each for each in rows.published(conn, name) if each.kept]
            if kept:
                versions = ", ".join(f"v{each.version}" for each in kept)
                raise ConflictError(
                    f"{name} is published ({versions}): bring its file back, or take its versions "
                    f"out of use first with `skewless retire {name} vN`."
                )
        super().delete_feature_view(name, project, commit)

    def teardown(self) -> None:
        """Feast's rows and what was published; the logs and the record of moves stay.

        Raises:
            ConflictError: the database belongs to another project.
        """
        if self._here():
            with self._rows() as conn:
                check_project(conn, self._project)
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
            DefinitionError: it names no version, or its SQL is not there.
        """
        if isinstance(view, OnDemandFeatureView):
            return Definition.of_transform(view)
        version = number_of(view)
        if version is None:
            raise DefinitionError(
                f'View {view.name} names no version: give it version="v1" and keep its SQL in '
                f"{sql_file(view.name, 1)}."
            )
        root = _with_computations(self._repository)
        keys = [
            (column.name, pg_type(column.dtype))
            for column in view.entity_columns
            if column.name != DUMMY_ENTITY_ID
        ]
        sources = self.list_data_sources(project, allow_cache=False)
        mine = next((each for each in known if each.version == version), None)
        is_file = (root / sql_file(view.name, version)).is_file()
        if mine is not None and not is_file and not aggregations_of(view):
            # As Feast's registry gives it, which keeps neither files nor aggregations.
            computation = replace(
                computation_of(view, keys, sources, mine.content["sql"]),
                declaration=mine.content.get("declaration"),
            )
        else:
            computation = declared_computation(root, view, keys, sources)
        declared = Definition.of_computation(computation, view)
        return declared if mine is None else declared.with_text_of(mine.definition)

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
        kind = kind_of(view)
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
            # As `connect` does: the control tables compare it with the database's claim.
            driver.execute("SELECT set_config('skewless.project', %s, TRUE)", [self._project])
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


def _with_computations(repo_path: Path | None) -> Path:
    """The repository with the SQL files: the configuration's, else the one that we are in."""
    for folder in (repo_path, Path.cwd()):
        if folder is not None and (folder / COMPUTATIONS).is_dir():
            return folder
    return repo_root()


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
    feast.repo_operations.parse_repo = completing(feast.repo_operations.parse_repo)
    feast.repo_operations.get_repo_files = pruned(  # type: ignore[assignment]
        feast.repo_operations.get_repo_files
    )
    registry_diff.diff_registry_objects = _without_sql_tag(registry_diff.diff_registry_objects)


install()

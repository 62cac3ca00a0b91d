"""Consistency of versions between PostgreSQL, Feast's registry and Redis, for `skewless doctor`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from feast import FeatureStore

from extensions.asof.watermarks import read_watermark
from extensions.database.connection import table_exists
from extensions.errors import SkewlessError
from extensions.stores.registry import feast_registry_rows
from extensions.stores.registry.version_store import (
    Published,
    active,
    has_versions,
    promotions,
    published,
)
from extensions.versions.declared_definitions import read_declared
from extensions.versions.online_sample import leftovers, sample
from extensions.versions.retirement import unfinished

SAMPLED_ENTITIES = 100
SCANNED_KEYS = 20_000


@dataclass(frozen=True)
class Disagreement:
    """An inconsistency between two of them, and what to do about it."""

    view: str
    what: str
    advice: str


def disagreements(
    store: FeatureStore, conn: psycopg.Connection, repo_root: Path | None = None
) -> list[Disagreement]:
    """Return every inconsistency; an empty list means healthy.

    Args:
        store: Feast's store, with its registry and Redis.
        conn: A connection in autocommit.
        repo_root: Where given, files that redefine a published version are reported, too.
    """
    if not has_versions(conn) or not table_exists(conn, "feature_view_version_history"):
        return []
    known: dict[str, list[Published]] = {}
    for one in published(conn):
        known.setdefault(one.view_name, []).append(one)
    checker = _Checker(store, conn)
    found = list(checker.leftovers())
    for view, versions in known.items():
        found.extend(checker.pointer(view, versions))
        for one in versions:
            found.extend(checker.version(one))
    found.extend(checker.services(known))
    if repo_root is not None:
        found.extend(_files(repo_root, known))
    return found


class _Checker:
    def __init__(self, store: FeatureStore, conn: psycopg.Connection) -> None:
        self._store, self._conn, self._project = store, conn, store.project
        self._snapshots = feast_registry_rows.snapshots(conn, store.project)

    def pointer(self, view: str, versions: list[Published]) -> Iterator[Disagreement]:
        """The view's default is the same in `view_versions`, `promotions` and Feast's registry."""
        default = active(versions)
        kept = [one for one in versions if one.kept]
        message = feast_registry_rows.default(self._conn, self._project, versions[0].kind, view)
        if default is None:
            if kept:
                yield Disagreement(view, "no version is the default", f"`skewless promote {view}`")
            if message is not None:
                yield Disagreement(view, "Feast knows a view that is retired", "`feast apply`")
            return
        moves = promotions(self._conn, view)
        if not moves or moves[-1].to_version != default.version:
            yield Disagreement(
                view,
                f"v{default.version} is the default, and no move says so",
                "`skewless versions`",
            )
        if message is None:
            yield Disagreement(view, "Feast has no row of the view", "Run `skewless apply`.")
            return
        proto = feast_registry_rows.parse(default.kind, message)
        said = (proto.meta.current_version_number, proto.spec.version)
        if said != (default.version, f"v{default.version}"):
            yield Disagreement(
                view,
                f"v{default.version} is the default, and Feast serves {said[1]} ({said[0]})",
                f"Run `skewless promote {view} vN` for the one that is meant.",
            )

    def version(self, one: Published) -> Iterator[Disagreement]:
        """A live version has its registry snapshot, log and online rows; a retired one has none."""
        view, name = one.view_name, f"v{one.version}"
        message = self._snapshots.get((view, one.version))
        if one.fingerprint != one.definition.fingerprint:
            yield Disagreement(
                view, f"{name} is not what was published", "Restore `view_versions`."
            )
        if not one.kept:
            if message is not None:
                yield Disagreement(
                    view, f"Feast knows {name}, which is retired", "`skewless retire`"
                )
            yield from self._gone(one)
            return
        if message is None:
            yield Disagreement(view, f"Feast has no snapshot of {name}", "Run `skewless apply`.")
        else:
            spec = feast_registry_rows.parse(one.kind, message).spec
            if {column.name for column in spec.features} != set(one.definition.features):
                yield Disagreement(
                    view, f"Feast's {name} has another schema", "Run `skewless apply`."
                )
        if one.kind == "computation":
            yield from self._values(one)

    def _values(self, one: Published) -> Iterator[Disagreement]:
        view, name = one.view_name, f"v{one.version}"
        if not table_exists(self._conn, one.log_table):
            yield Disagreement(view, f"{name} has no log", "Run `skewless migrate`.")
            return
        mark = read_watermark(self._conn, one.definition.computation())
        if mark is None or mark.published_through is None:
            return
        held = sample(self._store, self._conn, one, mark.published_through, SAMPLED_ENTITIES)
        behind = sum(not each.current for each in held)
        if behind:
            yield Disagreement(
                view,
                f"{behind} of {len(held)} sampled rows of {name} are not in Redis as logged",
                f"Run `skewless rebuild-online --view {one.name}`.",
            )

    def _gone(self, one: Published) -> Iterator[Disagreement]:
        if one.kind == "transform":
            return
        view, name = one.view_name, f"v{one.version}"
        if one.log_dropped_at is not None and table_exists(self._conn, one.log_table):
            yield Disagreement(view, f"the log of {name} is back", f"`DROP TABLE {one.log_table}`")
        if read_watermark(self._conn, one.definition.computation()) is not None:
            yield Disagreement(
                view, f"{name} is retired and was computed", f"`skewless retire {view} {name}`"
            )
        if one.online_removed_at is not None and leftovers(self._store, one, SCANNED_KEYS):
            yield Disagreement(
                view, f"Redis holds rows of {name}, which is retired",
                f"`skewless retire {view} {name}`",
            )  # fmt: skip

    def leftovers(self) -> Iterator[Disagreement]:
        """Leftovers of an interrupted retire."""
        for one in unfinished(self._conn):
            yield Disagreement(
                one.view_name,
                f"v{one.version} is retired and not all of it is removed",
                f"Run `skewless retire {one.view_name} v{one.version}` once more.",
            )

    def services(self, known: dict[str, list[Published]]) -> Iterator[Disagreement]:
        """Services read versions that exist, and features that these have."""
        for service in feast_registry_rows.services(self._conn, self._project):
            for projection in service.spec.features:
                versions = known.get(projection.feature_view_name)
                if not versions:
                    continue
                one = active(versions)
                if projection.HasField("version_tag"):
                    number = projection.version_tag
                    one = next((v for v in versions if v.version == number and v.kept), None)
                names = {column.name for column in projection.feature_columns}
                if one is None or not names <= set(one.definition.features):
                    yield Disagreement(
                        projection.feature_view_name,
                        f"the service {service.spec.name} reads what is not served",
                        "Change the service in its file and run `skewless apply`.",
                    )


def _files(repo_root: Path, known: dict[str, list[Published]]) -> Iterator[Disagreement]:
    try:
        declared = read_declared(repo_root).definitions
    except SkewlessError as error:
        yield Disagreement("files", error.message, "Mend the file.")
        return
    for view, definition in declared.items():
        same = [one for one in known.get(view, []) if one.version == definition.version]
        changed = definition.changed(same[0].definition) if same else []
        if changed:
            yield Disagreement(
                view,
                f"the files change v{definition.version}, which is published: {', '.join(changed)}",
                "See `skewless plan`.",
            )

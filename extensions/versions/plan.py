"""`skewless plan`: what the files would change, its severity, readers and cost. Read-only."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from extensions.asof.definition_fingerprint import Definition
from extensions.asof.definition_validation import check_sources
from extensions.asof.log_cuts import cut_of
from extensions.asof.watermarks import read_watermark
from extensions.database.connection import table_exists
from extensions.database.scalars import clock, scalar
from extensions.engines.portability import construct_warnings, verdicts
from extensions.engines.verdict import Verdict
from extensions.errors import ConfigurationError, SkewlessError
from extensions.feast_internals import written_features
from extensions.service_routes import NAMES_TAG, ROUTE_TAG
from extensions.stores.registry import feast_registry_rows
from extensions.stores.registry.version_publication import check_unchanged, is_versioned, number_of
from extensions.stores.registry.version_store import (
    Published,
    active,
    has_versions,
    promotions,
    published,
)
from extensions.value_text import time_text
from extensions.versions.cost_estimate import Estimate, estimate
from extensions.versions.declared_definitions import Declared, read_declared
from extensions.versions.engine_choice import EngineSettings
from extensions.versions.retirement import readers_of
from extensions.versions.workload import Workload, workload


class Severity(IntEnum):
    """Kind of a change, in rising order of what it asks of the operator."""

    METADATA = 1  # descriptions, tags, owner: nothing is computed
    NEW_VIEW = 2  # becomes the default at once: nobody uses it yet
    NEW_VERSION = 3  # computed and served beside the default, until it is promoted
    UNFINISHED = 4  # an apply was interrupted: the next one resumes it
    REMOVED = 5  # no longer in the files, and not in use
    REFUSED = 6  # would change a published definition


@dataclass(frozen=True)
class Change:
    """A change of one view or service.

    Args:
        backfill: What must be computed.
        services: The services that read the view.
        consumers: The transforms that read it.
        through: The services that read it through one of these transforms only.
        pinned: References by number, which stay with that version, as in ``ranker_1 (v1)``.
        diff: Unified, of the SQL or of a transform's source; None without another version.
        verdict: Whether its text gives the same values in every engine; None of what is not
            computed by a text.
        warnings: Constructs in its text that are known to differ between engines.
        work: What its backfill takes, and in which engine.
    """

    name: str
    version: int | None
    severity: Severity
    what: str
    backfill: Estimate | None
    services: tuple[str, ...]
    consumers: tuple[str, ...]
    through: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    diff: str | None = None
    verdict: Verdict | None = None
    warnings: tuple[str, ...] = ()
    work: Workload | None = None


@dataclass(frozen=True)
class Plan:
    """What `skewless apply` would do; ``notes`` ask for nothing."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def refused(self) -> tuple[Change, ...]:
        """The changes that keep the plan from being applied."""
        return tuple(c for c in self.changes if c.severity is Severity.REFUSED)


def make_plan(
    conn: psycopg.Connection,
    project: str,
    repo_root: Path,
    *,
    since: datetime | None = None,
    estimates: bool = True,
    settings: EngineSettings | None = None,
) -> Plan:
    """Compare the files at ``repo_root`` with what is published. ``conn`` is in autocommit.

    ``since``: where backfills begin; else where the log of the default version does.
    ``settings``: of the engine of backfills.

    Raises:
        ConfigurationError: the files cannot be read, or the database was not migrated.
    """
    if not has_versions(conn):
        raise ConfigurationError("The database does not keep versions yet: run `skewless migrate`.")
    declared = read_declared(repo_root)
    computed = [d for d in declared.definitions.values() if d.kind == "computation"]
    check_sources(conn, [definition.computation() for definition in computed])
    planner = _Planner(conn, project, declared, since, estimates=estimates)
    planner.settings = settings or planner.settings
    return planner.plan()


class _Planner:
    def __init__(
        self,
        conn: psycopg.Connection,
        project: str,
        declared: Declared,
        since: datetime | None,
        *,
        estimates: bool,
    ) -> None:
        self._conn, self._project, self._declared = conn, project, declared
        self._since, self._estimates = since, estimates
        self.settings = EngineSettings()
        self._known: dict[str, list[Published]] = {}
        for one in published(conn):
            self._known.setdefault(one.view_name, []).append(one)
        applied = table_exists(conn, "feature_services")
        self._services = list(feast_registry_rows.services(conn, project)) if applied else []
        self._applied = applied

    def plan(self) -> Plan:
        changes, notes = [], []
        for name, definition in self._declared.definitions.items():
            known = self._known.get(name, [])
            if change := self._view(definition, known):
                changes.append(change)
            if note := self._pointer_note(name, known):
                notes.append(note)
        changes.extend(
            self._unfinished(one)
            for name, known in self._known.items()
            for one in known
            if one.version != self._declared.number(name) and not complete(self._conn, one)
        )
        changes.extend(self._removed())
        changes.extend(self._service_changes())
        notes.extend(
            f'{name} names no version, so Feast changes it in place: give it version="v1".'
            for name in self._declared.unversioned
        )
        if self._estimates:
            changes = self._judged(changes)
        return Plan(tuple(changes), tuple(notes))

    def _judged(self, changes: list[Change]) -> list[Change]:
        """The changes, with what both engines say of the texts that are new."""
        texts = {
            change.name: definition
            for change in changes
            if change.backfill is not None
            and (definition := self._definition(change.name, change.version)) is not None
        }
        found = verdicts(self._conn, texts.values())
        return [
            self._with_verdict(change, texts[change.name], found)
            if change.name in texts
            else change
            for change in changes
        ]

    def _with_verdict(
        self, change: Change, definition: Definition, found: Mapping[str, Verdict]
    ) -> Change:
        verdict, fill = found[definition.fingerprint], change.backfill
        return replace(
            change,
            verdict=verdict,
            warnings=construct_warnings(self._conn, definition),
            work=None
            if fill is None
            else workload(definition.computation(), fill, verdict, self.settings),
        )

    def _definition(self, view: str, version: int | None) -> Definition | None:
        """A computation of the files, or one that was published and is not filled yet."""
        declared = self._declared.definitions.get(view)
        if declared is not None and declared.version == version:
            return declared if declared.kind == "computation" else None
        known = self._known.get(view, [])
        return next((one.definition for one in known if one.version == version), None)

    def _view(self, definition: Definition, known: list[Published]) -> Change | None:
        same = next((one for one in known if one.version == definition.version), None)
        if same is not None:
            definition = definition.with_text_of(same.definition)
        else:
            default = active(known)
            if default is None:
                return self._change(definition, Severity.NEW_VIEW, "new view", fill=True)
            changed = ", ".join(definition.changed(default.definition)) or "nothing but the number"
            what = f"new version beside v{default.version} (differs in {changed})"
            return self._change(definition, Severity.NEW_VERSION, what, default, fill=True)
        try:
            check_unchanged(definition, same, known)
        except SkewlessError as error:
            return self._change(definition, Severity.REFUSED, error.message, same)
        if not complete(self._conn, same):
            return self._unfinished(same)
        if self._described_otherwise(definition.view, same):
            return self._change(definition, Severity.METADATA, "descriptions, tags or owner")
        return None

    def _unfinished(self, one: Published) -> Change:
        return self._change(one.definition, Severity.UNFINISHED, "is not filled yet", fill=True)

    def _pointer_note(self, name: str, known: list[Published]) -> str | None:
        default, number = active(known), self._declared.number(name)
        if default is None or number is None or default.version == number:
            return None
        if not any(one.version == number and one.filled_at for one in known):
            return None
        last = promotions(self._conn, name)[-1]
        how = f"{last.kind} by {last.moved_by}, {time_text(last.moved_at)}"
        return f"The files name {name} v{number}; v{default.version} is the default ({how})."

    def _described_otherwise(self, name: str, same: Published) -> bool:
        message = (
            feast_registry_rows.snapshot(self._conn, self._project, name, same.version)
            if self._applied
            else None
        )
        if message is None:
            return True
        spec = feast_registry_rows.parse(same.kind, message).spec
        view = self._declared.views[name]
        fields = {f.name: (f.description, dict(f.tags)) for f in view.features}
        noted = {f.name: (f.description, dict(f.tags)) for f in spec.features}
        tags, noted_tags = dict(view.tags or {}), dict(spec.tags)
        for held in (tags, noted_tags):
            held.pop(feast_registry_rows.SQL_TAG, None)
        return (view.description, tags, view.owner, fields) != (
            spec.description, noted_tags, spec.owner, noted,
        )  # fmt: skip

    def _removed(self) -> list[Change]:
        found = []
        for name, known in self._known.items():
            kept = [one for one in known if one.kept]
            if kept and name not in self._declared.definitions:
                versions = ", ".join(f"v{one.version}" for one in kept)
                found.append(
                    self._change(
                        kept[-1].definition,
                        Severity.REFUSED,
                        f"is published ({versions}) and has no file: bring the file back, or "
                        f"`skewless retire {name} vN`",
                    )
                )
        return found

    def _service_changes(self) -> list[Change]:
        applied = {service.spec.name: service for service in self._services}
        found = []
        for name, service in self._declared.services.items():
            wanted = _declared_references(service)
            if name not in applied:
                found.append(self._service(name, Severity.NEW_VIEW, "new service"))
            elif wanted != _applied_references(applied[name]):
                found.append(
                    self._service(name, Severity.METADATA, "the service names other views")
                )
            elif moved := _moved_route(service, applied[name]):
                found.append(self._service(name, Severity.METADATA, moved))
        found.extend(
            self._service(name, Severity.REMOVED, "the service is removed")
            for name in applied.keys() - self._declared.services.keys()
        )
        return found

    def _service(self, name: str, severity: Severity, what: str) -> Change:
        return Change(name, None, severity, what, None, (name,), ())

    def _change(
        self,
        definition: Definition,
        severity: Severity,
        what: str,
        before: Published | None = None,
        *,
        fill: bool = False,
    ) -> Change:
        """``before``: the published version to show the difference to."""
        view = definition.view
        backfill = None
        if fill and self._estimates and definition.kind == "computation":
            start, end = fill_range(self._conn, definition, self._known.get(view, []), self._since)
            backfill = estimate(self._conn, definition.computation(), start, end)
        consumers = readers_of(self._conn, self._project, view) if self._applied else []
        services = self._readers({view})
        return Change(
            name=view,
            version=definition.version,
            severity=severity,
            what=what,
            backfill=backfill,
            services=services,
            consumers=tuple(consumers),
            through=tuple(s for s in self._readers(set(consumers)) if s not in services),
            pinned=tuple(
                sorted(
                    f"{service.spec.name} (v{projection.version_tag})"
                    for service in self._services
                    for projection in service.spec.features
                    if projection.feature_view_name == view and projection.HasField("version_tag")
                )
            ),
            diff=text_difference(before.definition, definition) if before else None,
        )

    def _readers(self, views: set[str]) -> tuple[str, ...]:
        """The services that name one of the views."""
        return tuple(
            sorted(
                service.spec.name
                for service in self._services
                if any(p.feature_view_name in views for p in service.spec.features)
            )
        )


def text_difference(before: Definition, after: Definition) -> str | None:
    """The unified diff of two versions' SQL or source; None where their texts are the same."""
    key = "sql" if after.kind == "computation" else "source"
    old, new = (str(each.content.get(key, "")).splitlines() for each in (before, after))
    names = f"{before.name} (published)", f"{after.name} (file)"
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm="")) or None


def complete(conn: psycopg.Connection, one: Published) -> bool:
    """Whether a version is backfilled, has been ticked, and is published online."""
    if not one.kept or one.kind == "transform":
        return True
    if one.filled_at is None or not table_exists(conn, one.log_table):
        return False
    mark = read_watermark(conn, one.definition.computation())
    return mark is not None and mark.published_through is not None


def fill_range(
    conn: psycopg.Connection,
    definition: Definition,
    known: list[Published],
    since: datetime | None,
) -> tuple[datetime, datetime]:
    """The range to backfill, from ``since``, an earlier fill's beginning, or the default's log."""
    now = clock(conn)
    begun = [one.fill_from for one in known if one.version == definition.version and one.fill_from]
    default = active(known)
    start = since or (begun[0] if begun else None)
    if start is None and default is not None and table_exists(conn, default.log_table):
        log = sql.Identifier(default.log_table)
        start = scalar(conn, sql.SQL("SELECT min(event_timestamp) FROM {}").format(log))
        cut = cut_of(conn, default.log_table)
        start = min(start or now, cut.first_event) if cut else start
    return min(start or now, now), now


def _moved_route(service: Any, applied: Any) -> str | None:
    """That requests of the service come, or its replies read, otherwise than until now."""
    wanted, known = service.tags or {}, dict(applied.spec.tags)
    other = [tag for tag in (ROUTE_TAG, NAMES_TAG) if wanted.get(tag) != known.get(tag)]
    return f"the service has another route (tag {', '.join(other)})" if other else None


def _declared_references(service: Any) -> set[tuple[str, int | None]]:
    """(view, pinned version or None) as a service's file names them."""
    references: set[tuple[str, int | None]] = set()
    for one in written_features(service):
        if isinstance(one, str):
            view, _, rest = one.partition("@")
            version = rest.partition(":")[0]
            references.add((view.partition(":")[0], int(version[1:]) if version else None))
        else:
            pinned = None if is_versioned(one) else number_of(one)
            references.add((one.name, one.projection.version_tag or pinned))
    return references


def _applied_references(service: Any) -> set[tuple[str, int | None]]:
    return {
        (p.feature_view_name, p.version_tag if p.HasField("version_tag") else None)
        for p in service.spec.features
    }

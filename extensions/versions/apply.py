"""`skewless apply`: publish new versions, backfill them and fill Redis; nothing is promoted.

The steps are numbered in the order in which an interruption may cut them short. Each is idempotent:
the next apply resumes where this one ended.
"""

import contextlib
import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
from feast import FeatureStore
from feast.errors import FeastError
from feast.repo_config import RepoConfig, load_repo_config
from feast.repo_operations import apply_total

from extensions.account_name import account_name
from extensions.asof.computation_loading import read_repository
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.history_changes import follow_sources
from extensions.asof.tick import tick
from extensions.database.advisory_locks import holder, session_lock
from extensions.database.scalars import scalar
from extensions.engines.portability import construct_warnings, verdicts
from extensions.errors import ConflictError, DefinitionError, SkewlessError
from extensions.failpoints import point
from extensions.failure_classification import first_line
from extensions.stores.log_publishing import publish
from extensions.stores.rebuild import reconcile
from extensions.stores.registry import feast_registry_rows
from extensions.stores.registry.version_store import Published, hold_pointer, published
from extensions.versions.declared_definitions import read_declared
from extensions.versions.engine_choice import EngineSettings, fill
from extensions.versions.failpoints import Fault
from extensions.versions.maintained_versions import live_computations
from extensions.versions.plan import Plan, Severity, complete, fill_range, make_plan
from extensions.versions.retirement import finish_retired

# How long an apply waits for another one to end: one that was killed ends by itself.
PATIENCE_SECONDS = 3.0
LOCK = "skewless apply"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Filled:
    """A version whose values are complete: rows backfilled into the log, rows written to Redis."""

    view: str
    version: int
    state: str
    backfilled: int
    online: int


@dataclass(frozen=True)
class Applied:
    """The result of an apply; ``plan`` is what it carried out.

    ``engines``: sentences on texts that were filled and stay in PostgreSQL, and on constructs in
    them that are known to differ between engines.
    """

    plan: Plan
    filled: tuple[Filled, ...]
    removed: tuple[str, ...]
    engines: tuple[str, ...] = ()


def apply(
    conn: psycopg.Connection,
    repo_root: Path,
    *,
    since: datetime | None = None,
    progress: Progress | None = None,
) -> Applied:
    """Make the registry, the logs and Redis match the files at ``repo_root``.

    ``since``: where backfills begin, else where the default version's log does. ``conn`` must
    be in autocommit. ``progress(version's name, done, total)`` counts days of backfill.

    Raises:
        ConflictError: the plan is refused, somebody else is applying, or Feast refused.
    """
    with _apply_lock(conn):
        config = load_repo_config(repo_root, repo_root / "feature_store.yaml")
        plan = make_plan(conn, config.project, repo_root, since=since, estimates=False)
        if plan.refused:
            raise ConflictError(" ".join(_sentence(c.name, c.what) for c in plan.refused))
        point(Fault.APPLY_PLANNED)

        # 1. The logs, which Feast looks for before it registers their views.
        declared = read_declared(repo_root)
        logs = {
            d.name: d.computation()
            for d in declared.definitions.values()
            if d.kind == "computation"
        }
        with conn.transaction():
            computations = {**logs, **live_computations(conn, logs)}.values()
            ensure_log_tables(conn, computations)
            follow_sources(conn, computations)
        point(Fault.APPLY_LOGS_MADE)

        # 2. Feast's registry, and with it what is published: staged, beside the default.
        _restore_registry(config, conn)
        _feast_apply(repo_root, first=any(c.severity is Severity.NEW_VIEW for c in plan.changes))
        point(Fault.APPLY_PUBLISHED)

        # 3. Values: history, now, online; then, and only then, it counts as complete.
        store = FeatureStore(config=config)
        filled = [
            _fill_version(store, conn, one, since, progress)
            for one in published(conn)
            if not complete(conn, one)
        ]

        # 4. What an earlier retire did not live to remove, or had to keep until today.
        removed = finish_retired(store, conn)

        # 5. Whether the texts give the same values in every engine; nothing depends on it here.
        engines = _ask_engines(conn, {f"{each.view}.v{each.version}" for each in filled})
    return Applied(plan, tuple(filled), tuple(removed), engines)


def _ask_engines(conn: psycopg.Connection, filled: Collection[str]) -> tuple[str, ...]:
    """Record a verdict for each text that is computed; returns what to say of ``filled`` ones."""
    try:
        return tuple(_engine_sentences(conn, filled))
    except (psycopg.Error, SkewlessError) as error:
        return (f"The engines were not compared: {first_line(error).rstrip('.')}.",)


def _engine_sentences(conn: psycopg.Connection, filled: Collection[str]) -> Iterator[str]:
    kept = [one for one in published(conn) if one.kept and one.kind == "computation"]
    found = verdicts(conn, [one.definition for one in kept])
    for one in kept:
        if one.name in filled:
            verdict = found[one.definition.fingerprint]
            warnings = construct_warnings(conn, one.definition)
            if verdict.outcome == "not portable":
                yield f"{one.name} stays in PostgreSQL, {verdict.sentence(hint=not warnings)}."
            yield from warnings


def _restore_registry(config: RepoConfig, conn: psycopg.Connection) -> None:
    """Write the rows of published versions that Feast's registry lacks.

    A new registry, or one that lost rows, then has the versions that services name, whether or
    not a file still defines them.
    """
    if not any(one.kept for one in published(conn)):
        return
    # Reading the registry makes Feast's tables, and the project's row.
    FeatureStore(config=config).registry.list_projects()
    for view in sorted({one.view_name for one in published(conn)}):
        with conn.transaction():
            hold_pointer(conn, view, wait=True)
            for one in published(conn, view):
                if not one.kept:
                    continue
                message = feast_registry_rows.snapshot(conn, config.project, view, one.version)
                if message is None:
                    proto = feast_registry_rows.stamped(
                        one.kind, one.feast_proto, config.project, one.version
                    )
                    message = proto.SerializeToString()
                    feast_registry_rows.write_snapshot(
                        conn, config.project, one.kind, view, one.version, message
                    )
                row = feast_registry_rows.default(conn, config.project, one.kind, view)
                if one.state == "active" and row is None:
                    feast_registry_rows.write_default(conn, config.project, one.kind, view, message)


def _fill_version(
    store: FeatureStore,
    conn: psycopg.Connection,
    one: Published,
    since: datetime | None,
    progress: Progress | None,
) -> Filled:
    computation = one.definition.computation()
    known = published(conn, one.view_name)
    start, end = fill_range(conn, one.definition, known, since)
    conn.execute(
        "UPDATE view_versions SET fill_from = %s WHERE view_name = %s AND version = %s",
        [start, one.view_name, one.version],
    )
    point(Fault.APPLY_FILL_BEGUN)
    rows = 0
    if start < end:
        report = None if progress is None else _report(progress, one.name)
        settings = EngineSettings.of(store.config.offline_store)
        rows = fill(conn, one.definition, start, end, settings=settings, progress=report).rows
    point(Fault.APPLY_BACKFILLED)

    tick(conn, computation)
    point(Fault.APPLY_TICKED)

    reconcile(store, conn, computation)
    online = publish(store, conn, computation)
    point(Fault.APPLY_ONLINE)

    with conn.transaction():
        hold_pointer(conn, one.view_name, wait=True)
        state: str = scalar(
            conn,
            "UPDATE view_versions SET filled_at = coalesce(filled_at, clock_timestamp()), "
            "state = CASE state WHEN 'staged' THEN 'live' ELSE state END, "
            "state_since = CASE state WHEN 'staged' THEN clock_timestamp() ELSE state_since END "
            "WHERE view_name = %s AND version = %s RETURNING state",
            [one.view_name, one.version],
        )
    point(Fault.APPLY_COMPLETED)
    return Filled(one.view_name, one.version, state, rows, online)


def _report(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _feast_apply(repo_root: Path, *, first: bool) -> None:
    """Run `feast apply` in this process and discard what it prints.

    On a registry that lacks a view, its services wait for a second round: ``"view@v1"`` in a
    service is looked up before Feast has registered anything of this round.
    """
    config = load_repo_config(repo_root, repo_root / "feature_store.yaml")
    try:
        with contextlib.chdir(repo_root), contextlib.redirect_stdout(io.StringIO()):
            if first:
                contents = read_repository(repo_root)
                FeatureStore(config=config).apply(
                    [
                        *contents.projects,
                        *contents.data_sources,
                        *contents.entities,
                        *contents.feature_views,
                        *contents.on_demand_feature_views,
                    ]
                )
            apply_total(config, repo_root, skip_source_validation=False)
    except FeastError as error:
        raise DefinitionError(f"Feast refused the definitions: {error}") from error


@contextlib.contextmanager
def _apply_lock(conn: psycopg.Connection) -> Iterator[None]:
    """Hold the lock of apply. Promote and rollback do not take it, so they need not wait."""

    def refusal() -> ConflictError:
        other = holder(conn, LOCK)
        whose = f" ({other[0]}, since {other[1]:%H:%M:%S}Z)" if other else ""
        return ConflictError(
            f"Another `skewless apply` is at work{whose}: wait for it, or end it and run this "
            "again, which goes on where it was."
        )

    # One that was killed is still at work until PostgreSQL notices.
    with session_lock(conn, LOCK, refusal, patience=PATIENCE_SECONDS):
        conn.execute(
            "SELECT set_config('application_name', %s, FALSE)",
            [f"skewless apply by {account_name()}"],
        )
        yield


def _sentence(name: str, what: str) -> str:
    return what if what.startswith(name) else f"{name} {what}."

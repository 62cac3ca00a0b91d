"""Exporting a repository's logs and histories to its lake, the lake's upkeep, and cuts."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from extensions.addresses import project_name
from extensions.asof.computation_loading import computations_in, read_repository
from extensions.asof.log_cuts import cuts
from extensions.database.connection import table_exists
from extensions.database.scalars import clock, scalar
from extensions.errors import ConfigurationError, ConflictError, InputError, SkewlessError
from extensions.lake.catalog import open_catalog
from extensions.lake.commits import data_files, exported_through
from extensions.lake.cut import CutDone, cut
from extensions.lake.export import Exported, export
from extensions.lake.lake_tables import LakeTable, history_in_lake, log_in_lake
from extensions.lake.settings import DEFAULT, LakeSettings, read_settings
from extensions.lake.upkeep import upkeep
from extensions.sources import load_sources
from extensions.suggestions import did_you_mean
from extensions.versions.maintained_versions import live_computations

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog

# How often a refresh loop exports a table: a file for each, which the upkeep merges.
EVERY = timedelta(hours=1)
# How often it looks which are due, and what is too large to be first exported by it.
_LOOK_SECONDS = 300.0
LARGE = 2**30
_looked: dict[Path, float] = {}


@dataclass(frozen=True)
class LakeStatus:
    """A table of the lake as it stands; ``through`` None: it was never exported.

    ``cut_before``: the event time before which the lake alone holds all rows; None: of no time.
    """

    table: str
    through: datetime | None
    cut_before: datetime | None
    rows: int
    files: int
    bytes: int
    snapshots: int


def tables_of(conn: psycopg.Connection, repository: Path) -> dict[str, LakeTable]:
    """The declared histories and the logs of all live view versions, by name."""
    contents = read_repository(repository)
    sources = load_sources(contents, conn, project_name(repository) or "")
    declared = computations_in(contents, repository)
    found = {each.source.table: history_in_lake(conn, each) for each in sources.tables.values()}
    for computation in live_computations(conn, declared).values():
        if table_exists(conn, computation.log_table):
            found[computation.log_table] = log_in_lake(conn, computation)
    return found


def chosen_tables(tables: dict[str, LakeTable], name: str | None) -> list[LakeTable]:
    """One table, or all.

    Raises:
        InputError: there is no such table.
    """
    if name is None:
        return list(tables.values())
    if name not in tables:
        raise InputError(
            f"There is no log or history {name}: there are {', '.join(sorted(tables))}."
            f"{did_you_mean(name, tables)}"
        )
    return [tables[name]]


def export_tables(
    conn: psycopg.Connection, url: str, repository: Path, name: str | None = None
) -> Iterator[Exported]:
    """Export one table or all, and keep each in order; yields as they are done.

    Raises:
        SkewlessError: some could not be exported; the others were.
    """
    settings, project = read_settings(repository), project_name(repository) or ""
    tables = chosen_tables(tables_of(conn, repository), name)
    failed = []
    with open_catalog(url, project, settings) as catalog:
        for table in tables:
            try:
                yield export(conn, url, catalog, project, table)
                upkeep(conn, catalog, project, table, settings.keep_snapshots)
            except SkewlessError as error:
                failed.append(error.message)
    if failed:
        raise SkewlessError(" ".join(failed))


def export_due(conn: psycopg.Connection, url: str, repository: Path) -> list[Exported]:
    """Export what was not exported for an hour, where the repository has a lake configured.

    A log that has a hot window is cut then.

    A table that another process is exporting is left to it. So that ticks do not wait for hours,
    the first export of a table larger than `LARGE` is left to `skewless lake export`.

    Raises:
        SkewlessError: some could not be exported; the others were.
    """
    if not _is_time(repository):
        return []
    settings, project = read_settings(repository), project_name(repository) or ""
    if not settings.configured:
        return []
    done, failed = [], []
    windows = cut_times(conn, repository, settings)
    with open_catalog(url, project, settings) as catalog:
        for table in tables_of(conn, repository).values():
            last = _through(catalog, project, table.name)
            if last is not None and datetime.now(UTC) - last < EVERY:
                continue
            if last is None and _bytes(conn, table.name) > LARGE:
                failed.append(
                    f"{table.name} is in no lake yet, and large: run `skewless lake export "
                    f"{table.name}` once."
                )
                continue
            try:
                done.append(export(conn, url, catalog, project, table))
                upkeep(conn, catalog, project, table, settings.keep_snapshots)
                if table.name in windows:
                    cut(conn, url, catalog, project, table, windows[table.name])
            except SkewlessError as error:
                if not _left_to_another(error):
                    failed.append(error.message)
    if failed:
        raise SkewlessError(" ".join(failed))
    return done


def _left_to_another(error: SkewlessError) -> bool:
    return isinstance(error, ConflictError) and "by another process" in error.message


def cut_times(
    conn: psycopg.Connection, repository: Path, settings: LakeSettings
) -> dict[str, datetime]:
    """The event time before which rows may leave PostgreSQL, of each log with a hot window.

    Raises:
        ConfigurationError: a window is declared for a view that there is not.
    """
    if not settings.hot:
        return {}
    declared = computations_in(read_repository(repository), repository)
    views = {computation.view for computation in declared.values()}
    for view in settings.hot:
        if view not in {*views, DEFAULT}:
            raise ConfigurationError(
                f"The section `lake` of feature_store.yaml has a hot window for {view}, which is "
                f"no view with a log: there are {', '.join(sorted(views))}."
                f"{did_you_mean(view, views)}"
            )
    now = clock(conn)
    found = {}
    for computation in live_computations(conn, declared).values():
        window = settings.hot_window(computation.view)
        if window is not None and table_exists(conn, computation.log_table):
            found[computation.log_table] = now - window
    return found


def cut_tables(
    conn: psycopg.Connection, url: str, repository: Path, name: str | None = None
) -> Iterator[CutDone]:
    """Export one log or all that have a hot window, and cut what is older; yields as they are done.

    Raises:
        SkewlessError: some could not be cut, and are as they were; the others were.
    """
    settings, project = read_settings(repository), project_name(repository) or ""
    times = cut_times(conn, repository, settings)
    if not times:
        raise ConfigurationError(
            "No log has a hot window, so all stay in PostgreSQL whole: say how long rows stay in "
            "the section `lake` of feature_store.yaml, as in `hot: {default: 30 days}`."
        )
    tables = {log: table for log, table in tables_of(conn, repository).items() if log in times}
    failed = []
    with open_catalog(url, project, settings) as catalog:
        for table in chosen_tables(tables, name):
            try:
                export(conn, url, catalog, project, table)
                yield cut(conn, url, catalog, project, table, times[table.name])
            except SkewlessError as error:
                failed.append(error.message)
    if failed:
        raise SkewlessError(" ".join(failed))


def lake_status(
    conn: psycopg.Connection, url: str, repository: Path
) -> tuple[LakeSettings, list[LakeStatus]]:
    """Where the lake is, and each table that could be in it."""
    settings, project = read_settings(repository), project_name(repository) or ""
    found = []
    names = sorted(tables_of(conn, repository))
    cut_at = {log: known.before for log, known in cuts(conn, names).items()}
    with open_catalog(url, project, settings) as catalog:
        for name in names:
            if not catalog.table_exists((project, name)):
                found.append(LakeStatus(name, None, cut_at.get(name), 0, 0, 0, 0))
                continue
            held = catalog.load_table((project, name))
            files = data_files(held)
            found.append(
                LakeStatus(
                    name,
                    exported_through(held),
                    cut_at.get(name),
                    sum(file.record_count for file in files),
                    len(files),
                    sum(file.file_size_in_bytes for file in files),
                    len(held.snapshots()),
                )
            )
    return settings, found


def _is_time(repository: Path) -> bool:
    now = monotonic()
    if now - _looked.get(repository, -_LOOK_SECONDS) < _LOOK_SECONDS:
        return False
    _looked[repository] = now
    return True


def _bytes(conn: psycopg.Connection, name: str) -> int:
    size = scalar(
        conn,
        "SELECT coalesce(sum(pg_table_size(relid)), pg_table_size(to_regclass(%(name)s))) "
        "FROM pg_partition_tree(to_regclass(%(name)s)) WHERE isleaf",
        {"name": sql.Identifier(name).as_string(None)},
    )
    return int(size)


def _through(catalog: "SqlCatalog", project: str, name: str) -> datetime | None:
    if not catalog.table_exists((project, name)):
        return None
    return exported_through(catalog.load_table((project, name)))

"""Upkeep of the lake: small files are merged, old snapshots expire, orphan files are removed.

PyIceberg expires snapshots and leaves every file on disk; what no snapshot that is left names is
removed here, once it is old enough that nobody can be about to commit it.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pyarrow.fs as pafs

from extensions.database.advisory_locks import session_lock
from extensions.failpoints import point
from extensions.lake.commits import data_files, exported_through, replace_files
from extensions.lake.export import busy, lock_key
from extensions.lake.lake_tables import LakeTable
from extensions.lake.parquet_files import (
    FILE_ROWS,
    file_system,
    path_of,
    read_file,
    write_files,
)

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

# A day of event time is rewritten when it has more files than this, with fewer rows than one holds.
MOST_FILES = 8
# How old a file must be that no snapshot names; whoever writes one commits it long before.
ORPHANS_AFTER = timedelta(days=1)


class Fault(Enum):
    """Failpoints of the upkeep."""

    MERGED = "lake-merged"
    EXPIRED = "lake-expired"


@dataclass(frozen=True)
class Kept:
    """What the upkeep did: files merged, snapshots expired, files removed."""

    table: str
    merged: int
    into: int
    expired: int
    removed: int


def upkeep(
    conn: psycopg.Connection,
    catalog: "SqlCatalog",
    project: str,
    table: LakeTable,
    keep_snapshots: timedelta,
    *,
    orphans_after: timedelta = ORPHANS_AFTER,
) -> Kept:
    """Merge, expire and remove; each step whole by itself, so it may be cut short anywhere.

    Args:
        conn: In autocommit; it holds the table's export lock meanwhile.
        catalog: Where the table is.
        project: The namespace.
        table: As `extensions.lake.lake_tables` has it; it was exported before.
        keep_snapshots: How old a snapshot may be that is not the current one.
        orphans_after: How old a file must be that no snapshot names.

    Raises:
        ConflictError: it is being exported, or another engine's delete files hold its rows.
    """
    with session_lock(conn, lock_key(project, table.name), lambda: busy(table.name)):
        held = catalog.load_table((project, table.name))
        merged, into = _merge(held, table)
        point(Fault.MERGED)
        expired = _expire(held, keep_snapshots)
        point(Fault.EXPIRED)
        removed = _remove_orphans(held, datetime.now(UTC) - orphans_after)
    return Kept(table.name, merged, into, expired, removed)


def _merge(held: "Table", table: LakeTable) -> tuple[int, int]:
    through = exported_through(held)
    if through is None:
        return 0, 0
    days: dict[Any, list[DataFile]] = defaultdict(list)
    for file in data_files(held):
        days[file.partition].append(file)
    small = [
        files
        for files in days.values()
        if len(files) > MOST_FILES and sum(file.record_count for file in files) <= FILE_ROWS
    ]
    old = [file for files in small for file in files]
    if not old:
        return 0, 0
    new = [url for files in small for url in write_files(held, table, _sorted(held, table, files))]
    replace_files(held, old, new, through, {"skewless.step": "merge"})
    return len(old), len(new)


def _sorted(held: "Table", table: LakeTable, files: "list[DataFile]") -> Iterator[pa.RecordBatch]:
    """The rows of a day's files in the order in which one file has them."""
    batches = [batch for file in files for batch in read_file(held, file.file_path, table.schema)]
    order = [*table.keys, table.event, table.arrival]
    rows = pa.Table.from_batches(batches, table.schema)
    yield from rows.sort_by([(name, "ascending") for name in order]).to_batches()


def _expire(held: "Table", keep: timedelta) -> int:
    before = len(held.snapshots())
    current = held.current_snapshot()
    limit = (datetime.now(UTC) - keep).timestamp() * 1000
    old = [
        each.snapshot_id
        for each in held.snapshots()
        if each.timestamp_ms < limit
        and (current is None or each.snapshot_id != current.snapshot_id)
    ]
    # Snapshots with a branch or tag of their own stay.
    named = {ref.snapshot_id for ref in held.metadata.refs.values()}
    old = [each for each in old if each not in named]
    if old:
        held.maintenance.expire_snapshots().by_ids(old).commit()
        held.refresh()
    return before - len(held.snapshots())


def _remove_orphans(held: "Table", before: datetime) -> int:
    named = _named(held)
    removed = 0
    filesystem, folder = file_system(held)
    for info in filesystem.get_file_info(pafs.FileSelector(folder, recursive=True)):
        if info.type != pafs.FileType.File or info.path in named:
            continue
        if info.mtime is not None and info.mtime < before:
            filesystem.delete_file(info.path)
            removed += 1
    return removed


def _named(held: "Table") -> set[str]:
    """The paths of all files that the table's metadata lead to."""
    urls = {held.metadata_location}
    urls |= {entry.metadata_file for entry in held.metadata.metadata_log}
    for snapshot in held.snapshots():
        urls.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(held.io):
            urls.add(manifest.manifest_path)
            for entry in manifest.fetch_manifest_entry(held.io, discard_deleted=True):
                urls.add(entry.data_file.file_path)
    for statistics in held.metadata.statistics:
        urls.add(statistics.statistics_path)
    return {path_of(held, url) for url in urls}

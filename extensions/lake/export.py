"""The export: rows of a log or history that have arrived by a safe time, into the lake.

The boundary is one of arrival: after an export through S the lake's table holds exactly the rows
with arrival up to S. What changes behind S (an import with old arrivals, a backfill, an update, a
deletion) leaves a note (`extensions.asof.history_changes`), and the next export goes back to the
arrival that the note claims and puts the rows from there on in the place of the old ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, cast

import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.asof.history_changes import history_changes
from extensions.asof.log_cuts import Cut, cut_of
from extensions.asof.safe_time import settled_now
from extensions.database.advisory_locks import session_lock
from extensions.errors import ConflictError, UnavailableError
from extensions.failpoints import point
from extensions.lake.catalog import ensure_table
from extensions.lake.cold_merge import cold_merge
from extensions.lake.commits import data_files, exported_through, replace_files
from extensions.lake.export_rows import rows
from extensions.lake.lake_tables import LakeTable
from extensions.lake.parquet_files import arrived_by, day_of, read_file, write_files
from extensions.value_text import exact_time_text

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table
    from pyiceberg.types import PrimitiveType

_MICROSECOND, _DAY = timedelta(microseconds=1), timedelta(days=1)
# How old the end of the last export may be where there is nothing to add.
_SAY_EVERY = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Fault(Enum):
    """Failpoints of an export."""

    FOLLOWED = "lake-followed"
    WRITTEN = "lake-written"
    COMMITTED = "lake-committed"


@dataclass(frozen=True)
class Exported:
    """What an export did.

    ``since``: the arrival after which rows were read; None: all were. ``back``: whether that is
    earlier than where the last export ended, since history changed behind it. ``rows``: rows read.
    """

    table: str
    since: datetime | None
    through: datetime
    back: bool
    rows: int
    files: int
    snapshot: int | None


def export(
    conn: psycopg.Connection,
    url: str,
    catalog: "SqlCatalog",
    project: str,
    table: LakeTable,
) -> Exported:
    """Bring the lake's table up to the safe time of now; twice is as good as once.

    Args:
        conn: In autocommit; it holds the table's export lock meanwhile.
        url: The database, for a connection of its own that reads the rows in Arrow.
        catalog: Where the table is, or is made.
        project: The namespace.
        table: What to export.

    Raises:
        ConflictError: another exporter is at work, or the lake's table cannot be written to.
        UnavailableError: another writer changed the lake's table at the same time.
    """
    with session_lock(conn, lock_key(project, table.name), lambda: busy(table.name)):
        # 1. From now on, whoever changes rows behind an export leaves a note.
        _follow(conn, table)
        point(Fault.FOLLOWED)
        held = ensure_table(catalog, project, table)
        files = data_files(held)
        # 2. What is to be read: from the last export's end, or from the earliest claim since.
        last = exported_through(held)
        if last is None:
            _refuse_lost(conn, table.name)
        through = settled_now(conn, [table.name])
        since = _since(conn, table, last, through)
        if last is not None and through <= last:
            return Exported(table.name, last, last, False, 0, 0, _current(held))
        # 3. Files that no snapshot names yet, beside what stays of those that are taken back.
        back = last is not None and since != last
        written = _Written(url, held, table, since, through)
        if not back:
            written.add(rows(url, table, since, through))
        else:
            cut = cut_of(conn, table.name)
            if cut is not None:
                files = written.before_cut(files, cut)
            written.again(files, cut)
        added, stale = written.added, written.stale
        point(Fault.WRITTEN)
        if last is not None and not added and not stale and through - last < _SAY_EVERY:
            return Exported(table.name, since, last, back, 0, 0, _current(held))
        # 4. One snapshot; its summary says how far it goes, so a crash on either side is nothing.
        snapshot = _commit(held, stale, added, through)
        point(Fault.COMMITTED)
    return Exported(table.name, since, through, back, written.rows, len(added), snapshot)


def lock_key(project: str, table: str) -> str:
    """The advisory lock of whoever writes to a table of the lake."""
    return f"skewless lake {project} {table}"


def _follow(conn: psycopg.Connection, table: LakeTable) -> None:
    """Have changes behind the export leave notes; those who are writing now are waited for."""
    relation = sql.Identifier(table.name).as_string(None)
    conn.execute(
        "SELECT follow_history(to_regclass(%s), %s, %s)", [relation, table.name, table.arrival]
    )


def _since(
    conn: psycopg.Connection, table: LakeTable, last: datetime | None, through: datetime
) -> datetime | None:
    """After which arrival rows are read; None: all are."""
    if last is None:
        return None
    claims = [
        change.claimed_from if change.operation == "insert" else None
        for change in history_changes(conn, [table.name], last, through)
    ]
    if None in claims:
        return None
    return min([last, *(claim - _MICROSECOND for claim in claims if claim is not None)])


def _kept(
    held: "Table", table: LakeTable, file: "DataFile", since: datetime
) -> Iterator[pa.RecordBatch]:
    """The rows of a file that had arrived by ``since``."""
    micros = (since - _EPOCH) // _MICROSECOND
    for batch in read_file(held, file.file_path, table.schema):
        yield arrived_by(batch, table.arrival, micros)


def _before(held: "Table", table: LakeTable, file: "DataFile", since: datetime) -> bool:
    """Whether a file's statistics say that all of its rows had arrived by ``since``."""
    from pyiceberg.conversions import from_bytes  # noqa: PLC0415

    field = held.schema().find_field(table.arrival)
    bound = (file.upper_bounds or {}).get(field.field_id)
    if bound is None:
        return False
    latest = from_bytes(cast("PrimitiveType", field.field_type), bound)
    return int(latest) <= (since - _EPOCH) // _MICROSECOND


def _commit(held: "Table", removed: list["DataFile"], added: list[str], through: datetime) -> int:
    from pyiceberg.exceptions import CommitFailedException  # noqa: PLC0415

    try:
        return replace_files(held, removed, added, through)
    except CommitFailedException as error:
        raise UnavailableError(
            f"Another writer changed the lake's table {'.'.join(held.name())} meanwhile; nothing "
            "of this export is in it: run it again."
        ) from error


def _refuse_lost(conn: psycopg.Connection, table: str) -> None:
    """Refuse to begin a lake's table anew from a log that is no longer whole."""
    cut = cut_of(conn, table)
    if cut is not None:
        raise ConflictError(
            f"{table} was cut at {exact_time_text(cut.before)}, and the lake's table that holds "
            "what is older is not here: bring back the lake's warehouse and catalog "
            f"(snapshot {cut.snapshot})."
        )


def _current(held: "Table") -> int | None:
    snapshot = held.current_snapshot()
    return snapshot.snapshot_id if snapshot else None


def busy(table: str) -> ConflictError:
    """What is raised where another process holds a table's export lock."""
    return ConflictError(
        f"{table} is being exported or cut, or its files rewritten, by another process."
    )


@dataclass
class _Written:
    """The files of an export that is under way: those it wrote, and those they replace."""

    url: str
    held: "Table"
    table: LakeTable
    since: datetime | None
    through: datetime
    added: list[str] = field(default_factory=list)
    stale: "list[DataFile]" = field(default_factory=list)
    rows: int = 0

    def add(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Write PostgreSQL's rows."""
        self.added += write_files(self.held, self.table, self._counted(batches))

    def again(self, files: "list[DataFile]", cut: Cut | None) -> None:
        """Write what arrived since once more, beside what stays of the files that hold it."""
        since, held, table = self.since, self.held, self.table
        event_from = cut.before if cut else None
        self.add(rows(self.url, table, since, self.through, event_from=event_from))
        for file in files:
            if since is None:
                self.stale.append(file)
            elif not _before(held, table, file, since):
                self.stale.append(file)
                self.added += write_files(held, table, _kept(held, table, file, since))

    def before_cut(self, files: "list[DataFile]", cut: Cut) -> "list[DataFile]":
        """Bring what changed before a cut to the lake; returns the files of later days."""
        first = (cut.before - _EPOCH) // _DAY
        later = [file for file in files if day_of(file) >= first]
        with cold_merge(self.url, self.held, self.table, cut.before, self.through) as cold:
            if self.since is None and cold.is_rewritten():
                self.stale += [file for file in files if day_of(file) < first]
                self.add(cold.all())
            else:
                self.add(cold.new())
        return later

    def _counted(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.rows += batch.num_rows
            yield batch

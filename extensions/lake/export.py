"""The export: rows of a log or history that have arrived by a safe time, into the lake.

The boundary is one of arrival: after an export through S the lake's table holds exactly the rows
with arrival up to S. What changes behind S (an import with old arrivals, a backfill, an update, a
deletion) leaves a note (`extensions.asof.history_changes`), and the next export goes back to the
arrival that the note claims and puts the rows from there on in the place of the old ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, cast

import psycopg
import pyarrow as pa
from psycopg import sql

from extensions.asof.history_changes import history_changes
from extensions.asof.safe_time import settled_now
from extensions.database.adbc_connections import record_batches
from extensions.database.advisory_locks import session_lock
from extensions.database.connection import connect_arrow, identifiers
from extensions.errors import ConflictError, UnavailableError
from extensions.failpoints import point
from extensions.lake.catalog import ensure_table
from extensions.lake.commits import data_files, exported_through, replace_files
from extensions.lake.lake_tables import LakeTable
from extensions.lake.parquet_files import arrived_by, read_file, write_files

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table
    from pyiceberg.types import PrimitiveType

_MICROSECOND = timedelta(microseconds=1)
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
        through = settled_now(conn, [table.name])
        since = _since(conn, table, last, through)
        if last is not None and through <= last:
            return Exported(table.name, last, last, False, 0, 0, _current(held))
        # 3. Files that no snapshot names yet, beside what stays of those that are taken back.
        back = last is not None and since != last
        stale = [file for file in files if since is None or not _before(held, table, file, since)]
        stale = stale if back else []
        counted = _Counted(_rows(url, table, since, through))
        added = write_files(held, table, counted)
        if since is not None:
            for file in stale:
                added += write_files(held, table, _kept(held, table, file, since))
        point(Fault.WRITTEN)
        if last is not None and not added and not stale and through - last < _SAY_EVERY:
            return Exported(table.name, since, last, back, 0, 0, _current(held))
        # 4. One snapshot; its summary says how far it goes, so a crash on either side is nothing.
        snapshot = _commit(held, stale, added, through)
        point(Fault.COMMITTED)
    return Exported(table.name, since, through, back, counted.rows, len(added), snapshot)


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


def _rows(
    url: str, table: LakeTable, since: datetime | None, through: datetime
) -> Iterator[pa.RecordBatch]:
    """The rows that arrived in ``(since, through]``, in order of (day, keys, times)."""
    arrival = sql.Identifier(table.arrival)
    conditions = [sql.SQL("{} <= {}").format(arrival, sql.Literal(through))]
    if since is not None:
        conditions.append(sql.SQL("{} > {}").format(arrival, sql.Literal(since)))
    query = sql.SQL(
        "SELECT {columns} FROM {table} WHERE {conditions} "
        "ORDER BY date_trunc('day', {event}, 'UTC'), {keys}, {event}, {arrival}"
    ).format(
        columns=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(column.expression, sql.Identifier(column.name))
            for column in table.columns
        ),
        table=sql.Identifier(table.name),
        conditions=sql.SQL(" AND ").join(conditions),
        event=sql.Identifier(table.name, table.event),
        keys=identifiers(table.keys, table.name),
        arrival=sql.Identifier(table.name, table.arrival),
    )
    with connect_arrow(url) as conn, conn.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        cursor.execute(query.as_string(None))
        for batch in record_batches(cursor):
            yield batch.cast(table.schema)


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


def _current(held: "Table") -> int | None:
    snapshot = held.current_snapshot()
    return snapshot.snapshot_id if snapshot else None


def busy(table: str) -> ConflictError:
    """What is raised where another process holds a table's export lock."""
    return ConflictError(f"{table} is being exported, or its files rewritten, by another process.")


class _Counted:
    """Batches, and how many rows have passed."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches, self.rows = batches, 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.rows += batch.num_rows
            yield batch

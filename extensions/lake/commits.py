"""Commits to a table of the lake: how far it goes stands in the same snapshot as the rows."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from extensions.lake.catalog import refuse_deletes

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

# In a snapshot's summary: all rows that had arrived by then are in it.
THROUGH = "skewless.through"


def exported_through(held: "Table", snapshot_id: int | None = None) -> datetime | None:
    """Up to which arrival a snapshot (the current one) holds all rows; None: nothing was exported.

    Another engine's snapshots (a deleted user, a compaction) do not say; their parents do.
    """
    snapshot = held.current_snapshot() if snapshot_id is None else held.snapshot_by_id(snapshot_id)
    while snapshot is not None:
        summary = snapshot.summary
        told = summary.additional_properties.get(THROUGH) if summary else None
        if told is not None:
            return datetime.fromisoformat(told)
        parent = snapshot.parent_snapshot_id
        snapshot = held.snapshot_by_id(parent) if parent is not None else None
    return None


def data_files(held: "Table", snapshot: int | None = None) -> list["DataFile"]:
    """The data files of a snapshot, the current one if left.

    Raises:
        ConflictError: rows of them were deleted by another engine's delete files.
    """
    refuse_deletes(held, snapshot)
    return [task.file for task in held.scan(snapshot_id=snapshot).plan_files()]


def replace_files(
    held: "Table",
    removed: Iterable["DataFile"],
    added: list[str],
    through: datetime,
    properties: Mapping[str, str] | None = None,
) -> int:
    """Put files in the place of others in one snapshot; returns its id.

    Raises:
        CommitFailedException: another writer changed the table meanwhile.
    """
    from pyiceberg.io.pyarrow import parquet_files_to_data_files  # noqa: PLC0415
    from pyiceberg.table import TableProperties  # noqa: PLC0415

    gone = list(removed)
    summary = {THROUGH: through.isoformat(), **(properties or {})}
    with held.transaction() as transaction:
        metadata = transaction.table_metadata
        if metadata.name_mapping() is None:
            # Our files have no field ids: columns are known by their names.
            mapping = metadata.schema().name_mapping.model_dump_json()
            transaction.set_properties({TableProperties.DEFAULT_NAME_MAPPING: mapping})
        new = parquet_files_to_data_files(held.io, transaction.table_metadata, iter(added))
        update = transaction.update_snapshot(snapshot_properties=summary)
        with update.overwrite() if gone else update.fast_append() as snapshot:
            for file in gone:
                snapshot.delete_data_file(file)
            for file in new:
                snapshot.append_data_file(file)
    current = held.refresh().current_snapshot()
    assert current is not None  # it was made just now
    return current.snapshot_id

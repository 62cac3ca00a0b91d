"""Small files are merged, old snapshots expire, and no file is left that nothing names."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg import manifest

from extensions.errors import ConflictError
from extensions.failpoints import VARIABLE, UnforeseenError
from extensions.lake.commits import data_files
from extensions.lake.export import Exported
from extensions.lake.lake_tables import LakeTable
from extensions.lake.lake_tables import _table as lake_table
from extensions.lake.upkeep import Fault, Kept, upkeep
from tests.lake.conftest import PROJECT
from tests.lake.reading import files_on_disk, in_lake, in_postgres, named_files

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog

Export = Callable[[LakeTable], Exported]
NOW = timedelta(seconds=-5)  # files that were written in this very second are old enough


@pytest.fixture
def small(conn: psycopg.Connection, exported: Export) -> LakeTable:
    """Ten exports of a table, each of some rows of the same two days."""
    conn.execute(
        "CREATE TABLE small (id bigint, happened timestamptz NOT NULL, "
        "arrived timestamptz NOT NULL DEFAULT clock_timestamp(), v real)"
    )
    table = lake_table(conn, "small", ["id"], "happened", "arrived")
    for _ in range(10):
        conn.execute(
            "INSERT INTO small (id, happened, v) SELECT g, current_date + g * interval '5 hours', "
            "g FROM generate_series(1, 8) AS g"
        )
        exported(table)
    return table


def kept(
    conn: psycopg.Connection, catalog: "SqlCatalog", table: LakeTable, after: timedelta = NOW
) -> Kept:
    return upkeep(conn, catalog, PROJECT, table, timedelta(0), orphans_after=after)


def test_files_are_merged_and_what_nothing_names_is_removed(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", small: LakeTable
) -> None:
    held = catalog.load_table((PROJECT, "small"))
    assert len(data_files(held)) == 20
    before = in_lake(held, small)
    done = kept(conn, catalog, small)
    assert (done.merged, done.into) == (20, 2)
    assert done.expired == 10
    held = catalog.load_table((PROJECT, "small"))
    assert len(held.snapshots()) == 1
    assert len(data_files(held)) == 2
    assert in_lake(held, small) == before
    assert before == in_postgres(fresh_database, small, datetime.now(UTC))
    assert files_on_disk(held) == named_files(catalog, held)
    # Nothing is left to do.
    assert kept(conn, catalog, small) == Kept("small", 0, 0, 0, 0)


def test_a_snapshot_can_be_read_for_as_long_as_it_is_kept(
    conn: psycopg.Connection, catalog: "SqlCatalog", small: LakeTable
) -> None:
    held = catalog.load_table((PROJECT, "small"))
    second = held.snapshots()[1].snapshot_id
    done = upkeep(conn, catalog, PROJECT, small, timedelta(days=7), orphans_after=NOW)
    assert done.expired == 0
    held = catalog.load_table((PROJECT, "small"))
    assert held.scan(snapshot_id=second).to_arrow().num_rows == 16


def test_a_file_that_may_still_be_committed_stays(
    conn: psycopg.Connection, catalog: "SqlCatalog", small: LakeTable
) -> None:
    held = catalog.load_table((PROJECT, "small"))
    folder = Path(held.location().removeprefix("file://"))
    fresh = folder / "data" / "about-to-be-committed.parquet"
    fresh.write_bytes(b"x")
    kept(conn, catalog, small, timedelta(days=1))
    assert fresh.exists()
    kept(conn, catalog, small)
    assert not fresh.exists()


@pytest.mark.parametrize("fault", list(Fault))
def test_an_upkeep_killed_anywhere_is_made_good_by_the_next(
    conn: psycopg.Connection, catalog: "SqlCatalog", small: LakeTable,
    monkeypatch: pytest.MonkeyPatch, fault: Fault,
) -> None:  # fmt: skip
    before = in_lake(catalog.load_table((PROJECT, "small")), small)
    monkeypatch.setenv(VARIABLE, f"{fault.value}:1:raise")
    with pytest.raises(UnforeseenError):
        kept(conn, catalog, small)
    monkeypatch.delenv(VARIABLE)
    kept(conn, catalog, small)
    held = catalog.load_table((PROJECT, "small"))
    assert in_lake(held, small) == before
    assert files_on_disk(held) == named_files(catalog, held)


def test_another_engines_deleted_rows_are_not_brought_back(
    conn: psycopg.Connection, catalog: "SqlCatalog", small: LakeTable, exported: Export,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _delete_by_position(catalog, monkeypatch)
    for act in (lambda: exported(small), lambda: kept(conn, catalog, small)):
        with pytest.raises(ConflictError, match="has delete files of another engine"):
            act()


def _delete_by_position(catalog: "SqlCatalog", monkeypatch: pytest.MonkeyPatch) -> None:
    """Delete a row as Spark does by default: a file that names its file and position."""
    held = catalog.load_table((PROJECT, "small"))
    victim = data_files(held)[0]
    path = Path(held.location().removeprefix("file://")) / "data" / "deletes.parquet"
    pq.write_table(
        pa.table({"file_path": [victim.file_path], "pos": pa.array([0], pa.int64())}), path
    )
    deletes = manifest.DataFile.from_args(
        content=manifest.DataFileContent.POSITION_DELETES,
        file_path=f"file://{path}",
        file_format=manifest.FileFormat.PARQUET,
        partition=victim.partition,
        record_count=1,
        file_size_in_bytes=path.stat().st_size,
        spec_id=held.spec().spec_id,
    )
    with monkeypatch.context() as patch:
        patch.setattr(
            manifest.ManifestWriterV2, "content", lambda _: manifest.ManifestContent.DELETES
        )
        with held.transaction() as transaction, transaction.update_snapshot().fast_append() as new:
            new.append_data_file(deletes)

"""Data files of the lake: rows in order of (day, keys, times), each file of one day.

A file belongs to one partition of its table, as ``add_files`` asks; what was written and is in no
snapshot (a crash before the commit) is an orphan, which `extensions.lake.upkeep` removes.
"""

import uuid
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from extensions.lake.lake_tables import LakeTable

if TYPE_CHECKING:
    from pyiceberg.io.pyarrow import PyArrowFileIO
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

# Rows of a file at most, and of a row group.
FILE_ROWS = 5_000_000
GROUP_ROWS = 122_880


def write_files(held: "Table", table: LakeTable, batches: Iterable[pa.RecordBatch]) -> list[str]:
    """Write rows, which come in order of the day of their event time; returns the files' URLs.

    Some row groups are in memory at a time, whatever the number of rows.
    """
    files: list[str] = []
    writer: _Writer | None = None
    try:
        for batch in batches:
            for day, part in _days(batch, table.event):
                if writer is None or writer.day != day or writer.rows >= FILE_ROWS:
                    if writer is not None:
                        writer.close()
                    writer = _Writer(held, table.schema, day)
                    files.append(writer.url)
                writer.write(part)
    finally:
        if writer is not None:
            writer.close()
    return files


def read_file(held: "Table", url: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a data file in the columns of ``schema``; a column that it lacks is null."""
    with held.io.new_input(url).open(seekable=True) as stream:
        file = pq.ParquetFile(stream)
        for batch in file.iter_batches(GROUP_ROWS):
            yield _as_schema(batch, schema)


def dataset(held: "Table", files: Iterable["DataFile"], schema: pa.Schema) -> pads.Dataset:
    """The rows of data files as a relation for DuckDB; a column that a file lacks is null."""
    filesystem, _ = file_system(held)
    paths = [path_of(held, file.file_path) for file in files]
    if not paths:
        return pads.dataset(schema.empty_table())
    return pads.dataset(paths, schema=schema, format="parquet", filesystem=filesystem)


def day_of(file: "DataFile") -> int:
    """The day of event time, since 1970 in UTC, to which a file's rows belong."""
    return int(file.partition[0])


def file_system(held: "Table") -> tuple[pafs.FileSystem, str]:
    """The PyArrow file system of a table's files, and its folder there."""
    from pyiceberg.io.pyarrow import PyArrowFileIO  # noqa: PLC0415

    io = cast("PyArrowFileIO", held.io)
    scheme, netloc, path = PyArrowFileIO.parse_location(held.location(), held.io.properties)
    return io.fs_by_scheme(scheme, netloc), path


def path_of(held: "Table", url: str) -> str:
    """A file's path in `file_system`."""
    from pyiceberg.io.pyarrow import PyArrowFileIO  # noqa: PLC0415

    return str(PyArrowFileIO.parse_location(url, held.io.properties)[2])


class _Writer:
    """One file, written in row groups."""

    def __init__(self, held: "Table", schema: pa.Schema, day: int) -> None:
        self.day, self.rows = day, 0
        date = np.datetime64(day, "D")
        self.url = f"{held.location()}/data/{date}/{uuid.uuid4()}.parquet"
        self._stream = held.io.new_output(self.url).create()
        self._schema = schema
        self._writer = pq.ParquetWriter(self._stream, schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._count = 0

    def write(self, rows: pa.RecordBatch) -> None:
        self._waiting.append(rows)
        self._count += rows.num_rows
        self.rows += rows.num_rows
        if self._count >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._stream.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
            self._waiting, self._count = [], 0


def _days(batch: pa.RecordBatch, event: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The runs of rows of one day (days since 1970, in UTC)."""
    if not batch.num_rows:
        return
    micros = batch.column(event).cast(pa.int64()).to_numpy(zero_copy_only=False)
    days = np.floor_divide(micros, 86_400_000_000)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(days)) + 1, [len(days)]])
    for start, end in pairwise(starts):
        yield int(days[start]), batch.slice(int(start), int(end - start))


def _as_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns: list[Any] = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        columns.append(
            pa.nulls(batch.num_rows, field.type)
            if index < 0
            else batch.column(index).cast(field.type)
        )
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def arrived_by(batch: pa.RecordBatch, arrival: str, micros: int) -> pa.RecordBatch:
    """The rows that had arrived by an instant, in microseconds since 1970."""
    return batch.filter(pc.less_equal(batch.column(arrival).cast(pa.int64()), micros))

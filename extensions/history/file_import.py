"""`skewless import`: a person's own history, from CSV, JSON lines or Parquet of any size.

Every row ends up inserted, known already, or in the file of rejected rows with its reason.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from extensions.history.bulk_load import COPY_ROWS, Progress, load
from extensions.history.column_mapping import ColumnPlan, Constant, plan_columns
from extensions.history.event_id_generation import EventIds
from extensions.history.file_readers import open_table
from extensions.history.file_rows import TableFile
from extensions.history.import_rules import ArrivalRule, column_default, time_bounds
from extensions.history.reference_spelling import spellings
from extensions.history.rejected_rows import Held, Rejects
from extensions.history.row_conversion import RowConversion
from extensions.history.row_refusals import NUMBER
from extensions.history.time_conversion import is_time
from extensions.sources import EventStream, HistoryTable

# Rows that are on their way to the database are held, since it may refuse them.
_HELD_BYTES = 16 << 20
_LEAST_COPY_ROWS = 1_000
_TRIED_ROWS = 10_000
_SHOWN_ROWS = 5


@dataclass(frozen=True)
class ImportOptions:
    """How files are read.

    Attributes:
        mapping: By column of the table, SQL over the file's columns (the name of one is enough).
        constants: By column of the table, the text that each row has.
        where: A condition in SQL over the file's columns; other rows are passed by.
        time_formats: By column of the table, how its times are written; ``""`` means all.
        delimiter: What stands between a CSV's values; None recognises it.
        encoding: Python's name of the file's encoding; None recognises it.
        header: Whether a CSV's first row names its columns.
        names: The names of the columns of a CSV without a header.
        rejected: Where rejected rows go; beside the file if None.
        known_at_event_time: Rows without an arrival count as known when they happened.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    where: str | None = None
    time_formats: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    encoding: str | None = None
    header: bool = True
    names: Sequence[str] = ()
    rejected: Path | None = None
    known_at_event_time: bool = False


@dataclass(frozen=True)
class ImportResult:
    """What became of a file's rows: ``read == inserted + duplicates + rejected``.

    ``left_out`` rows, for which ``--where`` is not true, are not counted as read. ``reasons``
    counts the rejected rows by their first reason; ``rejected_path`` is None when there are none.
    ``notes`` says in sentences what was assumed. ``seconds`` is wall time. Of a trial,
    ``columns`` says what each column is made of, and ``rows`` are the first ones as they would be
    stored.
    """

    path: Path
    read: int
    inserted: int
    duplicates: int
    rejected: int
    left_out: int
    reasons: Mapping[str, int]
    rejected_path: Path | None
    notes: tuple[str, ...]
    seconds: float
    columns: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON's own types."""
        paths = {
            "path": str(self.path),
            "rejected_path": str(self.rejected_path) if self.rejected_path else None,
        }
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.rows]
        return {
            **asdict(self), **paths, "reasons": dict(self.reasons), "notes": list(self.notes),
            "columns": dict(self.columns), "rows": rows,
        }  # fmt: skip


def import_files(
    url: str,
    table: HistoryTable,
    paths: Iterable[Path],
    options: ImportOptions | None = None,
    *,
    streams: Iterable[EventStream] = (),
    progress: Progress | None = None,
    trial: bool = False,
) -> Iterator[ImportResult]:
    """Import files one after the other into a history table, by `import_file`.

    Whether this is the table's first load is decided once, before the first of them.
    """
    options = options or ImportOptions()
    rule = ArrivalRule.of(url, table, known_at_event_time=options.known_at_event_time)
    for path in paths:
        yield import_file(
            url, table, path, options,
            streams=streams, progress=progress, trial=trial, rule=rule,
        )  # fmt: skip


def import_file(
    url: str,
    table: HistoryTable,
    path: Path,
    options: ImportOptions | None = None,
    *,
    streams: Iterable[EventStream] = (),
    progress: Progress | None = None,
    trial: bool = False,
    rule: ArrivalRule | None = None,
) -> ImportResult:
    """Import the rows of a file into a history table.

    The table's keys and its time must be in the file, or be given. Without an id one is derived
    (see `EventIds`). Without an arrival the rows of a first load count as known when they
    happened, so that the past can be backfilled; those that come later, as known from now on,
    since what was served in between did not know them. Importing the same file again adds nothing.

    Args:
        url: The database.
        table: The table.
        path: A CSV, JSON lines or Parquet file.
        options: How it is read.
        streams: The streams that bring rows of the table: their names of its columns are known
            here, too, and their limit of times in the future holds.
        progress: Called with the rows done and in all.
        trial: Reads the first rows only, and stores nothing.
        rule: When rows without an arrival arrived; None decides by the store.

    Raises:
        SkewlessError: exit code 2, when the file as a whole is of no use.
    """
    options = options or ImportOptions()
    streams = [stream for stream in streams if stream.table.name == table.name]
    file = open_table(
        path,
        delimiter=options.delimiter,
        encoding=options.encoding,
        header=options.header,
        names=options.names,
    )
    plan = plan_columns(
        path,
        file.columns,
        table,
        mapping=options.mapping,
        constants=options.constants,
        # What a stream converts besides has another meaning in its messages than in the table.
        aliases={
            name: column
            for stream in streams
            if stream.convert is None
            for name, column in stream.field_mapping.items()
        },
        first_row=None if options.names else file.first_row,
    )
    notes = []
    if table.time not in plan.origins:
        default = column_default(url, table, table.time)
        plan = replace(plan, origins={**plan.origins, table.time: Constant(default)})
        notes.append(f"{table.time}: no column, so {default}.")
    rule = rule or ArrivalRule.of(url, table, known_at_event_time=options.known_at_event_time)
    with ExitStack() as stack:
        ids = None
        if table.id and table.id not in plan.origins:
            as_uuid = table.by_name[table.id].pg_type == "uuid"
            ids = stack.enter_context(EventIds(url, as_uuid=as_uuid))
        conversion = RowConversion(
            plan,
            file,
            str(path),
            where=options.where,
            time_formats=options.time_formats,
            bounds=time_bounds(table, streams),
            rule=rule,
            ids=ids,
            spelling=spellings(url, table.table),
        )
        run = _Import(path, file, plan, conversion, options, progress, trial=trial)
        return run.into(url, table, notes)


class _Import:
    """One file's way through conversion, rejecting and loading, and the count of its rows."""

    def __init__(
        self,
        path: Path,
        file: TableFile,
        plan: ColumnPlan,
        conversion: RowConversion,
        options: ImportOptions,
        progress: Progress | None,
        *,
        trial: bool,
    ) -> None:
        self._path, self._file, self._plan = path, file, plan
        self._conversion, self._progress, self._trial = conversion, progress, trial
        self._formats = options.time_formats
        self._rejects = Rejects(path, file.columns, options.rejected, kept=not trial)
        self._held = Held()
        self._read = self._accepted = 0
        self._shown: list[Mapping[str, Any]] = []
        self._copy_rows = COPY_ROWS

    def into(self, url: str, table: HistoryTable, notes: list[str]) -> ImportResult:
        """Load what the conversion accepts."""
        begun = time.perf_counter()
        batches = self._batches()
        try:
            # The first batch says how wide rows are, and so how many of them are held.
            first = next(batches, None)
            loaded = load(
                url,
                table,
                () if first is None else _chained(first, batches),
                refused=self._refused,
                progress=lambda done, _: self._held.release(done),
                copy_rows=self._copy_rows,
                keep=not self._trial,
            )
            rejected_path = self._rejects.finish()
        except BaseException:
            self._rejects.abandon()
            raise
        rejected = self._rejects.count
        if self._read != loaded.inserted + loaded.duplicates + rejected:
            raise AssertionError(f"{self._path}: {self._read} rows read, {loaded} and {rejected}")
        if self._progress:
            self._progress(self._read, self._read)
        return ImportResult(
            path=self._path,
            read=self._read,
            inserted=loaded.inserted,
            duplicates=loaded.duplicates,
            rejected=rejected,
            left_out=self._conversion.left_out,
            reasons=dict(self._rejects.reasons.most_common()),
            rejected_path=rejected_path,
            notes=tuple(notes + self._conversion.notes() + self._file.notes()),
            seconds=time.perf_counter() - begun,
            columns=self._conversion.described() if self._trial else {},
            rows=tuple(self._shown),
        )

    def _batches(self) -> Iterator[pa.RecordBatch]:
        is_row = self._plan.is_row(
            {name: is_time for name, form in self._formats.items() if not form}
        )
        for rows in self._file.rows(is_row):
            result = self._conversion.convert(rows)
            self._rejects.add(result.rows, result.problems)
            self._read += result.rows.batch.num_rows + len(rows.unreadable)
            good = result.good
            batch = result.accepted
            if batch.num_rows:
                self._held.add(result.rows, good)
                numbers = np.arange(self._accepted, self._accepted + batch.num_rows)
                self._accepted += batch.num_rows
                width = rows.batch.nbytes / max(1, rows.batch.num_rows)
                fitting = int(_HELD_BYTES / max(1.0, width))
                self._copy_rows = min(self._copy_rows, max(_LEAST_COPY_ROWS, fitting))
                if self._trial and len(self._shown) < _SHOWN_ROWS:
                    self._shown += batch.slice(0, _SHOWN_ROWS - len(self._shown)).to_pylist()
                yield batch.append_column(NUMBER, pa.array(numbers, pa.int64()))
            if self._progress:
                self._progress(self._read, self._file.expected_rows(self._read))
            if self._trial and self._read >= _TRIED_ROWS:
                return

    def _refused(self, rows: pa.RecordBatch, why: str) -> None:
        for held, places in self._held.find(rows.column(NUMBER).to_numpy()):
            self._rejects.add_refused(held, places, why)


def _chained(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)

"""`skewless import`: a person's own events and items, from CSV or Parquet of any size.

Every row ends up inserted, known already, or in the file of rejected rows with its reason.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from psycopg import sql

from extensions.database import connect
from extensions.database.connection import table_exists
from extensions.database.history_change_notes import live_since
from extensions.history.arrow_schemas import EVENT_SCHEMA, ITEM_SCHEMA, to_micros
from extensions.history.bulk_load import LoadResult, Progress, load_events, load_items
from extensions.history.column_mapping import EVENT_COLUMNS, ITEM_COLUMNS, Columns, resolve
from extensions.history.csv_records import IsRow
from extensions.history.event_id_generation import EventIds
from extensions.history.file_readers import Rows, TableFile, open_table
from extensions.history.reference_spelling import Spelling, spellings
from extensions.history.rejected_rows import Rejects
from extensions.history.value_conversion import Mask, Times, integers, numbers, texts

_CLOCK_SKEW = timedelta(minutes=5)
_FIRST_EVENT_US = to_micros(datetime(2000, 1, 1, tzinfo=UTC))
_FIRST_ITEM_US = to_micros(datetime(1900, 1, 1, tzinfo=UTC))
_LAST_ITEM_US = to_micros(datetime(2100, 1, 1, tzinfo=UTC))
_DAY_MS = 86_400_000
_DURATION_SCALES = {"duration_min": 60_000.0, "duration_s": 1_000.0, "duration_ms": 1.0}


@dataclass(frozen=True)
class ImportResult:
    """What became of a file's rows: ``read == inserted + duplicates + rejected``.

    ``reasons`` counts the rejected rows by their first reason; ``rejected_path`` is None when
    there are none. ``notes`` says in sentences what was assumed. ``seconds`` is wall time.
    """

    path: Path
    read: int
    inserted: int
    duplicates: int
    rejected: int
    reasons: Mapping[str, int]
    rejected_path: Path | None
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON's own types."""
        paths = {
            "path": str(self.path),
            "rejected_path": str(self.rejected_path) if self.rejected_path else None,
        }
        return {**asdict(self), **paths, "reasons": dict(self.reasons), "notes": list(self.notes)}


Parse = Callable[[Rows], tuple[list[pa.Array], list[tuple[Mask, str]]]]


def import_events(
    url: str,
    path: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    header: bool = True,
    rejected: Path | None = None,
    progress: Progress | None = None,
    known_at_event_time: bool = False,
) -> ImportResult:
    """Import watch events; ``mapping`` names the file's column for each of ours.

    user_id, item_id and watched_at must be there. Without event_id one is derived (see
    `EventIds`); without a duration (duration_min, duration_s or duration_ms) or progress they
    are 0. Without ingested_at the events of a first load count as known when they were watched,
    so that the past can be backfilled; those that come later, as known from now on, since what
    was served in between did not know them (``known_at_event_time`` claims otherwise).
    Importing the same file again adds nothing. A CSV without a ``header`` has columns by number,
    from 1.

    Raises:
        SkewlessError: exit code 2, when the file as a whole is of no use.
    """
    file = open_table(path, delimiter=delimiter, header=header)
    places = resolve(path, file.columns, mapping or {}, EVENT_COLUMNS, first_row=file.first_row)
    with ExitStack() as stack:
        ids = None if "event_id" in places else stack.enter_context(EventIds(url))
        rule = ArrivalRule.of(url, "watch_events", known_at_event_time=known_at_event_time)
        parser = _EventParser(places, ids, _latest(), rule)
        run = _Import(path, file, rejected, progress, EVENT_SCHEMA, EVENT_COLUMNS.is_row(places))
        return run.into(
            lambda batches: load_events(url, batches), parser.parse, parser.complete, parser.notes
        )


def import_items(
    url: str,
    path: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    header: bool = True,
    rejected: Path | None = None,
    progress: Progress | None = None,
    known_at_event_time: bool = False,
) -> ImportResult:
    """Import rows of the items' history: item_id and genre, and since when (valid_from).

    Without valid_from an item has always had its genre (since 1970); ingested_at as with events.
    A genre is spelt as the table of genres spells it where only one is meant; the result says
    how many it does not know.

    Raises:
        SkewlessError: exit code 2, when the file as a whole is of no use.
    """
    file = open_table(path, delimiter=delimiter, header=header)
    places = resolve(path, file.columns, mapping or {}, ITEM_COLUMNS, first_row=file.first_row)
    rule = ArrivalRule.of(url, "items", known_at_event_time=known_at_event_time)
    parser = _ItemParser(places, _latest(), rule, spellings(url, "items"))
    run = _Import(path, file, rejected, progress, ITEM_SCHEMA, ITEM_COLUMNS.is_row(places))
    return run.into(
        lambda batches: load_items(url, batches), parser.parse, parser.complete, parser.notes
    )


class _Import:
    """One file's way through parsing, rejecting and loading, and the count of its rows."""

    def __init__(
        self,
        path: Path,
        file: TableFile,
        rejected: Path | None,
        progress: Progress | None,
        schema: pa.Schema,
        is_row: IsRow,
    ) -> None:
        self._path, self._file, self._schema = path, file, schema
        self._is_row = is_row
        self._progress = progress
        self._rejects = Rejects(path, file.columns, rejected)
        self._read = 0

    def into(
        self,
        load: Callable[[Iterator[pa.RecordBatch]], LoadResult],
        parse: Parse,
        complete: Callable[[list[pa.Array]], list[pa.Array]],
        notes: Callable[[], list[str]],
    ) -> ImportResult:
        """Load what ``parse`` accepts; ``complete`` sees accepted rows only."""
        begun = time.perf_counter()
        try:
            loaded = load(self._accepted(parse, complete))
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
            self._path,
            self._read,
            loaded.inserted,
            loaded.duplicates,
            rejected,
            dict(self._rejects.reasons.most_common()),
            rejected_path,
            tuple(notes() + self._file.notes()),
            time.perf_counter() - begun,
        )

    def _accepted(
        self, parse: Parse, complete: Callable[[list[pa.Array]], list[pa.Array]]
    ) -> Iterator[pa.RecordBatch]:
        for rows in self._file.rows(self._is_row):
            columns, problems = parse(rows)
            self._rejects.add(rows, problems)
            self._read += rows.batch.num_rows + len(rows.unreadable)
            good = ~np.logical_or.reduce([mask for mask, _ in problems])
            kept = complete([column.filter(pa.array(good)) for column in columns])
            if self._progress:
                self._progress(self._read, self._file.expected_rows(self._read))
            yield pa.record_batch(kept, schema=self._schema)


@dataclass(frozen=True)
class ArrivalRule:
    """When rows that do not say so arrived: when they happened, or when they are imported."""

    at_event_time: bool

    @classmethod
    def of(cls, url: str, table: str, *, known_at_event_time: bool) -> "ArrivalRule":
        """The rule for an import into ``table`` now.

        A first load claims its events' own times, so that the past can be backfilled from it:
        the table is empty, or nothing has been served yet. What comes later was not known to
        what was served before it.
        """
        if known_at_event_time:
            return cls(at_event_time=True)
        with connect(url, name="skewless import") as conn:
            if not table_exists(conn, table) or live_since(conn) is None:
                return cls(at_event_time=True)
            query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(table))
            return cls(at_event_time=conn.execute(query).fetchone() == (False,))

    def arrivals(self, times: npt.NDArray[Any]) -> npt.NDArray[Any] | pa.Array:
        """Arrivals, in microseconds, for the rows' own ``times``; null is when they are loaded."""
        return times if self.at_event_time else pa.nulls(len(times), pa.int64())

    def note(self, column: str) -> str:
        """What was assumed, for a person."""
        if self.at_event_time:
            return f"ingested_at: taken to be {column}."
        return (
            "ingested_at: now, since this store has served without these rows; "
            "--known-at-event-time claims that they were known when they happened."
        )


class _EventParser:
    """A file's columns as `EVENT_SCHEMA`; ``event_id`` is derived after bad rows have left."""

    def __init__(
        self, places: Mapping[str, int], ids: EventIds | None, latest_us: int, rule: "ArrivalRule"
    ) -> None:
        self._places = places
        self._rule = rule
        self._ids = ids
        self._watched_at = Times("watched_at", low_us=_FIRST_EVENT_US, high_us=latest_us)
        self._ingested_at = Times("ingested_at", low_us=_FIRST_EVENT_US, high_us=latest_us)

    def parse(self, rows: Rows) -> tuple[list[pa.Array], list[tuple[Mask, str]]]:
        count = rows.batch.num_rows
        columns = {name: rows.batch.column(place) for name, place in self._places.items()}
        problems: list[tuple[Mask, str]] = []
        if self._ids is None:
            event_id = texts("event_id", columns["event_id"])
            problems += event_id.problems
        user = integers("user_id", columns["user_id"])
        item = integers("item_id", columns["item_id"])
        watched = self._watched_at.parse(columns["watched_at"])
        problems += user.problems + item.problems + watched.problems
        if "ingested_at" in columns:
            given = self._ingested_at.parse(columns["ingested_at"])
            ingested: npt.NDArray[Any] | pa.Array = given.values
            problems += given.problems
        else:
            ingested = self._rule.arrivals(watched.values)
        duration: npt.NDArray[Any] = np.zeros(count)
        for name in _DURATION_SCALES.keys() & columns.keys():
            parsed = numbers(name, columns[name], scale=_DURATION_SCALES[name], low=0, high=_DAY_MS)
            duration, problems = parsed.values, problems + parsed.problems
        progress: npt.NDArray[Any] = np.zeros(count)
        if "progress" in columns:
            parsed = numbers("progress", columns["progress"], scale=1, low=0, high=1)
            progress, problems = parsed.values, problems + parsed.problems
        values = [
            pa.nulls(count, pa.string()) if self._ids else event_id.values,
            user.values,
            item.values,
            watched.values,
            ingested,
            np.rint(np.clip(duration, 0, _DAY_MS)).astype(np.int32),
            np.clip(progress, 0, 1).astype(np.float32),
        ]
        return [_column(v, f) for v, f in zip(values, EVENT_SCHEMA, strict=True)], problems

    def complete(self, columns: list[pa.Array]) -> list[pa.Array]:
        """With derived ids, where the file has none."""
        if self._ids is None or not len(columns[0]):
            return columns
        user, item, watched = columns[1], columns[2], columns[3].cast(pa.int64())
        return [
            self._ids.derive(user.to_numpy(), item.to_numpy(), watched.to_numpy()),
            *columns[1:],
        ]

    def notes(self) -> list[str]:
        notes = self._watched_at.notes() + self._ingested_at.notes()
        if self._ids:
            notes.append("event_id: derived from user_id, item_id, watched_at and repetition.")
        if "ingested_at" not in self._places:
            notes.append(self._rule.note("watched_at"))
        if not self._places.keys() & _DURATION_SCALES.keys():
            notes.append("duration: no column, so 0.")
        if "progress" not in self._places:
            notes.append("progress: no column, so 0.")
        return notes


class _ItemParser:
    """A file's columns as `ITEM_SCHEMA`."""

    def __init__(
        self,
        places: Mapping[str, int],
        latest_us: int,
        rule: "ArrivalRule",
        spelling: Mapping[str, Spelling],
    ) -> None:
        self._places = places
        self._rule = rule
        self._spelling = spelling
        self._valid_from = Times("valid_from", low_us=_FIRST_ITEM_US, high_us=_LAST_ITEM_US)
        self._ingested_at = Times("ingested_at", low_us=_FIRST_ITEM_US, high_us=latest_us)

    def parse(self, rows: Rows) -> tuple[list[pa.Array], list[tuple[Mask, str]]]:
        columns = {name: rows.batch.column(place) for name, place in self._places.items()}
        item = integers("item_id", columns["item_id"])
        genre = texts("genre", columns["genre"])
        problems = item.problems + genre.problems
        valid: npt.NDArray[Any] = np.zeros(rows.batch.num_rows, np.int64)
        if "valid_from" in columns:
            parsed = self._valid_from.parse(columns["valid_from"])
            valid, problems = parsed.values, problems + parsed.problems
        if "ingested_at" in columns:
            parsed = self._ingested_at.parse(columns["ingested_at"])
            ingested: npt.NDArray[Any] | pa.Array = parsed.values
            problems += parsed.problems
        else:
            ingested = self._rule.arrivals(valid)
        values = [item.values, genre.values, valid, ingested]
        return [_column(v, f) for v, f in zip(values, ITEM_SCHEMA, strict=True)], problems

    def complete(self, columns: list[pa.Array]) -> list[pa.Array]:
        """With values spelt as the tables that explain them spell them."""
        return [
            self._spelling[name].respell(column) if name in self._spelling else column
            for name, column in zip(ITEM_SCHEMA.names, columns, strict=True)
        ]

    def notes(self) -> list[str]:
        notes = self._valid_from.notes() + self._ingested_at.notes()
        notes += [note for spelling in self._spelling.values() for note in spelling.notes()]
        if "valid_from" not in self._places:
            notes.append("valid_from: no column, so since 1970.")
        if "ingested_at" not in self._places:
            notes.append(self._rule.note("valid_from"))
        return notes


def _column(values: Any, field: pa.Field) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array.cast(field.type)


def _latest() -> int:
    return to_micros(datetime.now(UTC) + _CLOCK_SKEW)


__all__ = ["ITEM_COLUMNS", "Columns", "ImportResult", "import_events", "import_items"]

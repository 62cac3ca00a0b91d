"""The rows that an import refused, with the reason, in a CSV file beside the input."""

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from extensions.errors import InputError
from extensions.history.file_rows import Rows
from extensions.output_files import output_path

_ABOUT = ["rejected_row", "rejected_reason", "rejected_text"]


class Rejects:
    """Writes refused rows as they come; the file appears, whole, when the import ends.

    Its columns are the row's number, the reason, the raw text of a row that could not be taken
    apart, and then the input's own: mended, it can be imported as it is. Where it is not ``kept``,
    rows are counted only. May be used by several threads.
    """

    def __init__(
        self, source: Path, columns: list[str], path: Path | None = None, *, kept: bool = True
    ) -> None:
        self.path = path or source.with_name(source.name + ".rejected.csv")
        self._target = output_path(self.path)
        if self._target == source.resolve():
            raise InputError(
                f"The rejected rows cannot go to the input itself, {source}: name another file.",
            )
        self.reasons: Counter[str] = Counter()
        self._lock = Lock()
        # Columns that an earlier import added are written anew.
        self._kept = [i for i, name in enumerate(columns) if name not in _ABOUT]
        names = [*_ABOUT, *(columns[i] for i in self._kept)]
        self._schema = pa.schema(
            [(name, pa.int64() if name == _ABOUT[0] else pa.string()) for name in names[:1]]
            + [(name, pa.string()) for name in names[1:]]
        )
        self._part = self._target.with_name(self._target.name + ".part")
        self._writer: pa.csv.CSVWriter | None = None
        if not kept:
            return
        try:
            self._writer = pa.csv.CSVWriter(self._part, self._schema)
        except OSError as error:
            raise InputError(
                f"{self._part.parent} cannot be written to: name a file for the rejected rows "
                "with --rejected.",
            ) from error

    @property
    def count(self) -> int:
        """How many rows were refused so far."""
        return self.reasons.total()

    def add(self, rows: Rows, problems: list[tuple[npt.NDArray[np.bool_], str]]) -> None:
        """Write the rows that have a problem, and those that could not be taken apart."""
        for number, text, reason in rows.unreadable:
            self._count([reason])
            self._write([number], [reason], [text], [[None]] * len(self._kept))
        bad = np.zeros(rows.batch.num_rows, bool)
        for mask, _ in problems:
            bad |= mask
        if not bad.any():
            return
        reasons = np.full(int(bad.sum()), "", object)
        first = reasons.copy()
        for mask, reason in problems:
            here = mask[bad]
            first[here & (first == "")] = reason
            reasons[here] += np.where(reasons[here] == "", "", "; ") + reason
        self._count(first.tolist())
        self._write_rows(rows, np.flatnonzero(bad), reasons)

    def add_refused(self, rows: Rows, places: npt.NDArray[np.int64], why: str) -> None:
        """Write rows that the database refused."""
        self._count([why] * len(places))
        self._write_rows(rows, places, np.full(len(places), why, object))

    def _count(self, reasons: list[str]) -> None:
        with self._lock:
            self.reasons.update(reasons)

    def _write_rows(
        self, rows: Rows, places: npt.NDArray[np.int64], reasons: npt.NDArray[np.object_]
    ) -> None:
        refused = rows.batch.take(pa.array(places))
        values = [_as_text(refused.column(i)) for i in self._kept]
        self._write(rows.numbers[places], reasons, [None] * len(reasons), values)

    def _write(self, numbers: object, reasons: object, texts: object, values: list[object]) -> None:
        if self._writer is None:
            return
        columns = [numbers, reasons, texts, *values]
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        batch = pa.record_batch(arrays, schema=self._schema)
        with self._lock:
            self._writer.write_batch(batch)

    def finish(self) -> Path | None:
        """Put the file in its place; without a refused row there is none."""
        if self._writer is None:
            return None
        self._writer.close()
        if not self.count:
            self._part.unlink()
            return None
        self._part.replace(self._target)
        return self.path

    def abandon(self) -> None:
        """Leave nothing behind: the import did not end."""
        if self._writer is not None:
            self._writer.close()
            self._part.unlink(missing_ok=True)


class Held:
    """Rows of the file that are on their way to the database, which may refuse them.

    They come in one thread and leave in another.
    """

    def __init__(self) -> None:
        # The number of each one's first accepted row, its rows, and which of them were accepted.
        self._batches: deque[tuple[int, int, Rows, npt.NDArray[np.int64]]] = deque()
        self._next = 0
        self._lock = Lock()

    def add(self, rows: Rows, good: npt.NDArray[np.bool_]) -> None:
        """Hold rows of which ``good`` were accepted; those are numbered on."""
        places = np.flatnonzero(good)
        with self._lock:
            self._batches.append((self._next, self._next + len(places), rows, places))
        self._next += len(places)

    def release(self, done: int) -> None:
        """The first ``done`` accepted rows are stored or refused."""
        with self._lock:
            while self._batches and self._batches[0][1] <= done:
                self._batches.popleft()

    def find(self, numbers: npt.NDArray[np.int64]) -> Iterator[tuple[Rows, npt.NDArray[np.int64]]]:
        """The held rows of these numbers, with their places in them."""
        with self._lock:
            batches = list(self._batches)
        for begin, end, rows, places in batches:
            here = numbers[(numbers >= begin) & (numbers < end)]
            if len(here):
                yield rows, places[here - begin]


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        return column
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())

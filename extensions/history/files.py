"""Reading a person's own CSV or Parquet file, in batches, with the number of every row.

CSV values stay text, as they were written; Parquet values keep their types.
"""

import codecs
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from extensions.errors import SkewlessError

_BLOCK_BYTES = 1 << 20
_PARQUET_ROWS = 65_536
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


@dataclass(frozen=True)
class Rows:
    """Some rows of a file.

    ``numbers`` are their places in the file, from 1; in CSV the header is row 1, so that a
    number is a line where no value spans lines. ``unreadable`` rows (number, text, reason)
    could not be taken apart and are not in ``batch``.
    """

    batch: pa.RecordBatch
    numbers: npt.NDArray[np.int64]
    unreadable: list[tuple[int, str, str]] = field(default_factory=list)


class TableFile(Protocol):
    """A file of rows: its columns' names, and one pass over its rows in bounded memory."""

    columns: list[str]

    def rows(self) -> Iterator[Rows]:
        """Every row, once."""

    def expected_rows(self, seen: int) -> int | None:
        """How many rows the file may hold, judged after ``seen`` of them."""


def open_table(path: Path, *, delimiter: str | None = None) -> TableFile:
    """The CSV (possibly compressed: .gz, .bz2, .zst, .lz4) or Parquet file at ``path``.

    Raises:
        SkewlessError: exit code 2, when the file is missing, empty, or neither of the two.
    """
    try:
        if path.is_dir():
            raise _unusable(f"{path} is a folder: name a CSV or Parquet file.")
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError as error:
        raise _unusable(f"There is no file {path}: check the path.") from error
    except OSError as error:
        raise _unusable(f"{path} cannot be read ({error.strerror}): check it.") from error
    if not head:
        raise _unusable(f"{path} is empty: it needs a header and rows.")
    if head.startswith(b"PAR1"):
        return ParquetFile(path)
    return CsvFile(path, delimiter or ("\t" if ".tsv" in path.suffixes else ","))


class ParquetFile:
    """A Parquet file, read a row group's slice at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            self._file = pq.ParquetFile(path)
            self.columns = list(self._file.schema_arrow.names)

    def rows(self) -> Iterator[Rows]:
        """Every row, once."""
        begin = 1
        with self._errors():
            for batch in self._file.iter_batches(_PARQUET_ROWS):
                yield Rows(batch, np.arange(begin, begin + batch.num_rows))
                begin += batch.num_rows

    def expected_rows(self, seen: int) -> int:  # noqa: ARG002 - it is in the file's footer
        """The number of rows, which the file itself says."""
        return int(self._file.metadata.num_rows)

    def _errors(self) -> "_Explained":
        return _Explained(f"{self._path} is not a whole Parquet file")


class CsvFile:
    """A CSV file with a header. Bytes that are not UTF-8 arrive as U+FFFD.

    Wholly blank lines are no rows. Rows with too few or too many fields are unreadable.
    """

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path = path
        self._delimiter = delimiter
        self._position: Callable[[], int] = lambda: 0
        self.columns = self._read_header()

    def _read_header(self) -> list[str]:
        with self._errors(), self._open({}, lambda _: "skip") as reader:
            names = list(reader.schema.names)
        if any("\ufffd" in name for name in names):
            raise _unusable(f"{self._path} is not UTF-8: save it as UTF-8 and import it again.")
        if any("\0" in name for name in names):
            raise _unusable(
                f"{self._path} is neither UTF-8 CSV nor Parquet: convert it to one of them."
            )
        return names

    def _open(
        self, types: dict[str, pa.DataType], on_invalid: Callable[[object], str]
    ) -> pa.csv.CSVStreamingReader:
        raw = self._path.open("rb")
        self._position = lambda: 0 if raw.closed else raw.tell()
        compression = _COMPRESSIONS.get(self._path.suffix)
        plain = pa.input_stream(raw, compression=compression) if compression else raw
        return pa.csv.open_csv(
            pa.PythonFile(_Utf8(plain), mode="r"),
            # One thread: only then do invalid rows come with their numbers.
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(
                delimiter=self._delimiter,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=on_invalid,
            ),
            convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )

    def rows(self) -> Iterator[Rows]:
        """Every row, once."""
        waiting: list[tuple[int, str, str]] = []

        def note(row: "pa.csv.InvalidRow") -> str:
            reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
            waiting.append((row.number, row.text, reason))
            return "skip"

        types = dict.fromkeys(self.columns, pa.string())
        following = 2
        with self._errors(), self._open(types, note) as reader:
            for batch in reader:
                numbers = _numbers(following, batch.num_rows, [number for number, *_ in waiting])
                following = int(numbers[-1]) + 1 if batch.num_rows else following
                passed = [row for row in waiting if row[0] < following]
                waiting[:] = waiting[len(passed) :]
                filled = _any_filled(batch)
                yield Rows(batch.filter(pa.array(filled)), numbers[filled], passed)
            if waiting:
                nothing = pa.RecordBatch.from_pylist([], schema=reader.schema)
                yield Rows(nothing, np.empty(0, np.int64), waiting)

    def expected_rows(self, seen: int) -> int | None:
        """An estimate, from the part of the file that was read so far."""
        position = self._position()
        return max(seen, round(seen * self._path.stat().st_size / position)) if position else None

    def _errors(self) -> "_Explained":
        return _Explained(f"{self._path} cannot be read as CSV")


def _numbers(begin: int, count: int, unreadable: list[int]) -> npt.NDArray[np.int64]:
    """The numbers of ``count`` rows from ``begin`` on, passing by those of unreadable rows."""
    ordinals = np.arange(count)
    gaps = np.array(unreadable, dtype=np.int64)
    rows_before_gap = gaps - begin - np.arange(len(gaps))
    numbers: npt.NDArray[np.int64] = (
        begin + ordinals + np.searchsorted(rows_before_gap, ordinals, side="right")
    )
    return numbers


def _any_filled(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    filled = np.zeros(batch.num_rows, bool)
    for column in batch.columns:
        filled |= pc.binary_length(column).to_numpy() > 0
    return filled


class _Utf8:
    """A binary stream whose invalid UTF-8 is replaced by U+FFFD, for a reader that insists."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = b""
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._held) < size:
            octets = self._stream.read(_BLOCK_BYTES)
            self._held += self._decoder.decode(octets, final=not octets).encode()
            if not octets:
                break
        taken, self._held = (self._held, b"") if size < 0 else (
            self._held[:size], self._held[size:])  # fmt: skip
        return taken

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
        self._stream.close()


class _Explained:
    """Turns a reader's complaints into one sentence (exit code 2)."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, pa.ArrowException | OSError | EOFError):
            said = str(error).splitlines()[0][:200] if str(error) else "it ends too early"
            advice = "mend the file and import it again; what is stored by then is not added twice"
            if "straddling" in said:
                said = "a value is longer than 1 MB: a quotation mark may not be closed"
            raise _unusable(f"{self._what} ({said}): {advice}.") from error


def _unusable(sentence: str) -> SkewlessError:
    return SkewlessError(sentence, exit_code=2)

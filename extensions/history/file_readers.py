"""Reading a person's own CSV or Parquet file, in batches, with the number of every row.

CSV values stay text, as they were written; Parquet values keep their types.
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from extensions.errors import InputError, SkewlessError
from extensions.history.csv_records import Block, IsRow, RecordReader

_BLOCK_BYTES = 1 << 20
_PARQUET_ROWS = 65_536
# How files begin, whatever they are called.
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_OTHER_KINDS = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"\xfd7zXZ\x00": "compressed by xz",
}


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
    # Of a file without a header; None where the columns have names.
    first_row: list[str] | None

    def rows(self, is_row: IsRow | None = None) -> Iterator[Rows]:
        """Every row, once; ``is_row`` as in `RecordReader.blocks`."""

    def expected_rows(self, seen: int) -> int | None:
        """How many rows the file may hold, judged after ``seen`` of them."""

    def notes(self) -> list[str]:
        """What was assumed about rows, in sentences; after they were read."""


def open_table(path: Path, *, delimiter: str | None = None, header: bool = True) -> TableFile:
    """The CSV (possibly compressed by gzip, bz2, zstd or lz4) or Parquet file at ``path``.

    ``delimiter`` as `parse_delimiter` takes it; a comma if left, or a tabulator for ``.tsv``.
    Where ``header`` is False, a CSV's columns are called by their numbers, from ``1``.

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
        if not header:
            raise _unusable(f"{path} is Parquet, which names its columns: leave --no-header out.")
        return ParquetFile(path)
    if kind := next((k for magic, k in _OTHER_KINDS.items() if head.startswith(magic)), None):
        raise _unusable(f"{path} is {kind}: convert it to CSV or Parquet.")
    usual = "\t" if ".tsv" in path.suffixes else ","
    return CsvFile(
        path, usual if delimiter is None else parse_delimiter(delimiter), header=header
    )  # fmt: skip


class ParquetFile:
    """A Parquet file, read a row group's slice at a time."""

    first_row: list[str] | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            self._file = pq.ParquetFile(path)
            self.columns = list(self._file.schema_arrow.names)

    def rows(self, is_row: IsRow | None = None) -> Iterator[Rows]:  # noqa: ARG002 - CSV's
        """Every row, once."""
        begin = 1
        with self._errors():
            for batch in self._file.iter_batches(_PARQUET_ROWS):
                yield Rows(batch, np.arange(begin, begin + batch.num_rows))
                begin += batch.num_rows

    def expected_rows(self, seen: int) -> int:  # noqa: ARG002 - it is in the file's footer
        """The number of rows, which the file itself says."""
        return int(self._file.metadata.num_rows)

    def notes(self) -> list[str]:
        """Nothing is assumed."""
        return []

    def _errors(self) -> "_Explained":
        return _Explained(f"{self._path} is not a whole Parquet file")


class CsvFile:
    """A CSV file. Bytes that are not UTF-8 arrive as U+FFFD.

    Its first row names the columns; where ``header`` is False they are named by their numbers,
    from ``1``. Wholly blank lines, and lines of nothing but delimiters, are no rows. Rows with
    too few or too many fields are unreadable. Quotation marks out of place are text
    (`extensions.history.csv_records`).
    """

    def __init__(self, path: Path, delimiter: str, *, header: bool = True) -> None:
        self._path = path
        self._delimiter = delimiter
        self._header = header
        self._position: Callable[[], int] = lambda: 0
        self._repaired = self._first_repaired = self._blank = 0
        with self._errors(), self._opened() as stream:
            first = self._reader(stream).peek()
        self._check(first)
        self.first_row = None if header else first
        self.columns = first if header else [str(n) for n in range(1, len(first) + 1)]

    def _check(self, names: list[str]) -> None:
        """Is this text, and in UTF-8? The first row shows it."""
        if any("\0" in name for name in names):
            raise _unusable(
                f"{self._path} is neither UTF-8 CSV nor Parquet: convert it to one of them."
            )
        if self._header and any("\ufffd" in name for name in names):
            raise _unusable(f"{self._path} is not UTF-8: save it as UTF-8 and import it again.")
        if names == [""]:
            raise _unusable(f"The first line of {self._path} is blank: it needs a header and rows.")

    @contextmanager
    def _opened(self) -> Iterator["_Utf8"]:
        with self._path.open("rb") as raw:
            head = raw.read(8)
            raw.seek(0)
            self._position = lambda: 0 if raw.closed else raw.tell()
            compression = next((c for magic, c in _MAGIC.items() if head.startswith(magic)), None)
            yield _Utf8(pa.input_stream(raw, compression=compression) if compression else raw)

    def _reader(self, stream: "_Utf8") -> RecordReader:
        return RecordReader(stream, self._delimiter, str(self._path), block_bytes=_BLOCK_BYTES)

    def rows(self, is_row: IsRow | None = None) -> Iterator[Rows]:
        """Every row, once; ``is_row`` as in `RecordReader.blocks`."""
        following = 1
        self._repaired = self._blank = 0
        with self._errors(), self._opened() as stream:
            reader = self._reader(stream)
            if self._header:
                reader.header()
                following = 2
            for block in reader.blocks(len(self.columns), is_row):
                batch, unreadable = _parsed(block, self.columns)
                numbers = _numbers(1, batch.num_rows, [number for number, *_ in unreadable])
                filled = _any_filled(batch)
                self._count(block, following, int((~filled).sum()))
                yield Rows(
                    batch.filter(pa.array(filled)),
                    numbers[filled] + (following - 1),
                    [(number + following - 1, text, why) for number, text, why in unreadable],
                )
                following += batch.num_rows + len(unreadable)

    def _count(self, block: Block, following: int, blank: int) -> None:
        if block.repaired and not self._repaired:
            self._first_repaired = block.repaired[0] + following - 1
        self._repaired += len(block.repaired)
        self._blank += blank

    def expected_rows(self, seen: int) -> int | None:
        """An estimate, from the part of the file that was read so far."""
        position = self._position()
        return max(seen, round(seen * self._path.stat().st_size / position)) if position else None

    def notes(self) -> list[str]:
        """What was assumed about rows, in sentences; after they were read."""
        notes = []
        if self._repaired:
            notes.append(
                f"{self._repaired} rows have a quotation mark that does not enclose a value (the "
                f"first is row {self._first_repaired}): it was read as part of the text."
            )
        if self._blank:
            notes.append(f"{self._blank} lines hold no value at all and were passed by.")
        return notes

    def _errors(self) -> "_Explained":
        return _Explained(f"{self._path} cannot be read as CSV")


def parse_delimiter(text: str) -> str:
    r"""What stands between two values: any characters but quotation marks and line ends.

    ``\t`` is a tabulator, since a shell hands it over like that.

    Raises:
        SkewlessError: exit code 2, for a delimiter that cannot be one.
    """
    delimiter = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if not delimiter or any(each in delimiter for each in '"\r\n\0\ufffd'):
        raise _unusable(
            f"--delimiter takes what stands between two values, such as ';', '::' or '\\t', "
            f"without quotation marks or line ends, not {text!r}."
        )
    try:
        delimiter.encode()
    except UnicodeEncodeError as error:
        raise _unusable(f"--delimiter takes UTF-8 text, not {text!r}.") from error
    return delimiter


def _parsed(
    block: Block, columns: Sequence[str]
) -> tuple[pa.RecordBatch, list[tuple[int, str, str]]]:
    """A block's rows as text, and those (number in the block, text, reason) of another width."""
    unreadable: list[tuple[int, str, str]] = []

    def note(row: "pa.csv.InvalidRow") -> str:
        text = block.unsplit.get(row.number) or block.restored(row.text)
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
        unreadable.append((row.number, text, reason))
        return "skip"

    names = [f"f{place}" for place in range(len(columns))]
    # The reader takes a byte order mark for the file's own and drops it: this block's first row
    # may begin with one that is a value's.
    data = codecs.BOM_UTF8 + block.data if block.data.startswith(codecs.BOM_UTF8) else block.data
    table = pa.csv.read_csv(
        pa.BufferReader(data),
        # One thread: only then do invalid rows come with their numbers.
        read_options=pa.csv.ReadOptions(
            use_threads=False, column_names=names, block_size=len(data) + 1
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=block.delimiter,
            quote_char='"' if block.quoted else False,
            double_quote=block.quoted,
            newlines_in_values=block.quoted,
            ignore_empty_lines=False,
            invalid_row_handler=note,
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    arrays = [
        column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        for column in table.columns
    ]
    if block.quoted and block.delimiter != block.original_delimiter:
        arrays = [
            pc.replace_substring(array, block.delimiter, block.original_delimiter)
            for array in arrays
        ]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns)), unreadable


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

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._held) < size:
            octets = self._stream.read(_BLOCK_BYTES)
            self._held += self._decoder.decode(octets, final=not octets).encode()
            if not octets:
                break
        taken, self._held = (self._held, b"") if size < 0 else (
            self._held[:size], self._held[size:])  # fmt: skip
        return taken


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
            raise _unusable(f"{self._what} ({said}): {advice}.") from error


def _unusable(sentence: str) -> SkewlessError:
    return InputError(sentence)

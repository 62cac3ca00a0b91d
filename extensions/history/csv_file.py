"""A CSV file of any delimiter and encoding as batches of text, with the number of every row."""

import codecs
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from extensions.errors import InputError
from extensions.history.csv_records import Block, IsRow, RecordReader
from extensions.history.file_rows import Explained, Rows
from extensions.history.text_streams import BLOCK_BYTES, TextFile, Utf8

_DELIMITERS = (",", ";", "\t", "|", "::")
_SAMPLED_LINES = 200
# The part of the sampled lines that must have as many fields as the first one.
_ALIKE = 0.8


class CsvFile:
    """A CSV file. Bytes that cannot be decoded arrive as U+FFFD.

    Its first row names the columns; where ``header`` is False they are named by ``names``, or by
    their numbers, from ``1``. Wholly blank lines, and lines of nothing but delimiters, are no
    rows. Rows with too few or too many fields are unreadable. Quotation marks out of place are
    text (`extensions.history.csv_records`).
    """

    def __init__(
        self,
        path: Path,
        text: TextFile,
        delimiter: str | None,
        *,
        header: bool = True,
        names: Sequence[str] = (),
    ) -> None:
        self._path, self._text = path, text
        self._header = header and not names
        self._recognised = delimiter is None
        self.delimiter = delimiter or recognised_delimiter(
            text.sample, "\t" if ".tsv" in path.suffixes else ","
        )
        self._repaired = self._first_repaired = self._blank = 0
        with self._errors(), text.opened() as stream:
            first = self._reader(stream).peek()
        self._check(first)
        self.first_row = None if self._header else first
        self.columns = first if self._header else [str(n) for n in range(1, len(first) + 1)]
        if names:
            if len(names) != len(first):
                raise InputError(
                    f"--names has {len(names)} names and the first row of {path} "
                    f"{len(first)} fields ({', '.join(first[:6])}): give each field one."
                )
            self.columns = list(names)

    def _check(self, names: list[str]) -> None:
        """Is this text? The first row shows it."""
        if any("\0" in name for name in names):
            raise InputError(
                f"{self._path} is no text, and neither Parquet: convert it to CSV, or name its "
                "encoding with --encoding."
            )
        if self._header and any("\ufffd" in name for name in names):
            raise InputError(
                f"{self._path} is not in the encoding that it was read in: name its own with "
                "--encoding, or save it as UTF-8."
            )
        if names == [""]:
            raise InputError(
                f"The first line of {self._path} is blank: it needs a header and rows."
            )

    def _reader(self, stream: Utf8) -> RecordReader:
        return RecordReader(stream, self.delimiter, str(self._path), block_bytes=BLOCK_BYTES)

    def rows(self, is_row: IsRow | None = None) -> Iterator[Rows]:
        """Every row, once; ``is_row`` as in `RecordReader.blocks`."""
        following = 1
        self._repaired = self._blank = 0
        with self._errors(), self._text.opened() as stream:
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
        share = self._text.share_read()
        return max(seen, round(seen / share)) if share else None

    def notes(self) -> list[str]:
        """What was assumed about rows, in sentences; after they were read."""
        notes = self._text.notes()
        if self._recognised and self.delimiter != ",":
            shown = {"\t": "a tabulator"}.get(self.delimiter, f"{self.delimiter!r}")
            notes.append(f"The delimiter was taken to be {shown}: --delimiter says otherwise.")
        if self._repaired:
            notes.append(
                f"{self._repaired} rows have a quotation mark that does not enclose a value (the "
                f"first is row {self._first_repaired}): it was read as part of the text."
            )
        if self._blank:
            notes.append(f"{self._blank} lines hold no value at all and were passed by.")
        return notes

    def _errors(self) -> Explained:
        return Explained(f"{self._path} cannot be read as CSV")


def recognised_delimiter(sample: str, usual: str) -> str:
    """What stands between the values of a CSV, by its first lines.

    The delimiter by which most of them have as many fields as the first line, and of several
    such ones that with the most fields; ``usual`` where there is none.
    """
    lines = sample.splitlines(keepends=True)
    if len(lines) > 1:
        lines = lines[:-1]  # the sample may end within a line
    data = "".join(lines[: _SAMPLED_LINES + 1]).encode()
    best = (1, usual)
    for delimiter in _DELIMITERS:
        if delimiter.encode() not in data:
            continue
        try:
            reader = RecordReader(io.BytesIO(data), delimiter, "the sample")
            fields = len(reader.header())
            blocks = list(reader.blocks(fields))
        except InputError:
            continue
        if fields < 2:
            continue
        alike = total = 0
        for block in blocks:
            batch, unreadable = _parsed(block, [str(n) for n in range(fields)])
            alike += batch.num_rows
            total += batch.num_rows + len(unreadable)
        if alike >= _ALIKE * total and fields > best[0]:
            best = (fields, delimiter)
    return best[1]


def parse_delimiter(text: str) -> str:
    r"""What stands between two values: any characters but quotation marks and line ends.

    ``\t`` is a tabulator, since a shell hands it over like that.

    Raises:
        SkewlessError: exit code 2, for a delimiter that cannot be one.
    """
    delimiter = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if not delimiter or any(each in delimiter for each in '"\r\n\0\ufffd'):
        raise InputError(
            f"--delimiter takes what stands between two values, such as ';', '::' or '\\t', "
            f"without quotation marks or line ends, not {text!r}."
        )
    try:
        delimiter.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"--delimiter takes UTF-8 text, not {text!r}.") from error
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
            column_types=dict.fromkeys(names, pa.string()),
            # Nothing between two delimiters is no value; two quotation marks are an empty text.
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
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
        filled |= column.is_valid().to_numpy(zero_copy_only=False)
    return filled

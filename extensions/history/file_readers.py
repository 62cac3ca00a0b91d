"""Reading a person's own file in batches, with the number of every row: CSV, JSON lines, Parquet.

CSV and JSON values stay text, as they were written; Parquet values keep their types.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from extensions.errors import InputError
from extensions.history.csv_file import CsvFile, parse_delimiter
from extensions.history.csv_records import IsRow
from extensions.history.file_rows import Explained, Rows, TableFile
from extensions.history.json_lines import JsonLinesFile, begins_as_json
from extensions.history.text_streams import TextFile

_PARQUET_ROWS = 65_536
_OTHER_KINDS = {
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"\xd0\xcf\x11\xe0": "a spreadsheet",
    b"\xfd7zXZ\x00": "compressed by xz",
}


def open_table(
    path: Path,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool = True,
    names: Sequence[str] = (),
) -> TableFile:
    """The CSV, JSON lines (both possibly compressed) or Parquet file at ``path``.

    What is left out of delimiter (as `parse_delimiter` takes it) and encoding is recognised.
    ``names`` and ``header`` as `CsvFile` has them.

    Raises:
        SkewlessError: exit code 2, when the file is missing, empty, or none of the three.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: name a CSV, JSON lines or Parquet file.")
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}: check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check it.") from error
    if not head:
        raise InputError(f"{path} is empty: it needs a header and rows.")
    if head.startswith(b"PAR1"):
        if not header or names:
            raise InputError(
                f"{path} is Parquet, which names its columns: leave --no-header and --names out."
            )
        return ParquetFile(path)
    if kind := next((k for magic, k in _OTHER_KINDS.items() if head.startswith(magic)), None):
        raise InputError(f"{path} is {kind}: convert it to CSV or Parquet.")
    between = None if delimiter is None else parse_delimiter(delimiter)
    with Explained(f"{path} cannot be read as CSV"):
        text = TextFile(path, encoding)
    if between is None and begins_as_json(path, text.sample):
        if not header or names:
            raise InputError(
                f"{path} is JSON, which names its fields: leave --no-header and --names out."
            )
        return JsonLinesFile(path, text)
    return CsvFile(path, text, between, header=header, names=names)


class ParquetFile:
    """A Parquet file, read a row group's slice at a time."""

    first_row: list[str] | None = None
    delimiter = ""

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

    def _errors(self) -> Explained:
        return Explained(f"{self._path} is not a whole Parquet file")

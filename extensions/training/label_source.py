"""Labels (entity keys, event timestamps, outcomes) from CSV, Parquet, or a SQL query."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from extensions.errors import InputError
from extensions.history.csv_records import RecordReader


@dataclass(frozen=True)
class Labels:
    """``rows`` is an Arrow table, or the SQL that returns the labels inside the database."""

    rows: pa.Table | str
    path: Path | None
    sha256: str

    @property
    def sql(self) -> str | None:
        """The query; None for a file's rows."""
        return self.rows if isinstance(self.rows, str) else None


def read_labels(source: Path | str) -> Labels:
    """Labels from a ``.csv``, ``.parquet`` or ``.sql`` file, or from a SELECT itself.

    Raises:
        InputError: the file is missing, of another kind, or cannot be read.
    """
    if isinstance(source, str) and source.lstrip().lower().startswith(("select", "with", "table ")):
        return Labels(source, None, _sha256(source.encode()))
    path = Path(source)
    readers = {".csv": _read_csv, ".parquet": pq.read_table, ".sql": None}
    if path.suffix.lower() not in readers:
        raise InputError(
            f"Labels come from a .csv, .parquet or .sql file, or from a SELECT; {source} is none."
        )
    try:
        content = path.read_bytes()
        read = readers[path.suffix.lower()]
        rows = read(pa.BufferReader(content)) if read else content.decode()
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}: give the labels' file.") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"The labels in {path} cannot be read ({str(error).splitlines()[0]}): write them "
            f"again as {path.suffix.lower()}."
        ) from error
    return Labels(rows, path, _sha256(content))


def _read_csv(source: pa.BufferReader) -> pa.Table:
    """A CSV with inferred types; one that could be read in two ways is refused."""
    content = source.read()
    reader = RecordReader(io.BytesIO(content), ",", "the CSV")
    columns = reader.header()
    row = 1
    for block in reader.blocks(len(columns)):
        if out_of_place := [*block.repaired, *block.unsplit]:
            raise ValueError(
                f"row {row + min(out_of_place)} has a quotation mark that does not enclose a value"
            )
        row += block.records
    return pyarrow.csv.read_csv(
        pa.BufferReader(content), parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

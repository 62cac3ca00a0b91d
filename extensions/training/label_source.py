"""Labels (entity keys, event timestamps, outcomes) from CSV, Parquet, or a SQL query."""

import hashlib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from extensions.errors import ConflictError, InputError
from extensions.feature_types import is_text
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

    def with_texts(self, names: Collection[str]) -> "Labels":
        """The labels with these columns as texts, where the file does not say a column's type.

        A CSV's types are inferred: of texts, "042" and "42" would become one number.

        Raises:
            ConflictError: the file has changed since it was read.
        """
        if not isinstance(self.rows, pa.Table) or self.path is None:
            return self
        kinds = dict(zip(self.rows.column_names, self.rows.schema.types, strict=True))
        wanted = [name for name in names if name in kinds and not is_text(kinds[name])]
        if self.path.suffix.lower() != ".csv" or not wanted:
            return self
        content = self.path.read_bytes()
        if _sha256(content) != self.sha256:
            raise ConflictError(f"The labels in {self.path} changed while they were read.")
        return replace(self, rows=_parse_csv(content, dict.fromkeys(wanted, pa.string())))


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
    return _parse_csv(content, {})


def _parse_csv(content: bytes, types: Mapping[str, pa.DataType]) -> pa.Table:
    return pyarrow.csv.read_csv(
        pa.BufferReader(content),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types),
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

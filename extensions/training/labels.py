"""Labels: what happened to whom and when, from a file or from a query."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from extensions.errors import SkewlessError


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
        SkewlessError: the file is missing, of another kind, or cannot be read.
    """
    if isinstance(source, str) and source.lstrip().lower().startswith(("select", "with", "table ")):
        return Labels(source, None, _sha256(source.encode()))
    path = Path(source)
    readers = {".csv": pyarrow.csv.read_csv, ".parquet": pq.read_table, ".sql": None}
    if path.suffix.lower() not in readers:
        raise SkewlessError(
            f"Labels come from a .csv, .parquet or .sql file, or from a SELECT; {source} is none."
        )
    try:
        content = path.read_bytes()
        read = readers[path.suffix.lower()]
        rows = read(pa.BufferReader(content)) if read else content.decode()
    except FileNotFoundError as error:
        raise SkewlessError(f"There is no file {path}: give the labels' file.") from error
    except (OSError, ValueError) as error:
        raise SkewlessError(
            f"The labels in {path} cannot be read ({str(error).splitlines()[0]}): write them "
            f"again as {path.suffix.lower()}."
        ) from error
    return Labels(rows, path, _sha256(content))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

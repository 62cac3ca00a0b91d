"""What readers of files give: rows with their numbers; and a reader's complaints as sentences."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from extensions.errors import InputError
from extensions.history.csv_records import IsRow


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
    # Between the values of a CSV; empty for other files.
    delimiter: str

    def rows(self, is_row: IsRow | None = None) -> Iterator[Rows]:
        """Every row, once; ``is_row`` as in `RecordReader.blocks`."""

    def expected_rows(self, seen: int) -> int | None:
        """How many rows the file may hold, judged after ``seen`` of them."""

    def notes(self) -> list[str]:
        """What was assumed about rows, in sentences; after they were read."""


class Explained:
    """Turns a reader's complaints into one sentence (exit code 2)."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, pa.ArrowException | OSError | EOFError):
            said = str(error).splitlines()[0][:200] if str(error) else "it ends too early"
            advice = "mend the file and import it again; what is stored by then is not added twice"
            raise InputError(f"{self._what} ({said}): {advice}.") from error

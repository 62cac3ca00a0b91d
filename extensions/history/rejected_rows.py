"""The rows that an import refused, with the reason, in a CSV file beside the input."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from extensions.errors import InputError
from extensions.history.file_readers import Rows
from extensions.output_files import output_path

_ABOUT = ["rejected_row", "rejected_reason", "rejected_text"]


class Rejects:
    """Writes refused rows as they come; the file appears, whole, when the import ends.

    Its columns are the row's number, the reason, the raw text of a row that could not be taken
    apart, and then the input's own: mended, it can be imported as it is.
    """

    def __init__(self, source: Path, columns: list[str], path: Path | None = None) -> None:
        self.path = path or source.with_name(source.name + ".rejected.csv")
        self._target = output_path(self.path)
        if self._target == source.resolve():
            raise InputError(
                f"The rejected rows cannot go to the input itself, {source}: name another file.",
            )
        self.reasons: Counter[str] = Counter()
        # Columns that an earlier import added are written anew.
        self._kept = [i for i, name in enumerate(columns) if name not in _ABOUT]
        names = [*_ABOUT, *(columns[i] for i in self._kept)]
        self._schema = pa.schema(
            [(name, pa.int64() if name == _ABOUT[0] else pa.string()) for name in names[:1]]
            + [(name, pa.string()) for name in names[1:]]
        )
        self._part = self._target.with_name(self._target.name + ".part")
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
            self.reasons[reason] += 1
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
        self.reasons.update(first.tolist())
        refused = rows.batch.filter(pa.array(bad))
        values = [_as_text(refused.column(i)) for i in self._kept]
        self._write(rows.numbers[bad], reasons, [None] * len(reasons), values)

    def _write(self, numbers: object, reasons: object, texts: object, values: list[object]) -> None:
        columns = [numbers, reasons, texts, *values]
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))

    def finish(self) -> Path | None:
        """Put the file in its place; without a refused row there is none."""
        self._writer.close()
        if not self.count:
            self._part.unlink()
            return None
        self._part.replace(self._target)
        return self.path

    def abandon(self) -> None:
        """Leave nothing behind: the import did not end."""
        self._writer.close()
        self._part.unlink(missing_ok=True)


def _as_text(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        return column
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())

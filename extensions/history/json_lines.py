"""A file of JSON lines as batches of text: one object a line, its fields the columns.

Values arrive as CSV would hold them: a string's text, a number as it was written, and objects and
lists as JSON text, of which an expression may take parts (``payload->>'$.user.id'``).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from extensions.errors import InputError
from extensions.history.csv_records import IsRow
from extensions.history.file_expressions import sandbox
from extensions.history.file_rows import Explained, Rows
from extensions.history.text_streams import BLOCK_BYTES, TextFile, Utf8

_LONGEST_LINE = 64 << 20
_SUFFIXES = {".json", ".jsonl", ".ndjson"}


def begins_as_json(path: Path, sample: str) -> bool:
    """Is a file that begins so JSON, and not CSV?

    Raises:
        InputError: it is JSON, but no lines of objects.
    """
    begin = sample.lstrip("\ufeff \t\r\n")
    first = begin.splitlines()[0].strip() if begin else ""
    is_called = not _SUFFIXES.isdisjoint(path.suffixes)
    if first.startswith("{") and (is_called or _is_object(first)):
        if not _is_object(first):
            raise InputError(
                f"The first line of {path} is no JSON object: write one object a line, as "
                "`jq -c .` does."
            )
        return True
    if is_called:
        raise InputError(
            f"{path} is not JSON lines: write one object a line, as `jq -c '.[]'` does of a list."
        )
    return False


class JsonLinesFile:
    """A file of JSON objects, one a line. The columns are the fields of the first megabyte.

    Lines that are no JSON object are unreadable; blank ones are no rows. A field that is null or
    not there is null.
    """

    first_row: list[str] | None = None
    delimiter = ""

    def __init__(self, path: Path, text: TextFile) -> None:
        self._path, self._text = path, text
        self._conn = sandbox()
        self._later: set[str] = set()
        lines = text.sample.encode().split(b"\n")
        sampled = [line for line in (lines[:-1] if len(lines) > 1 else lines) if line.strip()]
        self.columns = self._fields(_array(sampled))

    def rows(self, is_row: IsRow | None = None) -> Iterator[Rows]:  # noqa: ARG002 - CSV's
        """Every row, once."""
        self._later = set()
        begin = 1
        with Explained(f"{self._path} cannot be read as JSON lines"), self._text.opened() as stream:
            for lines in self._lines(stream):
                yield self._parsed(lines, begin)
                begin += len(lines)

    def expected_rows(self, seen: int) -> int | None:
        """An estimate, from the part of the file that was read so far."""
        share = self._text.share_read()
        return max(seen, round(seen / share)) if share else None

    def notes(self) -> list[str]:
        """What was assumed about rows, in sentences; after they were read."""
        notes = self._text.notes()
        if self._later:
            notes.append(
                f"Fields that the first lines do not have were not read: "
                f"{', '.join(sorted(self._later)[:10])}. If they matter, put a line that has them "
                "first."
            )
        return notes

    def _lines(self, stream: Utf8) -> Iterator[list[bytes]]:
        rest = b""
        while octets := stream.read(BLOCK_BYTES):
            rest += octets
            *lines, rest = rest.split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise InputError(f"{self._path} has a line of more than {_LONGEST_LINE >> 20} MB.")
            if lines:
                yield lines
        if rest:
            yield [rest]

    def _parsed(self, lines: list[bytes], begin: int) -> Rows:
        array = _array(lines)
        self._later |= set(self._fields(array)) - set(self.columns)
        taken = ", ".join(
            f"CASE WHEN json_type(j, {_path(name)}) IS DISTINCT FROM 'NULL' "
            f"THEN json_extract_string(j, {_path(name)}) END AS c{place}"
            for place, name in enumerate(self.columns)
        )
        self._conn.register("lines", pa.table({"line": array, "place": np.arange(len(lines))}))
        table = self._conn.sql(
            f"SELECT place, ok, {taken or 'NULL AS c0'} FROM (SELECT place, CASE WHEN ok THEN line "
            f"ELSE '{{}}' END AS j, ok FROM (SELECT *, {_IS_OBJECT} AS ok FROM lines) AS checked) "
            "AS parsed ORDER BY place"
        ).to_arrow_table()
        ok = table.column("ok").to_numpy()
        blank = np.array([not line.strip() for line in lines])
        numbers = np.arange(begin, begin + len(lines))
        kept = table.filter(pa.array(ok)).combine_chunks()
        batch = pa.RecordBatch.from_arrays(
            [
                _chunk(kept.column(f"c{place}")).cast(pa.string())
                for place in range(len(self.columns))
            ],
            names=self.columns,
        )
        bad = np.flatnonzero(~ok & ~blank)
        unreadable = [
            (int(numbers[n]), array[n].as_py().rstrip("\r"), "is no JSON object") for n in bad
        ]
        return Rows(batch, numbers[ok], unreadable)

    def _fields(self, lines: pa.Array) -> list[str]:
        """The names of the objects' fields, in the order in which they first appear."""
        self._conn.register("lines", pa.table({"line": lines, "place": np.arange(len(lines))}))
        found = self._conn.execute(
            "SELECT key, min(place * 10000 + nth) FROM (SELECT place, unnest(keys) AS key, "
            "generate_subscripts(keys, 1) AS nth FROM (SELECT place, json_keys(line) AS keys "
            f"FROM lines WHERE {_IS_OBJECT}) AS objects) AS fields GROUP BY key ORDER BY 2"
        ).fetchall()
        return [key for key, _ in found]


_IS_OBJECT = "CASE WHEN json_valid(line) THEN json_type(line) = 'OBJECT' ELSE false END"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _array(lines: list[bytes]) -> pa.Array:
    return pa.array(lines, pa.binary()).cast(pa.string())


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _path(name: str) -> str:
    """A field as a JSON path in a SQL literal."""
    inner = name.replace("\\", "\\\\").replace('"', '\\"')
    return "'$.\"" + inner.replace("'", "''") + "\"'"

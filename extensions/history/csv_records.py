"""CSV record boundaries: cuts text into well-formed CSV, whatever its quotation marks do.

A CSV parser that meets an opening quotation mark reads on to the next one, over as many lines as
that takes, and what lies between is one value: rows vanish without an error. Here a quoted value
must close at a delimiter or a line's end, and its further lines must not be rows of the file
themselves. A line for which that fails is taken by itself, its quotation marks as text.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from extensions.errors import InputError

_BLOCK_BYTES = 1 << 20
# A value may span lines, and a line may go on, for this long.
LONGEST_VALUE = 1 << 20
_LONGEST_LINE = 16 << 20
# Stand in for a delimiter that is not one ASCII character; one that a block holds is not taken.
_STAND_INS = [bytes([code]) for code in (0x1F, 0x1E, 0x1D, 0x1C, *range(1, 9), *range(14, 28))]

# Do these fields, split without regard to quotation marks, have what a row of the file has in
# the columns of these places?
IsRow = Callable[[Sequence[str], range], bool]


class ByteStream(Protocol):
    """Something to read bytes from."""

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; none at the end."""


@dataclass(frozen=True)
class Block:
    """Whole records as well-formed CSV, for a parser that trusts quotation marks.

    ``delimiter`` is one ASCII character; where it stands in for another, that one comes back by
    `restored`. ``records``: how many there are, blank lines included. ``unsplit``: by the
    record's number in the block, from 1, the original text of those that had to be rewritten
    and do not have the file's number of fields. ``repaired``: the numbers of those that were
    rewritten and do.
    """

    data: bytes
    delimiter: str
    quoted: bool
    original_delimiter: str
    records: int
    unsplit: dict[int, str] = field(default_factory=dict)
    repaired: list[int] = field(default_factory=list)

    def restored(self, text: str) -> str:
        """``text`` of this block with the file's own delimiter."""
        return text.replace(self.delimiter, self.original_delimiter)


class RecordReader:
    """Reads a stream of UTF-8 CSV: its header first, then blocks of its records.

    Lines end by LF, CRLF or CR. ``what`` names the file in messages.
    """

    def __init__(
        self, stream: ByteStream, delimiter: str, what: str, *, block_bytes: int = _BLOCK_BYTES
    ) -> None:
        self._stream = stream
        self._delimiter = delimiter
        self._what = what
        self._block_bytes = block_bytes
        self._buffer = b""
        self._ended = False
        self._grammar = _Grammar(delimiter.encode())
        self._fill(LONGEST_VALUE)
        self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")

    def header(self) -> list[str]:
        """The fields of the first record, which is consumed."""
        fields, end = self._first_record()
        self._buffer = self._buffer[end:]
        return fields

    def peek(self) -> list[str]:
        """The fields of the first record, which stays."""
        return self._first_record()[0]

    def blocks(self, columns: int, is_row: IsRow | None = None) -> Iterator[Block]:
        """All further records; ``columns`` is how many fields one has.

        ``is_row`` tells a line within a quoted value that is a row of the file; without it, the
        numbers of fields alone do.
        """
        while True:
            self._fill(self._block_bytes + LONGEST_VALUE)
            if not self._buffer:
                return
            end = self._last_line_end()
            data = self._buffer
            if b'"' not in data[:end]:
                records = _line_ends(data[:end]) + (not data[:end].endswith((b"\n", b"\r")))
                yield self._block(data[:end], records)
            elif self._grammar.plainly_quoted(data[:end]):
                yield self._block(data[:end], _line_ends(data[:end]), {})
            else:
                pieces, records, unsplit, repaired, end = self._well_formed(
                    data, end, columns, is_row
                )
                yield self._block(b"".join(pieces), records, unsplit, repaired)
            self._buffer = data[end:]

    def _first_record(self) -> tuple[list[str], int]:
        grammar, data = self._grammar, self._buffer
        end = grammar.line_end(data, 0)
        if end is None and not self._ended:
            raise InputError(
                f"The first line of {self._what} is longer than {LONGEST_VALUE >> 20} MB: it is "
                "no CSV with a header.",
            )
        stop, after = end or (len(data), len(data))
        whole = grammar.record(data, 0, ended=self._ended)
        if whole is not None:
            fields = grammar.fields(data[: whole[0]])
            later = data[after : whole[0]].splitlines()
            if all(len(grammar.literal(line)) < len(fields) for line in later):
                return fields, whole[1]
        return grammar.literal(data[:stop]), after

    def _well_formed(
        self, data: bytes, end: int, columns: int, is_row: IsRow | None
    ) -> tuple[list[bytes], int, dict[int, str], list[int], int]:
        """The records up to ``end``, or a little further, and how many; what was rewritten; where.

        Returns:
            The pieces, their records, as `Block` has them the unsplit and the repaired ones, and
            the place behind the last one.
        """
        grammar = self._grammar
        pieces: list[bytes] = []
        unsplit: dict[int, str] = {}
        repaired: list[int] = []
        at = kept = records = 0
        while True:
            begin, at = at, grammar.simple_lines(data, at, end)
            records += _line_ends(data[begin:at])
            if at >= end:
                break
            records += 1
            whole = grammar.record(data, at, ended=self._ended)
            if whole is not None and not self._hides_rows(data[at : whole[0]], columns, is_row):
                at = whole[1]
                end = max(end, at)
                continue
            stop, after = grammar.line_end(data, at) or (len(data), len(data))
            line = data[at:stop]
            fields = grammar.repaired_octets(line, columns)
            if len(fields) == columns:
                repaired.append(records)
            else:
                unsplit[records] = line.decode(errors="replace")
            pieces += [data[kept:at], grammar.quoted(fields)]
            at = kept = after
        pieces.append(data[kept:at])
        return pieces, records, unsplit, repaired, at

    def _hides_rows(self, record: bytes, columns: int, is_row: IsRow | None) -> bool:
        """Is a line of this record, which has several, by itself a row of the file?

        What comes before the value that spans lines is true of the first line anyway, and what
        comes behind it of the last one: they are told by the other side.
        """
        lines = [self._grammar.repaired(line, columns) for line in record.splitlines()]
        suspects = [place for place, fields in enumerate(lines) if len(fields) >= columns]
        if len(lines) == 1 or not suspects:
            return False
        last = len(lines) - 1
        if is_row is None:
            # A value in the last column leaves the first line whole, one in the first the last.
            return {0, last} <= set(suspects) or any(0 < line < last for line in suspects)
        own = self._grammar.fields(record)
        spanning = [place for place, value in enumerate(own) if "\n" in value or "\r" in value]
        for line in suspects:
            after = spanning[0] + 1 if line == 0 else 0
            until = spanning[-1] if line == last else columns
            if is_row(lines[line], range(after, until)):
                return True
        return False

    def _block(
        self,
        data: bytes,
        records: int,
        unsplit: dict[int, str] | None = None,
        repaired: list[int] | None = None,
    ) -> Block:
        delimiter = self._delimiter.encode()
        used = delimiter
        if len(delimiter) > 1:
            used = next((one for one in _STAND_INS if one not in data), b"")
            if not used:
                raise InputError(f"{self._what} is no text: it holds every control character.")
            data = data.replace(delimiter, used)
        return Block(
            data,
            used.decode(),
            unsplit is not None,
            self._delimiter,
            records,
            unsplit or {},
            repaired or [],
        )

    def _last_line_end(self) -> int:
        """After which whole lines the block ends, with room to look ahead behind it."""
        while True:
            data = self._buffer
            if self._ended:
                return len(data)
            limit = max(len(data) - LONGEST_VALUE, 1)
            end = max(data.rfind(b"\n", 0, limit), data.rfind(b"\r", 0, limit)) + 1
            if end:
                # Not between CR and LF.
                return end + (data[end - 1 : end + 1] == b"\r\n")
            if len(data) > _LONGEST_LINE:
                raise InputError(
                    f"{self._what} has a line longer than {_LONGEST_LINE >> 20} MB: cut it, or "
                    "convert the file to Parquet.",
                )
            self._fill(len(data) + self._block_bytes)

    def _fill(self, size: int) -> None:
        parts, held = [self._buffer], len(self._buffer)
        while held < size and not self._ended:
            octets = self._stream.read(self._block_bytes)
            self._ended = not octets
            parts.append(octets)
            held += len(octets)
        self._buffer = b"".join(parts)


class _Grammar:
    """What a field, a record and a line are, with this delimiter; all in bytes of UTF-8."""

    def __init__(self, delimiter: bytes) -> None:
        self._delimiter = delimiter
        cut = re.escape(delimiter)
        if len(delimiter) == 1:
            inner, first = rb"[^%b\r\n]" % cut, rb'[^"%b\r\n]' % cut
        else:
            inner, first = rb"(?:(?!%b)[^\r\n])" % cut, rb'(?:(?!%b)[^"\r\n])' % cut
        plain = rb"%b%b*+" % (first, inner)
        on_a_line = rb'"[^"\r\n]*+(?:""[^"\r\n]*+)*+"'
        over_lines = rb'"[^"]*+(?:""[^"]*+)*+"'
        end = rb"(?:\r\n|\n|\r)"

        def row(field: bytes) -> bytes:
            return rb"(?>%b)(?:%b(?>%b))*+" % (field, cut, field)

        self._simple_lines = re.compile(
            rb"(?:%b%b)*+" % (row(on_a_line + b"|" + plain + b"|"), end)
        )
        self._record = re.compile(
            rb"(%b)(?:%b|(\Z))" % (row(over_lines + b"|" + plain + b"|"), end)
        )
        # A quoted value with text behind it protects the delimiters in it all the same.
        self._lenient = re.compile(rb"(%b%b*+|%b*+)(?:%b|\Z)" % (on_a_line, inner, inner, cut))
        self._quoted = re.compile(over_lines)
        self._line = re.compile(end)

    def plainly_quoted(self, data: bytes) -> bool:
        """Whether these are whole lines, and each quotation mark encloses a value of one line.

        What `simple_lines` says of most files, found ten times as fast. False may be wrong.
        """
        if len(self._delimiter) != 1 or not data.endswith((b"\n", b"\r")):
            return False
        octets = np.frombuffer(data, np.uint8)
        marks = np.flatnonzero(octets == ord('"'))
        if len(marks) % 2:
            return False
        between = np.zeros(256, bool)
        between[[*b"\r\n", *self._delimiter]] = True
        opening, closing = marks[::2], marks[1::2]
        # A first one has the line's end of the last octet before it, as it were.
        if not (between[octets[opening - 1]].all() and between[octets[closing + 1]].all()):
            return False
        ends = np.flatnonzero((octets == ord("\n")) | (octets == ord("\r")))
        return bool((np.searchsorted(ends, opening) == np.searchsorted(ends, closing)).all())

    def simple_lines(self, data: bytes, at: int, end: int) -> int:
        """Behind the whole lines from ``at`` on of which each is a well-formed record."""
        found = self._simple_lines.match(data, at, end)
        return found.end() if found else at

    def record(self, data: bytes, at: int, *, ended: bool) -> tuple[int, int] | None:
        """Where the well-formed record at ``at`` ends, and where the next one begins."""
        found = self._record.match(data, at, at + LONGEST_VALUE)
        if found is None or (
            found.group(2) is not None and not (ended and found.end() == len(data))
        ):
            return None
        return found.end(1), found.end()

    def line_end(self, data: bytes, at: int) -> tuple[int, int] | None:
        """Where the line at ``at`` ends, and where the next one begins."""
        found = self._line.search(data, at)
        return found.span() if found else None

    def literal(self, line: bytes) -> list[str]:
        """The fields of a line that has no well-formed quotation, quotation marks and all."""
        return [self._unquoted(field) for field in line.split(self._delimiter)]

    def fields(self, record: bytes) -> list[str]:
        """The fields of a well-formed record."""
        fields, at, size = [], 0, len(self._delimiter)
        while True:
            quoted = self._quoted.match(record, at)
            end = quoted.end() if quoted else record.find(self._delimiter, at)
            end = len(record) if end < 0 else end
            fields.append(self._unquoted(record[at:end]))
            if end >= len(record):
                return fields
            at = end + size

    def repaired(self, line: bytes, columns: int) -> list[str]:
        """The fields of a line whose quotation marks are out of place."""
        return [self._unquoted(field) for field in self.repaired_octets(line, columns)]

    def repaired_octets(self, line: bytes, columns: int) -> list[bytes]:
        """The same as they are written, each with the quotation marks that enclose it."""
        fields, at = [], 0
        while found := self._lenient.match(line, at):
            fields.append(found.group(1))
            if found.end() == found.end(1):
                break
            at = found.end()
        return fields if len(fields) == columns else line.split(self._delimiter)

    def quoted(self, fields: Sequence[bytes]) -> bytes:
        """A well-formed record of fields as they are written, as a line; nothing stays nothing."""
        texts = [self._unquoted(field).replace('"', '""').encode() for field in fields]
        parts = [
            b'"%b"' % text if field else b"" for field, text in zip(fields, texts, strict=True)
        ]
        return self._delimiter.join(parts) + b"\n"

    def _unquoted(self, field: bytes) -> str:
        if self._quoted.fullmatch(field):
            field = field[1:-1].replace(b'""', b'"')
        return field.decode(errors="replace")


def _line_ends(data: bytes) -> int:
    return data.count(b"\n") + (data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0)

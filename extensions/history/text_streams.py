"""Text files as streams of UTF-8: decompressed and transcoded, whatever they were written in."""

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from extensions.errors import InputError

BLOCK_BYTES = 1 << 20
# How files begin, whatever they are called.
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# A character of several bytes, as UTF-8 writes it.
_MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
# Bytes that no text of a Western code page has.
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


class TextFile:
    """A file of text, possibly compressed by gzip, bz2, zstd or lz4 (known by its bytes).

    ``encoding`` is Python's name of a codec; None recognises UTF-8, UTF-16, and the Western code
    page 1252 (of which ISO 8859-1 is a part) where the first megabyte is no UTF-8.

    Raises:
        InputError: there is no codec of that name.
    """

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self._path = path
        self._position: Callable[[], int] = lambda: 0
        self.recognised: str | None = None
        with self._raw() as stream:
            self.head = stream.read(BLOCK_BYTES)
        if encoding is None:
            encoding = recognised_encoding(self.head)
            self.recognised = encoding if encoding not in ("utf-8", "utf-8-sig") else None
        try:
            self._codec = codecs.lookup(encoding)
            self.sample = self._decoder().decode(self.head)
        except (LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"--encoding takes the name of an encoding, such as utf-8, utf-16 or latin-1, not "
                f"{encoding!r}."
            ) from error

    @contextmanager
    def opened(self) -> Iterator["Utf8"]:
        """The text from its beginning, as UTF-8; what cannot be decoded is U+FFFD."""
        with self._raw() as stream:
            yield Utf8(stream, self._decoder())

    def share_read(self) -> float | None:
        """Which part of the file has been read, from 0 to 1; None where nothing has."""
        position = self._position()
        return position / self._path.stat().st_size if position else None

    def notes(self) -> list[str]:
        """What was assumed, in sentences."""
        if self.recognised is None:
            return []
        name = {"cp1252": "Western (windows-1252, latin-1)"}.get(
            self.recognised, self.recognised.upper()
        )
        return [f"The file was read as {name}: --encoding says otherwise."]

    def _decoder(self) -> codecs.IncrementalDecoder:
        return self._codec.incrementaldecoder(errors="replace")

    @contextmanager
    def _raw(self) -> Iterator[BinaryIO]:
        with self._path.open("rb") as raw:
            head = raw.read(8)
            raw.seek(0)
            self._position = lambda: 0 if raw.closed else raw.tell()
            compression = next((c for magic, c in _MAGIC.items() if head.startswith(magic)), None)
            yield pa.input_stream(raw, compression=compression) if compression else raw


class Utf8:
    """A binary stream in UTF-8 of one in another encoding, for a reader that insists."""

    def __init__(self, stream: BinaryIO, decoder: codecs.IncrementalDecoder) -> None:
        self._stream = stream
        self._decoder = decoder
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while size < 0 or len(self._held) < size:
            octets = self._stream.read(BLOCK_BYTES)
            self._held += self._decoder.decode(octets, final=not octets).encode()
            if not octets:
                break
        taken, self._held = (self._held, b"") if size < 0 else (
            self._held[:size], self._held[size:])  # fmt: skip
        return taken


def recognised_encoding(head: bytes) -> str:
    """The encoding of a text by its first bytes."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    pairs = len(head) // 2
    for begin, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if (
            pairs >= 4
            and head[begin::2].count(0) > 0.8 * pairs
            and not head[1 - begin :: 2].count(0)
        ):
            return name
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        # A file in UTF-8 with a broken place has more characters that are whole.
        rest, whole = _MULTIBYTE.subn(b"", head)
        broken = sum(octet >= 0x80 for octet in rest)
        if broken > whole and not _NO_TEXT.search(head):
            return "cp1252"
    return "utf-8"

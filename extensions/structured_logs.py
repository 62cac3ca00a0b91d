"""Structured logs: what a program says on standard error, as one JSON object a line.

Switched on by ``--log-format json`` or ``SKEWLESS_LOG_FORMAT=json`` for any program. Records of
`logging`, sentences for people and uncaught exceptions all come in one shape: ``time`` (ISO 8601,
UTC), ``level``, ``logger``, ``message``, ``program``, ``process``, and where there is one
``exception``. Figures that a command prints on standard output are not logs and stay as they are.
"""

import io
import json
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

VARIABLE = "SKEWLESS_LOG_FORMAT"
# More to say of each record, from whoever knows: the trace that it belongs to.
extra_fields: list[Callable[[], Mapping[str, str]]] = []


class _JsonLines(logging.Handler):
    """Writes records as JSON lines to the real standard error."""

    def __init__(self, stream: TextIO, program: str) -> None:
        super().__init__()
        self.stream, self.program = stream, program

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a record that cannot be formatted is told of, as `logging` does."""
        try:
            fields = self._fields(record)
            self.stream.write(json.dumps(fields, default=str, ensure_ascii=False) + "\n")
            self.stream.flush()
        except Exception:  # noqa: BLE001 - a log line must not end a program
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "program": self.program,
            "process": record.process,
        }
        if record.threadName != "MainThread":
            fields["thread"] = record.threadName
        if record.exc_info is not None and record.exc_info[1] is not None:
            fields["exception"] = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        fields |= getattr(record, "figures", {})
        for more in extra_fields:
            fields |= more()
        return fields

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say on the real stream that a record was lost."""
        lost = {"level": "error", "logger": record.name, "message": "a log record was lost"}
        self.stream.write(json.dumps(lost) + "\n")


class _Sentences(io.TextIOBase):
    """Standard error for everybody else: each line that is written becomes a record."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._held = stream, threading.local()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The real stream's."""
        return self._stream.encoding

    def fileno(self) -> int:
        """The real stream's: for children, and for what writes to the descriptor."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Never: no colours, no bars."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str, /) -> int:
        """Keep what has no end of line yet; lines are kept apart by thread."""
        *lines, self._held.text = (getattr(self._held, "text", "") + text).split("\n")
        for line in lines:
            if line.strip():
                logging.getLogger("skewless").log(_level_of(line), "%s", line.rstrip())
        return len(text)


def _level_of(line: str) -> int:
    """A command that ends with a sentence begins it so (`extensions.cli`)."""
    return logging.ERROR if line.startswith("skewless: ") else logging.INFO


def switched_on() -> bool:
    """Whether this process logs JSON."""
    return isinstance(sys.stderr, _Sentences)


def switch_on(program: str) -> None:
    """From now on log JSON; ``program``: the command, as in ``skewless serve``."""
    if switched_on():
        return
    handler = _JsonLines(sys.stderr, program)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.getLogger("skewless").setLevel(logging.INFO)
    sys.stderr = _Sentences(handler.stream)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def figures(message: str, fields: Mapping[str, Any]) -> None:
    """Log what a program that runs until it is stopped has done, with its figures as fields."""
    logging.getLogger("skewless").info(message, extra={"figures": dict(fields)})


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("skewless").critical(
        "%s: %s", kind.__name__, error, exc_info=(kind, error, trace)
    )


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not issubclass(told.exc_type, SystemExit):
        _uncaught(told.exc_type, told.exc_value, told.exc_traceback)

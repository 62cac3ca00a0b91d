"""Progress of long work on standard error: a bar in a terminal, plain lines in a log or a pipe.

Plain lines come at a bounded rate also while the work reports nothing, so that a log shows that it
goes on. Work that is done before the first line is due prints nothing.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import typer
from rich.console import Console

from extensions.exit_codes import INTERRUPTED

# Called with what is done and, where it is known, with the total.
Report = Callable[[int, int | None], None]

# Seconds between two lines; work that takes longer than `_LONG` speaks less often.
_EVERY, _EVERY_WHEN_LONG, _LONG = 10.0, 60.0, 600.0


@contextmanager
def progress(
    title: str, *, unit: str = "", kept: str = "", console: Console | None = None
) -> Iterator[Report]:
    """Show how far the work inside the block is; the value is called with (done, total or None).

    Args:
        title: What is being done, as in "Loading events".
        unit: What is counted, as in "rows"; left out of the line where it is empty.
        kept: What an interruption keeps, and how to go on; printed on Ctrl-C.
        console: Where it is printed; standard error by default.

    Raises:
        typer.Exit: Ctrl-C was pressed and ``kept`` is given: exit code 130.
    """
    err = console or Console(stderr=True)
    try:
        with _bar(title, err) if err.is_terminal else _lines(title, unit, err) as report:
            yield report
    except KeyboardInterrupt:
        if not kept:
            raise
        err.print(f"Interrupted. {kept}", markup=False, soft_wrap=True, highlight=False)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _bar(title: str, err: Console) -> Iterator[Report]:
    # Only here: rich's bars would cost every command's start.
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err, transient=True
    ) as bars:
        task = bars.add_task(title, total=None)

        def report(done: int, total: int | None = None) -> None:
            bars.update(task, completed=done, total=total)

        yield report


@contextmanager
def _lines(title: str, unit: str, err: Console) -> Iterator[Report]:
    def say(line: str) -> None:
        err.print(line, markup=False, highlight=False, soft_wrap=True)

    lines = ProgressLines(title, unit, say)
    ended = threading.Event()

    def speak() -> None:
        while not ended.wait(lines.pause):
            lines.tell()

    speaker = threading.Thread(target=speak, name="progress", daemon=True)
    speaker.start()
    try:
        yield lines.report
    except BaseException:
        ended.set()
        raise
    ended.set()
    speaker.join()
    lines.finish()


class ProgressLines:
    """Plain progress lines of one piece of work; `tell` prints how far it is now."""

    def __init__(self, title: str, unit: str, say: Callable[[str], None]) -> None:
        self._title, self._unit, self._say = title, f" {unit}" if unit else "", say
        self._began = time.monotonic()
        self._done = 0
        self._total: int | None = None
        self._told = False

    @property
    def pause(self) -> float:
        """Seconds until the next line is due."""
        return _EVERY if time.monotonic() - self._began < _LONG else _EVERY_WHEN_LONG

    def report(self, done: int, total: int | None = None) -> None:
        """Note how far the work is, without printing."""
        self._done, self._total = done, total

    def tell(self) -> None:
        """Print how far the work is, for how long it has run and what is left."""
        done, total = self._done, self._total
        seconds = time.monotonic() - self._began
        far = ""
        if total:
            far = f"{done:,} of {total:,}{self._unit} ({done / total:.0%}), "
        elif done:
            far = f"{done:,}{self._unit}, "
        left = ""
        if total and 0 < done < total:
            left = f", about {duration(seconds * (total - done) / done)} left"
        pace = f", {rate(done, seconds, self._unit)}" if self._unit and done and total else ""
        self._line(f"{far}{duration(seconds)}{pace}{left}")

    def finish(self) -> None:
        """Print the last line, where there was one before."""
        if self._told:
            count = f"{self._done:,}{self._unit} " if self._done else ""
            self._line(f"done, {count}in {duration(time.monotonic() - self._began)}")

    def _line(self, text: str) -> None:
        self._told = True
        self._say(f"{datetime.now(UTC):%H:%M:%SZ} {self._title}: {text}")


def rate(done: int, seconds: float, unit: str = "") -> str:
    """What is done in a length of time, for a person, as in ``1,200 rows/s``, ``3.5 days/min``."""
    each = done / max(seconds, 1e-9)
    for name, length in (("s", 1), ("min", 60), ("h", 3_600)):
        if each * length >= 1 or name == "h":
            break
    count = each * length
    return f"{count:,.0f}{unit}/{name}" if count >= 100 else f"{count:.1f}{unit}/{name}"


def duration(seconds: float) -> str:
    """A length of time for a person, as in ``8 s``, ``3 min 5 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"

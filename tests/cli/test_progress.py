"""Long work speaks: plain lines where no terminal watches, and what Ctrl-C keeps."""

import io
import os
import re
import signal
import threading
import time

import pytest
import typer
from rich.console import Console

from extensions.cli import progress as progress_module
from extensions.cli.progress import ProgressLines, duration, progress, rate
from extensions.exit_codes import INTERRUPTED


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_EVERY", 0.1)


def test_lines_come_at_a_steady_rate_also_without_reports(log: io.StringIO) -> None:
    with progress("Loading", unit="rows", console=Console(file=log)) as report:
        for done in range(1_000):
            report(done, 4_000)
        time.sleep(0.55)
    lines = log.getvalue().splitlines()
    assert 4 <= len(lines) <= 7, lines
    assert all(re.match(r"\d\d:\d\d:\d\dZ Loading: ", line) for line in lines)
    assert "999 of 4,000 rows (25%)" in lines[0]
    assert re.search(r"about \d+ s left$", lines[0])
    assert re.search(r"done, 999 rows in \d+ s$", lines[-1])
    # No box, no colour, no blank line.
    assert log.getvalue().isascii()
    assert "\x1b" not in log.getvalue()
    assert all(line.strip() for line in lines)


def test_short_work_says_nothing(log: io.StringIO) -> None:
    with progress("Loading", console=Console(file=log)) as report:
        report(1, 2)
    assert log.getvalue() == ""


def test_long_work_says_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ProgressLines("Loading", "", print)
    assert lines.pause == 0.1
    monkeypatch.setattr(progress_module, "_LONG", 0.0)
    assert lines.pause == progress_module._EVERY_WHEN_LONG


def test_ctrl_c_says_what_is_kept(log: io.StringIO) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with (
        pytest.raises(typer.Exit) as ended,
        progress("Loading", kept="Whole days are kept.", console=Console(file=log)),
    ):
        time.sleep(20)
    assert ended.value.exit_code == INTERRUPTED
    assert log.getvalue().splitlines()[-1] == "Interrupted. Whole days are kept."


def test_failed_work_does_not_say_done(log: io.StringIO) -> None:
    with pytest.raises(ValueError, match="broken"), progress("Loading", console=Console(file=log)):
        time.sleep(0.15)
        raise ValueError("broken")
    assert "done" not in log.getvalue()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (185, "3 min 5 s"), (7_800, "2 h 10 min")]
)
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_rate_has_a_unit_that_can_be_read() -> None:
    assert rate(9_999, 1.0, " rows") == "9,999 rows/s"
    assert rate(30, 20.0, " days") == "1.5 days/s"
    assert rate(3, 60.0, " days") == "3.0 days/min"
    assert rate(1, 7_200.0, " days") == "0.5 days/h"


def test_lines_say_the_rate_and_what_is_left(log: io.StringIO) -> None:
    with progress("Filling", unit="days", console=Console(file=log)) as report:
        report(3, 30)
        time.sleep(0.25)
    assert re.search(r"3 of 30 days \(10%\), 0 s, \d+\.\d days/s, about \d+ s left", log.getvalue())

"""Structured logs: whatever a program says on standard error is a JSON line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from uvicorn.config import LOGGING_CONFIG

from extensions.serving import server
from extensions.serving.settings import Settings
from tests.conftest import REPO_ROOT

SHAPE = {"time", "level", "logger", "message", "program", "process"}


def records(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(each.keys() >= SHAPE for each in found), text
    return found


def program(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SKEWLESS_")}
    return subprocess.run(
        [Path(sys.executable).parent / "skewless", *words], cwd=REPO_ROOT,
        env={**kept, "SKEWLESS_HOME": "/nonexistent", **variables},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_sentence_that_ends_a_command_is_an_error() -> None:
    by_option = program("--log-format", "json", "migrate")
    by_variable = program("migrate", SKEWLESS_LOG_FORMAT="json")
    for done in (by_option, by_variable):
        assert done.returncode == 1
        [record] = records(done.stderr)
        assert record["level"] == "error"
        assert record["program"] == "migrate"
        assert "No PostgreSQL address" in record["message"]
        assert "\n" not in record["message"]
    plain = program("migrate")
    assert plain.stderr.startswith("skewless: No PostgreSQL address")


INSIDE = """
import logging, sys, threading, warnings
from extensions.cli import main
from extensions.cli.console import err, wrapped
from extensions.structured_logs import figures, switch_on

switch_on("serve")
figures("refreshed", {"view": "a", "logged": 3})
logging.getLogger("extensions.x").warning("a %s", "warning")
logging.getLogger("extensions.x").info("not asked for")
print("one", "line", file=sys.stderr)
sys.stderr.write("half a ")
threading.Thread(target=lambda: sys.stderr.write("other\\n"), name="beside").start()
sys.stderr.write("line\\n")
err.print("[bold]from a console")
def fails():
    raise ValueError("in a thread")
thread = threading.Thread(target=fails, name="dies")
thread.start()
thread.join()
def command():
    raise RuntimeError("nobody took it")
from extensions.cli.process_end import run_program
run_program(lambda: main(command))
"""


def test_every_way_to_standard_error_is_a_record() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INSIDE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    found = {each["message"]: each for each in records(done.stderr)}
    assert set(found) == {
        "refreshed", "a warning", "one line", "half a line", "other", "from a console",
        "ValueError: in a thread", "RuntimeError: nobody took it",
    }  # fmt: skip
    assert (found["refreshed"]["view"], found["refreshed"]["logged"]) == ("a", 3)
    assert found["a warning"]["logger"] == "extensions.x"
    assert found["a warning"]["level"] == "warning"
    assert found["other"]["thread"] == "beside"
    assert found["one line"]["level"] == "info"
    ended = found["RuntimeError: nobody took it"]
    assert ended["level"] == "critical"
    assert ended["exception"].startswith("Traceback (most recent call last):\n")
    assert found["ValueError: in a thread"]["thread"] == "dies"


@pytest.mark.parametrize(("json_lines", "config"), [(True, None), (False, LOGGING_CONFIG)])
def test_the_servers_library_logs_as_we_do(
    json_lines: bool, config: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With handlers of its own it would write lines that are no JSON."""
    given = {}

    class Config:
        def __init__(self, _app: object, **named: object) -> None:
            given.update(named)
            raise KeyError

    monkeypatch.setattr(server, "switched_on", lambda: json_lines)
    monkeypatch.setattr(server.uvicorn, "Config", Config)
    with pytest.raises(KeyError):
        server.http_server(None, Settings(repo=REPO_ROOT))  # type: ignore[arg-type]
    assert given["log_config"] == config


def test_what_is_for_a_librarys_developers_is_hidden_as_in_text() -> None:
    code = (
        "import warnings\n"
        "from extensions.cli import main\n"
        "from extensions.structured_logs import switch_on\n"
        "def command():\n"
        "    switch_on('serve')\n"
        "    warnings.warn('for developers')\n"
        "main(command)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")

"""Files that commands write: none replaces a pipe, waits for its reader, or is half there."""

import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperArgument
from typer.testing import CliRunner

from extensions.cli.app import app
from extensions.errors import InputError
from tests.cli.test_command_line import COMMANDS
from tests.conftest import REPO_ROOT

# What commands read, and the folder that `init` makes.
READ = {
    ("init", "folder"), ("drift baseline", "training_set"), ("replay", "file"),
    ("serve", "api_key_file"), ("serve", "tls_certificate"), ("serve", "tls_key"),
    ("training-set", "again"),
}  # fmt: skip
WRITTEN = [
    (words, parameter)
    for words, command in COMMANDS.items()
    for parameter in command.params  # type: ignore[attr-defined]
    if parameter.type_descriptor.annotation is Path
    and (" ".join(words), parameter.name) not in READ
]
# Modules that write files of the program's own, in folders that it made itself.
OWN = {
    "extensions/cli/demo.py", "extensions/history/rejected_rows.py",
    "extensions/lake/parquet_files.py", "extensions/local/apache_kafka.py",
    "extensions/output_files.py", "extensions/repository_templates.py",
    "extensions/stores/offline/writes/parquet_export.py", "extensions/training/content_hash.py",
}  # fmt: skip
WRITES = re.compile(r"\.write_(?:text|bytes)\(|pq\.write_table\b|write_csv\b|ParquetWriter\(")


@pytest.fixture(params=["pipe", "socket", "folder"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "there.parquet"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    before = stat.S_IFMT(path.stat().st_mode)
    yield path
    assert stat.S_IFMT(path.stat().st_mode) == before


@pytest.mark.parametrize(
    ("words", "parameter"),
    WRITTEN,
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else part.name,
)
def test_each_output_is_refused_before_anything_is_done(
    words: tuple[str, ...], parameter: Any, there: Path
) -> None:
    parameters = COMMANDS[words].params  # type: ignore[attr-defined]
    arguments = [one for one in parameters if isinstance(one, TyperArgument)]
    given = (
        ["1"] * arguments.index(parameter) + [str(there)]
        if parameter in arguments
        else [parameter.opts[0], str(there)]
    )
    done = CliRunner().invoke(app, [*words, *given])
    assert isinstance(done.exception, InputError), (done.output, done.exception)
    assert "which no file can take the place of" in str(done.exception)


def test_the_outputs_are_found() -> None:
    assert {"html", "out", "metrics_file", "rejected"} <= {one.name for _, one in WRITTEN}
    known = {(" ".join(words), one.name) for words, command in COMMANDS.items()
             for one in command.params}  # type: ignore[attr-defined]  # fmt: skip
    assert known >= READ


def test_files_are_written_whole_or_not_at_all() -> None:
    """A module that writes a file does it by `whole_file`, or is known to write its own alone."""
    by_themselves = {
        str(path.relative_to(REPO_ROOT))
        for room in ("extensions", "monitoring", "streaming")
        for path in (REPO_ROOT / room).rglob("*.py")
        if WRITES.search(path.read_text()) and "whole_file" not in path.read_text()
    }
    assert by_themselves <= OWN

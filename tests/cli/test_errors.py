"""Errors are free of click; the command line alone knows what each exits with."""

import subprocess
import sys

import pytest

from extensions import cli, errors
from extensions.thread_supervision import ThreadEndedError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SkewlessError("x"), 1),
        (errors.InputError("x"), 2),
        (errors.NothingToCheckError("x"), 5),
        (errors.DefinitionError("x"), 1),
        (errors.ConfigurationError("x"), 1),
        (errors.ConflictError("x"), 1),
        (errors.UnavailableError("x"), 1),
        (ThreadEndedError("x"), 70),
    ],
)
def test_each_class_has_its_exit_code(
    error: errors.SkewlessError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.main(fails)
    assert ended.value.code == code
    assert capsys.readouterr().err == "skewless: x\n"


def test_errors_do_not_import_the_command_line_library() -> None:
    code = "import sys, extensions.errors; sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_definition_error_names_its_file_once() -> None:
    error = errors.DefinitionError("The SQL fails.", file="computations/spending.v1.sql")
    assert str(error) == error.message == "The SQL fails. (File: computations/spending.v1.sql.)"
    named = errors.DefinitionError("Write spending.v1.sql.", file="computations/spending.v1.sql")
    assert named.message == "Write spending.v1.sql."

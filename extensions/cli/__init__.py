"""The command line `skewless`: composes all the rooms; it holds no logic of its own."""

import sys
import warnings
from collections.abc import Callable
from typing import NoReturn

from extensions.cli.app import app
from extensions.cli.console import server_failure
from extensions.cli.process_end import run_program
from extensions.errors import InputError, NothingToCheckError, SkewlessError
from extensions.exit_codes import BROKEN, FAILED, NOT_CHECKED, USAGE
from extensions.thread_supervision import ThreadEndedError

OURS = ("extensions", "feature_repo", "streaming", "monitoring")
# By class of error; FAILED for all others.
EXIT_CODES = {InputError: USAGE, NothingToCheckError: NOT_CHECKED, ThreadEndedError: BROKEN}


def program() -> NoReturn:
    """The program `skewless`: `main`, and the end of the process."""
    run_program(main)


def main(command: Callable[[], object] = app) -> None:
    """Run the command line; a person's mistake is one sentence, never a traceback.

    Exit codes are those of `extensions.exit_codes`.
    """
    if not sys.warnoptions:
        # Feast switches warnings about its dependencies on when it is imported; they are for
        # its developers, and would stand between a person and the answer.
        warnings.showwarning = lambda *_args, **_more: None
    try:
        command()
    except SkewlessError as error:
        _fail(error.message, exit_code_of(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OURS:
            raise
        _fail(
            f"This command needs the package {package}, which is not installed here: install "
            "locks/production.txt, or the lock of the command's role (docs/operations.md, Roles).",
            1,
        )
    except Exception as error:
        if (sentence := server_failure(error)) is None:
            raise
        _fail(sentence, FAILED)


def exit_code_of(error: SkewlessError) -> int:
    """What a command exits with when the error ends it."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), FAILED)


def _fail(sentence: str, code: int) -> None:
    print(f"skewless: {sentence}", file=sys.stderr)  # noqa: T201
    sys.exit(code)

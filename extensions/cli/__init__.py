"""The command line `skewless`: composes all the rooms; it holds no logic of its own."""

import sys
import warnings
from collections.abc import Callable

from extensions.cli.app import app
from extensions.cli.console import CommandError, server_failure
from extensions.errors import InputError, SkewlessError
from extensions.exit_codes import BROKEN, FAILED, USAGE
from extensions.thread_supervision import ThreadEndedError

# By class of error; FAILED for all others.
EXIT_CODES = {InputError: USAGE, ThreadEndedError: BROKEN}


def main(command: Callable[[], object] = app) -> None:
    """Run the command line; a person's mistake is one sentence, never a traceback."""
    if not sys.warnoptions:
        # Feast switches warnings about its dependencies on when it is imported; they are for
        # its developers, and would stand between a person and the answer.
        warnings.showwarning = lambda *_args, **_more: None
    try:
        command()
    except SkewlessError as error:
        _fail(error.message, exit_code_of(error))
    except Exception as error:
        if (sentence := server_failure(error)) is None:
            raise
        _fail(sentence, FAILED)


def exit_code_of(error: SkewlessError) -> int:
    """What a command exits with when the error ends it."""
    if isinstance(error, CommandError):
        return error.exit_code
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), FAILED)


def _fail(sentence: str, code: int) -> None:
    print(f"skewless: {sentence}", file=sys.stderr)  # noqa: T201
    sys.exit(code)

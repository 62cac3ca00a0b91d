"""How errors of the stores look under Feast's own command line (`feast apply` and the like).

Feast's commands print what click calls a ClickException and let everything else end in a
traceback. Our exceptions are free of click, so the process's hook prints their sentence instead.
"""

import sys
from types import TracebackType

import click

from extensions.errors import SkewlessError


def print_errors_as_sentences() -> None:
    """Under the command `feast`, end on a `SkewlessError` with its sentence and exit code 1."""
    feast_command = getattr(sys.modules.get("feast.cli.cli"), "cli", None)
    context = click.get_current_context(silent=True)
    if context is not None and context.find_root().command is feast_command:
        sys.excepthook = _print


def _print(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, SkewlessError):
        click.echo(f"Error: {error.message}", err=True)
    else:
        sys.__excepthook__(kind, error, trace)

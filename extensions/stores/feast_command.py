"""Under Feast's own command line (`feast apply` and the like): its repository, and our errors.

The definitions are imported from the folder that the command works in (``--chdir``, or the working
directory), whatever else on the path of modules has a package of that name.

Feast's commands print what click calls a ClickException and let everything else end in a
traceback. Our exceptions are free of click, so the process's hook prints their sentence instead.
"""

import sys
from pathlib import Path
from types import TracebackType

import click

from extensions.errors import SkewlessError
from extensions.repository import import_definitions


def settle_in() -> None:
    """Under the command `feast`, import its repository's definitions.

    A `SkewlessError` ends the command with its sentence and exit code 1.
    """
    feast_command = getattr(sys.modules.get("feast.cli.cli"), "cli", None)
    context = click.get_current_context(silent=True)
    if context is None or context.find_root().command is not feast_command:
        return
    sys.excepthook = _print
    options = context.find_root().obj
    if isinstance(options, dict) and "CHDIR" in options:
        import_definitions(Path(options["CHDIR"]))


def _print(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, SkewlessError):
        click.echo(f"Error: {error.message}", err=True)
    else:
        sys.__excepthook__(kind, error, trace)

"""Command lines and variables as the programs themselves read them, for files that name them."""

import ast
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.main import get_command

from extensions.cli.app import app

ROOT = Path(__file__).parents[2]


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """The options of a command line after ``skewless``, read by its own parser and not run.

    Raises:
        UsageError (click's): there is no such command or option, or a value is none of its kind.
    """
    command: Any = get_command(app)
    context = command.make_context("skewless", list(words))
    options = dict(context.params)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        context = command.make_context(name, rest, parent=context)
        options |= context.params
    return options


@functools.cache
def variables_read() -> set[str]:
    """Environment variables named ``SKEWLESS_…`` that some program reads."""
    return {
        node.value
        for folder in ("extensions", "streaming", "monitoring")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("SKEWLESS_")
        and node.value.replace("_", "").isalnum()
    }

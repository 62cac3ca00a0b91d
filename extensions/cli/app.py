"""All commands, gathered by task; each family stands in its module.

Feast, pandas and database drivers take seconds to import. Commands import what they use when they
run, so that `--help`, completion and a mistyped option answer at once; a test sees to it.
"""

from inspect import getdoc
from typing import Annotated

import typer

from extensions.cli.commands import (
    admin,
    history_loading,
    local_stack,
    monitoring,
    refresh_and_backfill,
    serving,
    streaming,
    training_sets,
    versions,
)

app = typer.Typer(
    name="skewless",
    help="A feature store without training-serving skew. Start with `skewless demo`, or with the "
    "quick start in README.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

# The panels of `skewless --help`, in the order of a first hour.
_PANELS = {
    "The local stack": [local_stack],
    "Set-up and health": [admin],
    "Data": [history_loading],
    "Computing features": [refresh_and_backfill],
    "Training": [training_sets],
    "Serving": [serving],
    "Streams": [streaming],
    "Changing features": [versions],
    "Watching": [monitoring],
}


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version
        from platform import python_version

        print(  # noqa: T201
            f"skewless {version('skewless')} (Feast {version('feast')}, Python {python_version()})"
        )
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    """What can be said before a command."""


def _gather() -> None:
    for panel, families in _PANELS.items():
        for family in families:
            commands, groups = len(app.registered_commands), len(app.registered_groups)
            family.register(app)
            for command in app.registered_commands[commands:]:
                command.rich_help_panel = panel
                # What a command does, and below it what else is good to know.
                command.help = f"{command.help}\n\n{getdoc(command.callback)}"
            for group in app.registered_groups[groups:]:
                group.rich_help_panel = panel


_gather()

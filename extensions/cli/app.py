"""All commands, gathered by task; each family stands in its module.

Feast, pandas and database drivers take seconds to import. Commands import what they use when they
run, so that `--help`, completion and a mistyped option answer at once; a test sees to it.
"""

import os
from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from extensions import tracing
from extensions.cli.commands import (
    admin,
    computation_text,
    explaining,
    history_loading,
    lake,
    local_stack,
    monitoring,
    refresh_and_backfill,
    repositories,
    serving,
    streaming,
    training_sets,
    versions,
)
from extensions.cli.console import err
from extensions.cli.preflight import refuse_foreign_database
from extensions.repository import REPO_VARIABLE, repo_root
from extensions.structured_logs import VARIABLE as LOG_VARIABLE
from extensions.structured_logs import switch_on

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
    "The repository": [repositories],
    "The local stack": [local_stack],
    "Set-up and health": [admin],
    "Data": [history_loading],
    "The lake": [lake],
    "Computing features": [refresh_and_backfill],
    "Training": [training_sets],
    "Serving": [serving],
    "Streams": [streaming],
    "Changing features": [versions, computation_text],
    "Watching": [monitoring, explaining],
}

# A sentence is one record, however long.
_WIDE = 100_000


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
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
    repo: Annotated[
        Path | None,
        typer.Option(
            envvar=REPO_VARIABLE,
            help="The repository's folder; by default the nearest one, from here upwards, that "
            "has a feature_store.yaml.",
        ),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(
            envvar=LOG_VARIABLE,
            help="How standard error is written: for people, or a JSON line each.",
        ),
    ] = "text",
    traces: Annotated[
        Literal["off", "otlp"],
        typer.Option(
            envvar=tracing.VARIABLE,
            help="Export OpenTelemetry traces of requests and steps (the extra otel).",
        ),
    ] = "off",
) -> None:
    """What can be said before a command."""
    # For whatever this process opens, and the programs that it starts.
    if repo is not None:
        os.environ[REPO_VARIABLE] = str(repo.absolute())
    if log_format == "json":
        os.environ[LOG_VARIABLE] = log_format
        switch_on(context.invoked_subcommand or "")
        err.width = _WIDE
    if traces == tracing.OTLP:
        os.environ[tracing.VARIABLE] = traces


class InRepository(TyperCommand):
    """A command that works on a repository, and on a database that is no other project's.

    Without the one, or with the other's, it ends before anything is done.
    """

    def invoke(self, ctx: Any) -> Any:
        """Find the repository, look whose the database is, then run the command."""
        repo_root()
        refuse_foreign_database()
        return super().invoke(ctx)


def _all_commands(gathered: typer.Typer) -> Iterator[Any]:
    yield from gathered.registered_commands
    for group in gathered.registered_groups:
        if group.typer_instance is not None:
            yield from _all_commands(group.typer_instance)


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
    for command in _all_commands(app):
        if command.callback is not repositories.init:
            own = command.cls or TyperCommand
            # A class of the command's own (options that the repository decides) stays below it.
            command.cls = (
                InRepository if own is TyperCommand else type(own.__name__, (InRepository, own), {})
            )


_gather()

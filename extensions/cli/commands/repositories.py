"""Commands of a repository's folder: init."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from extensions.cli.console import AsJson, emit, out
from extensions.repository_templates import TEMPLATES, make_repository


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="Make a repository: a folder with definitions that work at once.",
        epilog="Examples: `skewless init shop` · `skewless init films --template media`",
    )(init)


def init(
    folder: Annotated[Path, typer.Argument(help="The folder to make; an empty one will do.")],
    template: Annotated[
        str,
        typer.Option(
            help="What it begins with. "
            + " ".join(f"{name}: {each.about}." for name, each in TEMPLATES.items())
        ),
    ] = "minimal",
    project: Annotated[
        str | None, typer.Option(help="The project's name; by default the folder's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Nothing is overwritten: a folder that holds something is refused."""
    made = make_repository(folder, template, project)
    if as_json:
        emit([made], as_json)
        return
    out.print(f"{made.folder}: the project {made.project}.", markup=False, soft_wrap=True)
    for name in made.files:
        out.print(f"  {name}", markup=False, soft_wrap=True)
    there = "" if made.folder == Path.cwd() else f"`cd {quote(str(folder))}`, then "
    out.print(
        f"Next: {there}`skewless up`; README.md goes on from there.",
        markup=False, soft_wrap=True,
    )  # fmt: skip

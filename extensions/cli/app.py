"""All commands, gathered; each family stands in its module.

Feast takes seconds to import. Commands import what they use when they run, so that `--help`
and a mistyped option answer at once.
"""

import typer

from extensions.cli import (
    compute,
    data,
    monitoring,
    repository,
    serving,
    stack,
    stream,
    training,
    versions,
)

app = typer.Typer(
    name="skewless",
    help="A feature store without training-serving skew. Start with `skewless demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)
for family in (stack, repository, data, compute, training, serving, stream, monitoring, versions):
    family.register(app)

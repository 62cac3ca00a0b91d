"""Commands that load history: simulate, import."""

from inspect import Parameter as SignatureParameter
from inspect import Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from extensions.cli.console import AsJson, emit, err, moment, out
from extensions.cli.output_file_option import output_file
from extensions.cli.progress import progress
from extensions.errors import ConfigurationError, InputError
from extensions.value_text import duration_text

if TYPE_CHECKING:
    from extensions.history.file_import import ImportResult
    from extensions.history.simulate import Parameter

# What Ctrl-C keeps of a load, which is one transaction for each million rows.
KEPT = (
    "Whole chunks of a million rows are kept. The same command again adds what is missing: rows "
    "that are there already are duplicates."
)
# Values online need nothing: what was computed before is computed again with the new rows.
NEXT = (
    "Next: `skewless backfill all` (or `--last 7d`) for training; "
    "values online follow by themselves under `skewless up`, else by `skewless refresh`."
)
_CHOSEN = "skewless.simulation"


class SimulateCommand(TyperCommand):
    """`skewless simulate`, with an option for each parameter of the repository's simulator."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options; the simulator is imported when they are asked for."""
        from extensions.history.simulate import parameters_of
        from extensions.repository import repo_root

        try:
            parameters = parameters_of(repo_root())
        except ConfigurationError:
            # The command says so when it runs.
            return super().get_params(ctx)
        return [*_options(parameters), *super().get_params(ctx)]


def chosen_parameters(ctx: typer.Context) -> dict[str, Any]:
    """The simulator's parameters that the command line gave."""
    return dict(ctx.meta.get(_CHOSEN, {}))


def _options(parameters: "list[Parameter]") -> list[Any]:
    """Options of the parameters, whose values the command finds in its context."""

    def command(**_: Any) -> None:
        """A command that has them."""

    annotations: dict[str, Any] = {
        each.name: Annotated[each.type, typer.Option(help=each.help)] for each in parameters
    }
    # What Typer reads of a function.
    described: Any = command
    described.__annotations__ = annotations
    described.__signature__ = Signature(
        [
            SignatureParameter(
                each.name,
                SignatureParameter.KEYWORD_ONLY,
                default=each.default,
                annotation=annotations[each.name],
            )
            for each in parameters
        ]
    )
    app = typer.Typer(add_completion=False)
    app.command()(described)
    options = typer.main.get_command(app).params
    for option in options:
        option.expose_value = False
        option.callback = _keep_parameter
    return options


def _keep_parameter(ctx: Any, option: Any, value: Any) -> Any:
    ctx.meta.setdefault(_CHOSEN, {})[option.name] = value
    return value


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        cls=SimulateCommand,
        help="Make a seeded, realistic history of this repository's platform and load it.",
        epilog="Example: `skewless simulate --users 2000 --events 100000 --seed 7`",
    )(simulate)
    app.command(
        "import",
        help="Take a source's history from CSV, JSON lines or Parquet files.",
        epilog="Example: `skewless import orders 'exports/*.csv.gz' --map ordered_at=timestamp "
        "--map amount='cents / 100' --where \"status <> 'test'\" --dry-run`",
    )(import_)


def simulate(
    ctx: typer.Context,
    until: Annotated[str | None, typer.Option(help="ISO time of its end; now by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """The parameters are those of the repository's simulator (feature_repo/simulator)."""
    from datetime import UTC, datetime

    from extensions.addresses import postgres_url
    from extensions.history.import_arguments import check_migrated
    from extensions.history.simulate import new_simulation
    from extensions.history.simulate import simulate as run
    from extensions.repository import repo_root

    last = moment(until, "--until") or datetime.now(UTC)
    simulation = new_simulation(repo_root(), **chosen_parameters(ctx), until=last)
    check_migrated(postgres_url())
    from extensions.history.declared_tables import declared_sources

    sources = declared_sources(postgres_url(), repo_root())
    with progress("Loading the history", unit="rows", kept=KEPT) as report:
        result = run(postgres_url(), simulation, sources, progress=report)
    if as_json:
        loads = result.to_json()["loads"]
        emit([{"source": name, **loaded} for name, loaded in loads.items()], as_json)
    else:
        for name, loaded in result.loads.items():
            say(
                f"{name}: {loaded.read:,} rows read = {loaded.inserted:,} inserted + "
                f"{loaded.duplicates:,} duplicates, in {duration_text(loaded.seconds)}."
            )
    err.print(NEXT, soft_wrap=True)


def import_(
    source: Annotated[str, typer.Argument(help="The history source, as sources.py names it.")],
    files: Annotated[list[str], typer.Argument(help="Files, or patterns such as 'exports/*.csv'.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="COLUMN=EXPRESSION: SQL (DuckDB's) over the file's columns; the name of one is "
            "enough. May be given several times.",
        ),
    ] = None,
    constants: Annotated[
        list[str] | None,
        typer.Option("--set", help="COLUMN=VALUE: the same value for all rows. Several times."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="SQL over the file's columns; other rows are passed by."),
    ] = None,
    time_format: Annotated[
        list[str] | None,
        typer.Option(
            "--time-format",
            help="How times are written: s, ms, us or ns since 1970, iso, or a format such as "
            "'%d.%m.%Y %H:%M'; of one column as COLUMN=FORMAT. Recognised if left.",
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            help="Between a CSV's values, of any length (\\\\t is a tab). Recognised if left."
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Such as utf-8, utf-16 or latin-1. Recognised if left."),
    ] = None,
    header: Annotated[
        bool,
        typer.Option(
            "--header/--no-header",
            help="Whether a CSV's first row names its columns; else they are called 1, 2, 3, …",
        ),
    ] = True,
    names: Annotated[
        str | None,
        typer.Option(help="The names of the columns of a CSV without a header, such as a,b,c."),
    ] = None,
    rejected: Annotated[
        Path | None,
        typer.Option(
            callback=output_file, help="Where rejected rows go; beside the input by default."
        ),
    ] = None,
    known_at_event_time: Annotated[
        bool,
        typer.Option(
            "--known-at-event-time",
            help="Rows without an arrival count as known when they happened, as in a first load: "
            "values of that time are then others than were served.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Store nothing: show the first rows as they would be stored, what each column "
            "is made of, and what would be rejected of the first ten thousand rows.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rejected rows are written with their reason; read = inserted + duplicates + rejected."""
    from extensions.addresses import postgres_url
    from extensions.history.import_arguments import (
        check_migrated,
        files_of,
        parse_pairs,
        time_formats,
    )
    from extensions.repository import repo_root

    mapped, same = parse_pairs("--map", mapping or []), parse_pairs("--set", constants or [])
    paths = files_of(files)
    if rejected and len(paths) > 1:
        raise InputError("--rejected names one file, and there are several inputs: leave it out.")
    check_migrated(postgres_url())
    # Which import Feast, for seconds.
    from extensions.history.declared_tables import declared_sources, table_called
    from extensions.history.file_import import ImportOptions, import_files

    options = ImportOptions(
        mapping=mapped,
        constants=same,
        where=where,
        time_formats=time_formats(time_format or []),
        delimiter=delimiter,
        encoding=encoding,
        header=header,
        names=tuple(name.strip() for name in names.split(",")) if names else (),
        rejected=rejected,
        known_at_event_time=known_at_event_time,
    )
    sources = declared_sources(postgres_url(), repo_root())
    table = table_called(sources, source)
    with progress(f"Importing {table.name}", unit="rows", kept=KEPT) as report:
        results = list(
            import_files(
                postgres_url(),
                table,
                paths,
                options,
                streams=sources.streams.values(),
                progress=report,
                trial=dry_run,
            )
        )
    if as_json:
        emit([result.to_json() for result in results], as_json)
    else:
        for result in results:
            _tell(result, trial=dry_run)
    useless = [each for each in results if each.read and each.rejected == each.read]
    if useless:
        [first, *_] = useless
        where_said = f"{first.rejected_path} says why, row by row" if not dry_run else "see above"
        raise InputError(
            f"None of the {first.read:,} rows of {first.path} could be used: {where_said}."
        )
    if not dry_run:
        err.print(NEXT, soft_wrap=True)


def say(sentence: str) -> None:
    """Print a sentence to standard output as it is: no markup, no colours, no wrapping."""
    out.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _tell(result: "ImportResult", *, trial: bool) -> None:
    """Counts, why rows were rejected, and what was assumed, each on its line."""
    if trial:
        say(f"{result.path}: a trial of its first {result.read:,} rows; nothing is stored.")
        for name, origin in result.columns.items():
            say(f"  {name}: {origin}")
        for row in result.rows:
            say("  " + ", ".join(f"{name}={value}" for name, value in row.items()))
        say(
            f"Of them {result.inserted:,} would be inserted, {result.duplicates:,} are duplicates "
            f"and {result.rejected:,} would be rejected."
        )
    else:
        say(
            f"{result.path}: {result.read:,} rows read = {result.inserted:,} inserted + "
            f"{result.duplicates:,} duplicates + {result.rejected:,} rejected, in "
            f"{duration_text(result.seconds)}."
        )
    if result.rejected_path is not None:
        say(f"Rejected rows are in {result.rejected_path}:")
    for reason, rows in result.reasons.items():
        say(f"  {rows:,} x {reason}")
    for note in result.notes:
        say(note)

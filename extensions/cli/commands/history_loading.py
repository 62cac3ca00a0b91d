"""Commands that load history: simulate, import events, import items."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extensions.cli.console import AsJson, emit, err, moment, out
from extensions.cli.progress import progress
from extensions.errors import InputError
from extensions.value_text import duration_text, iso_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from extensions.history.file_import import ImportResult

Mapping = Annotated[
    list[str] | None,
    typer.Option("--map", help="OUR_COLUMN=YOUR_COLUMN; may be given several times."),
]
Rejected = Annotated[
    Path | None,
    typer.Option(help="Where rejected rows go; beside the input by default."),
]
Delimiter = Annotated[
    str | None,
    typer.Option(help="Between a CSV's values, of any length (\\\\t is a tab); a comma if left."),
]
Header = Annotated[
    bool,
    typer.Option(
        "--header/--no-header",
        help="Whether a CSV's first row names its columns; else --map takes their numbers, from 1.",
    ),
]
KnownAtEventTime = Annotated[
    bool,
    typer.Option(
        "--known-at-event-time",
        help="Rows without ingested_at count as known when they happened, as in a first load: "
        "values of that time are then others than were served.",
    ),
]
File = Annotated[Path, typer.Argument(help="A CSV or Parquet file.")]

imports = typer.Typer(
    help="Take history from CSV or Parquet files.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


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


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="Make a seeded, realistic streaming platform and load its history.",
        epilog="Example: `skewless simulate --users 2000 --events 100000 --seed 7`",
    )(simulate)
    imports.command(
        "events",
        help="Watch events: user_id, item_id and watched_at are required; event_id, "
        "ingested_at, duration_min (or _s, _ms) and progress are optional.",
        epilog="Example: `skewless import events plays.csv --map watched_at=timestamp`",
    )(import_events)
    imports.command(
        "items",
        help="Items: item_id and genre are required; valid_from and ingested_at are optional.",
        epilog="Example: `skewless import items catalogue.parquet --map genre=primary_genre`",
    )(import_items)
    app.add_typer(imports, name="import")


def simulate(
    users: Annotated[int, typer.Option(help="How many users.")] = 20_000,
    items: Annotated[int, typer.Option(help="How many items.")] = 5_000,
    days: Annotated[int, typer.Option(help="Days of history before --until.")] = 60,
    events: Annotated[int, typer.Option(help="How many watches.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same history.")] = 1,
    until: Annotated[str | None, typer.Option(help="ISO time of its end; now by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Zipf popularity, heavy-tailed activity, habits, late and duplicate events."""
    from datetime import UTC, datetime, timedelta

    from extensions.addresses import REPO_ROOT, postgres_url
    from extensions.history.simulate import new_simulation
    from extensions.history.simulate import simulate as run

    simulation = new_simulation(
        REPO_ROOT,
        users=users,
        items=items,
        days=days,
        events=events,
        seed=seed,
        until=(last := moment(until, "--until") or datetime.now(UTC)),
    )
    with progress("Loading events", unit="rows", kept=KEPT) as report:
        result = run(postgres_url(), simulation, progress=report)
    if as_json:
        emit([result.events.to_json()], as_json)
    else:
        # Imports Feast, for which nobody should wait who mistyped an address.

        loaded, first = result.events, last - timedelta(days=days)
        say(
            f"{loaded.inserted:,} events from {iso_text(first)} to {iso_text(last)}: "
            f"{loaded.read:,} rows read, {loaded.duplicates:,} duplicates, in "
            f"{duration_text(loaded.seconds)}."
        )
    err.print(NEXT, soft_wrap=True)


def import_events(
    file: File,
    mapping: Mapping = None,
    delimiter: Delimiter = None,
    header: Header = True,
    rejected: Rejected = None,
    known_at_event_time: KnownAtEventTime = False,
    as_json: AsJson = False,
) -> None:
    """Rejected rows are written with their reason; read = inserted + duplicates + rejected."""
    from extensions.history.file_import import import_events as run

    _import(
        run,
        "Importing events",
        file,
        mapping,
        delimiter,
        header,
        rejected,
        known_at_event_time=known_at_event_time,
        as_json=as_json,
    )
    err.print(NEXT, soft_wrap=True)


def import_items(
    file: File,
    mapping: Mapping = None,
    delimiter: Delimiter = None,
    header: Header = True,
    rejected: Rejected = None,
    known_at_event_time: KnownAtEventTime = False,
    as_json: AsJson = False,
) -> None:
    """A row is an item's genre from valid_from on; a correction is one more row."""
    from extensions.history.file_import import import_items as run

    _import(
        run,
        "Importing items",
        file,
        mapping,
        delimiter,
        header,
        rejected,
        known_at_event_time=known_at_event_time,
        as_json=as_json,
    )
    err.print(NEXT, soft_wrap=True)


def say(sentence: str) -> None:
    """Print a sentence to standard output as it is: no markup, no colours, no wrapping."""
    out.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _tell(result: "ImportResult") -> None:
    """Counts, why rows were rejected, and what was assumed, each on its line."""
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


def _import(
    run: "Callable[..., ImportResult]",
    title: str,
    file: Path,
    mapping: list[str] | None,
    delimiter: str | None,
    header: bool,
    rejected: Path | None,
    *,
    known_at_event_time: bool,
    as_json: bool,
) -> None:
    """Run an import and print its counts; an input of which nothing could be used is an error."""
    from extensions.addresses import postgres_url
    from extensions.history.column_mapping import parse_mapping

    with progress(title, unit="rows", kept=KEPT) as report:
        result = run(
            postgres_url(),
            file,
            mapping=parse_mapping(mapping or []),
            delimiter=delimiter,
            header=header,
            rejected=rejected,
            progress=report,
            known_at_event_time=known_at_event_time,
        )
    if as_json:
        emit([result.to_json()], as_json)
    else:
        _tell(result)
    if result.read and result.rejected == result.read:
        raise InputError(
            f"None of the {result.read:,} rows of {result.path} could be used: "
            f"{result.rejected_path} says why, row by row.",
        )

"""Commands of training: labels (a sample to start from), training-set."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from extensions.cli.console import AsJson, emit, err, moment
from extensions.cli.console import out as out_console
from extensions.cli.output_file_option import output_file
from extensions.cli.preflight import answering_postgres
from extensions.cli.progress import progress
from extensions.errors import InputError


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="Write a sample of labels from history: the keys of a service, with times.",
        epilog="Examples: `skewless labels --sample 5000 labels.csv` · "
        "`skewless labels --service home_page labels.parquet`",
    )(labels)
    app.command(
        "training-set",
        help="Join labels to a service's features as they were known at each label's moment.",
        epilog="Examples: `skewless training-set ranking labels.parquet train.parquet` · "
        "`skewless training-set --again train.manifest.json again.parquet`",
    )(training_set)


def labels(
    out: Annotated[
        Path, typer.Argument(callback=output_file, help="The CSV or Parquet file to write.")
    ],
    service: Annotated[
        str, typer.Option(help="The feature service whose join keys the labels have.")
    ] = "ranking",
    sample: Annotated[int, typer.Option(help="How many labels.")] = 5_000,
    seed: Annotated[
        int, typer.Option(help="The same seed gives the same labels of the same history.")
    ] = 1,
    start: Annotated[
        str | None,
        typer.Option("--from", help="ISO time; by default where the service's logs are complete."),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="ISO time; likewise.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rows of the history that carry the keys, chosen by a hash; outcomes are yours to add."""
    first, last = moment(start, "--from"), moment(end, "--to")
    answering_postgres("watermarks")
    from feast import FeatureStore

    from extensions.repository import repo_root
    from extensions.training.label_sample import sample_labels

    with progress("Sampling labels"):
        made = sample_labels(
            FeatureStore(str(repo_root())), service, out, rows=sample, seed=seed,
            start=first, end=last,
        )  # fmt: skip
    if as_json:
        emit([made], as_json)
        return
    err.print(f"{out}: {made.sentence()}", markup=False, highlight=False, soft_wrap=True)


def training_set(
    first: Annotated[str, typer.Argument(metavar="SERVICE", help="Or OUT, with --again.")],
    labels: Annotated[
        str | None, typer.Argument(help="CSV, Parquet, or a SQL query that starts with SELECT.")
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(callback=output_file, help="The Parquet file to write.")
    ] = None,
    known_at: Annotated[
        str | None, typer.Option("--known-at", help="Only what was published by this ISO time.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Add each view's age and whether it had a row.")
    ] = False,
    again: Annotated[
        Path | None, typer.Option("--again", help="A manifest: take the same set once more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A manifest beside the file says what it was made of; the file is whole or not there."""
    known = moment(known_at, "--known-at")
    if again is None and (labels is None or out is None):
        raise InputError(
            "Give a service, labels and the file to write: "
            "`skewless training-set ranking labels.parquet train.parquet`.",
        )
    answering_postgres()
    from feast import FeatureStore

    from extensions.repository import repo_root
    from extensions.training.label_source import read_labels
    from extensions.training.training_set import take, take_again

    store = FeatureStore(str(repo_root()))
    kept = "Nothing was written: a training set is whole or not there. Take it again."
    with progress("Joining features to labels", unit="rows", kept=kept) as report:
        if again is not None:
            taken = take_again(store, again, Path(first), progress=report)
        else:
            assert labels is not None
            assert out is not None
            taken = take(
                store, first, read_labels(labels), out, known_at=known, full=full, progress=report
            )
    warnings = taken.manifest.warnings
    made = {"file": taken.path, "manifest": taken.manifest_path, "rows": taken.manifest.rows,
            "known_at": taken.manifest.known_at if as_json else taken.manifest.known,
            "sha256": taken.manifest.sha256}  # fmt: skip
    if as_json:
        emit([{**made, "warnings": warnings}], as_json)
    else:
        for name, value in made.items():
            shown = f"{value:,}" if isinstance(value, int) else value
            out_console.print(f"{name.replace('_', ' '):<9} {shown}", markup=False,
                              highlight=False, soft_wrap=True)  # fmt: skip
    # Last, so that they are what is on the screen.
    for warning in warnings:
        err.print(f"[bold red]WARNING[/]: {escape(warning)}", soft_wrap=True)

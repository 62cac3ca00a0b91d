"""Commands that prepare and examine the store: migrate, doctor."""

from typing import Annotated

import typer

from extensions.cli.console import AsJson, emit, err, print_checks
from extensions.cli.servers import answering_postgres


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(help="Bring PostgreSQL's tables up to date.", epilog="Example: `skewless migrate`")(
        migrate
    )
    app.command(
        help="Check servers, migrations, registry and clocks, and say what to mend.",
        epilog="Example: `skewless doctor --json`",
    )(doctor)


def migrate(as_json: AsJson = False) -> None:
    """Apply pending migrations, make missing logs, record genres that changed."""
    url = answering_postgres()
    from extensions.asof.history_changes import FOLLOW, NOT_FOLLOWED
    from extensions.operations.database_setup import prepare_database

    with err.status("Preparing PostgreSQL"):
        done = prepare_database(url)
    if as_json or any((done.migrations, done.logs, done.genres)):
        emit([done], as_json)
    else:
        err.print("The database is up to date.")
    for table in done.not_followed:
        err.print(f"{table} {NOT_FOLLOWED}. {FOLLOW}")


def doctor(
    sample: Annotated[
        int, typer.Option(help="Entities of each view whose values are compared; 0: none.")
    ] = 200,
    as_json: AsJson = False,
) -> None:
    """Exit code 1 when something wants mending."""
    from extensions.operations.doctor import examine

    with err.status("Examining"):
        findings = examine(sample)
    if as_json:
        emit(findings, as_json)
    else:
        print_checks(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)

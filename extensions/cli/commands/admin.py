"""Commands of set-up and health: migrate, doctor."""

from typing import Annotated

import typer

from extensions.cli.console import AsJson, emit, err, out, print_checks
from extensions.cli.preflight import answering_postgres
from extensions.cli.progress import progress
from extensions.exit_codes import ATTENTION


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
    """Apply pending migrations, make missing logs, record seeds that changed."""
    url = answering_postgres()
    from extensions.asof.history_changes import FOLLOW, NOT_FOLLOWED
    from extensions.asof.log_partitions import NOT_PARTITIONED
    from extensions.operations.database_setup import prepare_database

    with progress("Preparing PostgreSQL"):
        done = prepare_database(url)
    if as_json:
        emit([done], as_json)
    else:
        made = {
            "migrations applied": done.migrations,
            "logs made": done.logs,
            "logs partitioned by time": done.partitioned,
            "rows of seeds recorded": [str(done.seeds)] if done.seeds else [],
        }
        for what, names in made.items():
            if names:
                out.print(f"{what}: {', '.join(names)}", markup=False, soft_wrap=True)
        if not any(made.values()):
            out.print("The database is up to date.")
    for table in done.not_followed:
        err.print(f"{table} {NOT_FOLLOWED}. {FOLLOW}")
    for table, why in done.kept_plain.items():
        err.print(f"The log {table} {NOT_PARTITIONED.format(why)}", markup=False, soft_wrap=True)


def doctor(
    sample: Annotated[
        int, typer.Option(help="Entities of each view whose values are compared; 0: none.")
    ] = 200,
    as_json: AsJson = False,
) -> None:
    """Exit code 3 when something wants mending."""
    from extensions.addresses import kafka_bootstrap, postgres_url
    from extensions.operations.doctor import examine
    from streaming.kafka.broker_check import check_brokers
    from streaming.settings import Settings

    with progress("Examining"):
        findings = examine(
            sample, check_brokers=lambda: check_brokers(Settings(postgres_url(), kafka_bootstrap()))
        )
    if as_json:
        emit(findings, as_json)
    else:
        print_checks(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(ATTENTION)

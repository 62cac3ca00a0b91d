"""Commands of the lake: export, cut, status."""

from typing import Annotated

import typer

from extensions.cli.console import AsJson, emit, err
from extensions.cli.preflight import answering_postgres
from extensions.cli.progress import progress


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    lake = typer.Typer(
        no_args_is_help=True, help="Logs and histories in Iceberg tables (docs/lake.md)."
    )
    lake.command(
        help="Bring the lake's tables up to now.",
        epilog="Examples: `skewless lake export` · `skewless lake export item_stats_v1`",
    )(export)
    lake.command(
        help="Drop from PostgreSQL what is older than its hot window.",
        epilog="Examples: `skewless lake cut` · `skewless lake cut item_stats_v1`",
    )(cut)
    lake.command(
        help="How far the lake goes, and how large it is.", epilog="Example: `skewless lake status`"
    )(status)
    app.add_typer(lake, name="lake")


def export(
    table: Annotated[
        str | None, typer.Argument(help="A log or history; all of them if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What is settled is appended; where history changed behind it, rows are replaced from there.

    Small files are merged, old snapshots expire, orphan files go. Nothing leaves PostgreSQL.
    Safe to run twice, safe to interrupt, never two at once on one table.
    """
    url = answering_postgres("watermarks")
    from extensions.database import connect
    from extensions.operations.lake_export import export_tables
    from extensions.repository import repo_root

    with (
        connect(url, autocommit=True, name="skewless lake") as conn,
        progress("Exporting", kept="Tables that were exported are whole; run it again."),
    ):
        done = list(export_tables(conn, url, repo_root(), table))
    emit(done, as_json)


def cut(
    log: Annotated[
        str | None, typer.Argument(help="A log; all that have a hot window if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Exports first, and compares each row that goes with the lake's; a difference stops it.

    Training sets read both sides. Each entity's last row stays, so that serving, later labels and
    a rebuild of the online store need nothing else. Safe to run twice, safe to interrupt.
    """
    url = answering_postgres("log_cuts")
    from extensions.database import connect
    from extensions.operations.lake_export import cut_tables
    from extensions.repository import repo_root

    with (
        connect(url, autocommit=True, name="skewless lake") as conn,
        progress("Cutting", kept="Logs that were cut are whole in the lake; run it again."),
    ):
        done = list(cut_tables(conn, url, repo_root(), log))
    emit(done, as_json)


def status(as_json: AsJson = False) -> None:
    """Also says where it is."""
    url = answering_postgres("watermarks")
    from extensions.database import connect
    from extensions.operations.lake_export import lake_status
    from extensions.repository import repo_root

    with connect(url, autocommit=True, name="skewless lake") as conn:
        settings, found = lake_status(conn, url, repo_root())
    if not as_json:
        err.print(settings.warehouse, markup=False, highlight=False, soft_wrap=True)
    emit(found, as_json)

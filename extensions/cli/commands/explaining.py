"""The command that explains one entity's values: explain."""

from typing import Annotated

import typer

from extensions.cli.console import AsJson, moment, print_json
from extensions.cli.preflight import answering_postgres
from extensions.cli.progress import progress
from extensions.errors import InputError


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="Explain one entity's values: served, logged, recomputed, and from which events. "
        "Exit code 0: all agree, or differ within the freshness budget; 3: overdue; 4: they say "
        "different things; 5: not all could be seen.",
        epilog="Examples: `skewless explain visitor_spend 81` · "
        "`skewless explain visitor_product.v2 81 A-7 --at 2026-01-31T08:00Z` · "
        "`skewless explain stock -- -5`",
    )(explain)


def explain(
    view: Annotated[str, typer.Argument(help="The view, or VIEW.vN.")],
    key: Annotated[
        list[str], typer.Argument(help="The id; of a composite key each, in the view's order.")
    ],
    at: Annotated[
        str | None, typer.Option("--at", help="ISO time; without a zone, UTC; now if left.")
    ] = None,
    events: Annotated[
        int, typer.Option(help="Events of each source to list, and to leave out once each.")
    ] = 20,
    seconds: Annotated[
        float, typer.Option(help="What a read may take, and the events that are left out.")
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Each look is recorded: who, when, which view, and a keyed hash of the id. Changes nothing."""
    as_of = moment(at, "--at")
    if not 0 <= events <= 10_000:
        raise InputError("--events must be between 0 and 10000.")
    if not 0 < seconds <= 3_600:
        raise InputError("--seconds must be more than 0, and 3600 at most.")
    answering_postgres()
    from feast import FeatureStore

    from extensions.account_name import account_name
    from extensions.cli.output.explain_output import show
    from extensions.explain import Limits, explain
    from extensions.repository import repo_root

    with progress("Explaining"):
        found = explain(
            FeatureStore(str(repo_root())), view, key, account_name(), as_of,
            Limits(events=events, seconds=seconds),
        )  # fmt: skip
    if as_json:
        print_json(found.to_json())
    else:
        show(found)
    if found.exit_code:
        raise typer.Exit(found.exit_code)

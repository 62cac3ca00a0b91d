"""Commands that publish versions: plan, apply, promote, rollback, versions, diff, retire."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from extensions.cli.console import AsJson, emit, err, moment, wrapped
from extensions.cli.output_file_option import output_file
from extensions.cli.progress import progress
from extensions.errors import InputError
from extensions.exit_codes import ATTENTION, FAILED

if TYPE_CHECKING:
    import psycopg
    from feast import FeatureStore, Field

ViewName = Annotated[str, typer.Argument(metavar="VIEW", help="The view.")]
VersionName = Annotated[str, typer.Argument(metavar="vN", help="Its version, as in v2.")]
Why = Annotated[str | None, typer.Option("--why", help="The reason, for the record.")]
Force = Annotated[
    bool, typer.Option("--force", help="Although its values are not complete and fresh.")
]
Style = Literal["text", "markdown"]
Engine = Literal["auto", "postgresql", "duckdb"]
Since = Annotated[
    str | None,
    typer.Option("--from", help="ISO time where backfills begin; else where the default's log is."),
]


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="Show what the files would change, how severe it is, and what it costs.",
        epilog="Examples: `skewless plan` · `skewless plan --exit-code` (in CI) · "
        "`skewless plan --format markdown`",
    )(plan)
    app.command(
        name="apply",
        help="Carry the plan out: publish new versions beside the old ones and fill them.",
        epilog="Example: `skewless apply --from 2026-01-01`",
    )(apply_plan)
    app.command(
        help="Make a version the default of its view; servers follow within a second.",
        epilog='Example: `skewless promote item_stats v2 --why "decays faster"`',
    )(promote)
    app.command(
        help="Take a promotion back: no recomputation, no retraining, no failed request.",
        epilog="Examples: `skewless rollback item_stats` · `skewless rollback item_stats --to v1`",
    )(rollback)
    app.command(
        help="List versions: state, since when, used by which service, at what cost.",
        epilog="Example: `skewless versions item_stats --all`",
    )(versions)
    app.command(
        help="Compare two versions' values on the same entities and moments.",
        epilog="Example: `skewless diff item_stats v1 v2 --sample 10000 --html diff.html`",
    )(diff)
    app.command(
        help="Take a version that nobody uses out of Redis, of the work and of PostgreSQL.",
        epilog="Example: `skewless retire item_stats v1 --keep-log-days 30`",
    )(retire)


def plan(
    since: Since = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 3 when there is something to apply.")
    ] = False,
    style: Annotated[
        Style, typer.Option("--format", help="markdown: for a comment on a pull request.")
    ] = "text",
    as_json: AsJson = False,
) -> None:
    """Changes nothing. Exit code 1 when something is refused."""
    from extensions.repository import repo_root

    start = moment(since, "--from")
    with _store() as (store, conn), progress("Planning"):
        from extensions.cli.output.versions_output import change_json, markdown, show_plan
        from extensions.versions.engine_choice import EngineSettings
        from extensions.versions.plan import make_plan
        from monitoring.checks.drift_store import trained_on

        settings = EngineSettings.of(store.config.offline_store)
        made = make_plan(conn, store.project, repo_root(), since=start, settings=settings)
        trained = {change.name: trained_on(conn, change.name) for change in made.changes}
    if as_json:
        changes = [change_json(change, trained[change.name]) for change in made.changes]
        emit([{"changes": changes, "notes": made.notes}], as_json=True)
    elif style == "markdown":
        print(markdown(made, trained))  # noqa: T201
    elif made.changes:
        show_plan(made, trained)
    else:
        wrapped(" ".join(("No changes.", *made.notes)))
    if made.refused:
        raise typer.Exit(FAILED)
    if exit_code and made.changes:
        raise typer.Exit(ATTENTION)


def apply_plan(since: Since = None, as_json: AsJson = False) -> None:
    """Safe to run twice, safe to interrupt: the next run goes on. Nothing is promoted."""
    from extensions.repository import repo_root

    start = moment(since, "--from")
    kept = "What is published or filled by now is kept; `skewless apply` goes on."
    with _store() as (_, conn), progress("Applying", unit="days", kept=kept) as report:
        from extensions.cli.output.versions_output import change_json, title
        from extensions.versions.apply import apply

        done = apply(conn, repo_root(), since=start, progress=lambda _, n, of: report(n, of))
    if as_json:
        emit(
            [{"changes": [change_json(c, []) for c in done.plan.changes], "notes": done.plan.notes,
              "filled": [f.__dict__ for f in done.filled], "removed": done.removed,
              "engines": done.engines}],
            as_json=True,
        )  # fmt: skip
        return
    if not (done.plan.changes or done.filled or done.removed):
        wrapped(" ".join(("No changes.", *done.plan.notes)))
        return
    for change in done.plan.changes:
        wrapped(f"{title(change)}: {change.what}")
    emit(list(done.filled), as_json=False)
    for filled in done.filled:
        if filled.state == "live":
            name = f"{filled.view} v{filled.version}"
            wrapped(
                f"Next: `skewless diff {filled.view} vM v{filled.version}`, then "
                f"`skewless promote {name}`.",
                console=err,
            )
    for sentence in done.engines:
        wrapped(sentence, console=err)
    for what in done.removed:
        wrapped(f"Removed {what}.", console=err)


def promote(
    view: ViewName, version: VersionName, why: Why = None, force: Force = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """One transaction: who, when and why are recorded with it."""
    from extensions.versions.promotion import promote as move

    number = _number(version)
    with _connection() as conn:
        done = move(conn, _project(), view, number, reason=why, force=force)
    emit([_moved(done)], as_json)


def rollback(
    view: ViewName,
    to: Annotated[str | None, typer.Option("--to", help="Not the one before, but this.")] = None,
    why: Why = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """The version before has been computed all along: it is served as if nothing had been."""
    from extensions.versions.promotion import rollback as move

    number = None if to is None else _number(to)
    with _connection() as conn:
        done = move(conn, _project(), view, number, reason=why, force=force)
    emit([_moved(done)], as_json)


def versions(
    view: Annotated[
        str | None, typer.Argument(metavar="[VIEW]", help="One view; all if left.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Retired ones, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Redis bytes are those of the rows, by a sample of them."""
    with _store() as (store, conn):
        from extensions.versions.listing import overview

        found = overview(store, conn, view=view, retired=everything)
    if as_json:
        emit(list(found), as_json=True)
        return
    from extensions.cli.output.versions_output import show_versions

    show_versions(found)


def diff(
    view: ViewName,
    first: VersionName,
    second: VersionName,
    sample: Annotated[int, typer.Option(help="Entities and moments to compare.")] = 5_000,
    html: Annotated[
        Path | None,
        typer.Option(
            callback=output_file, help="Also write a report that opens without a network."
        ),
    ] = None,
    engine: Annotated[
        Engine | None,
        typer.Option(help="auto: DuckDB for many pairs; default: feature_store.yaml."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Both are computed anew from history, so that a version needs no log to be compared."""
    from extensions.addresses import postgres_url

    numbers = _number(first), _number(second)
    with _store() as (store, conn), progress("Comparing"):
        from extensions.versions.diff import compare
        from extensions.versions.engine_choice import EngineSettings

        settings = EngineSettings.of(store.config.offline_store).over(engine, None)
        fields = _fields(store, view)
        found = compare(
            conn, postgres_url(), view, *numbers, size=sample, settings=settings,
            descriptions={field.name: field.description for field in fields if field.description},
            units={field.name: field.tags["unit"] for field in fields if "unit" in field.tags},
        )  # fmt: skip
    if html is not None:
        from extensions.versions.diff_report import write_html

        write_html(found, html)
        err.print(f"Report: {html}", markup=False)
    if as_json:
        emit([found.summary()], as_json=True)
        return
    emit(found.table(), as_json=False)
    emit(found.largest_table(), as_json=False)


def retire(
    view: ViewName,
    version: VersionName,
    keep_log_days: Annotated[
        float, typer.Option("--keep-log-days", help="Days for which the log stays.")
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Refuses while a service uses it; nothing of other versions is touched."""
    from extensions.repository import repo_root

    number = _number(version)
    with _store() as (store, conn), progress("Retiring"):
        from extensions.versions.declared_definitions import read_declared
        from extensions.versions.retirement import retire as take_out

        done = take_out(
            store, conn, view, number, keep_log_days=keep_log_days,
            declared=read_declared(repo_root()).number(view),
        )  # fmt: skip
    emit([done], as_json)


def _fields(store: "FeatureStore", view: str) -> "list[Field]":
    """The features of a view as the registry describes them; none if it does not know the view."""
    from feast.errors import FeatureViewNotFoundException

    try:
        return list(store.get_feature_view(view).features)
    except FeatureViewNotFoundException:
        return []


@contextmanager
def _connection() -> "Iterator[psycopg.Connection]":
    """A connection in autocommit."""
    from extensions.addresses import postgres_url
    from extensions.database import connect

    with connect(postgres_url(), autocommit=True, name="skewless versions") as conn:
        yield conn


def _project() -> str:
    """The project of feature_store.yaml, without waiting for Feast to be imported."""
    import os

    import yaml

    from extensions.repository import repo_root

    text = (repo_root() / "feature_store.yaml").read_text()
    return str(yaml.safe_load(os.path.expandvars(text))["project"])


@contextmanager
def _store() -> "Iterator[tuple[FeatureStore, psycopg.Connection]]":
    """Feast's store, and a connection in autocommit.

    It is made before Feast is imported: who mistyped an address need not wait for that.
    """
    with _connection() as conn:
        from feast import FeatureStore

        from extensions.repository import repo_root

        yield FeatureStore(str(repo_root())), conn


def _number(text: str) -> int:
    match = re.fullmatch(r"v?(\d+)", text)
    if match is None:
        raise InputError(f"A version reads like v2, not {text!r}.")
    return int(match.group(1))


def _moved(done: Any) -> dict[str, Any]:
    return {
        "view": done.view,
        "from": done.from_version and f"v{done.from_version}",
        "to": f"v{done.to_version}",
        "at": done.moved_at,
        "by": done.moved_by,
        "why": done.reason,
        "forced": done.forced,
        "serving it": _words(done.following),
    }


def _words(names: Any) -> str:
    return ", ".join(names)

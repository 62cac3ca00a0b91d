"""Commands that compute features: refresh (the tick), backfill."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from extensions.cli.console import AsJson, emit, err, goes_on_after, moment, progress
from extensions.cli.servers import answering_postgres

View = Annotated[str | None, typer.Option("--view", help="One view only.")]


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="Compute what changed since the last refresh, log it and publish it to Redis.",
        epilog="Examples: `skewless refresh` · `skewless refresh --view item_stats` · "
        "`skewless refresh --due --every 10` (the loop of `make up`)",
    )(refresh)
    app.command(
        help="Append the log that would exist had the store run then.",
        epilog="Example: `skewless backfill user_habits --from 2026-01-01`",
    )(backfill)


def refresh(
    view: View = None,
    at: Annotated[str | None, typer.Option(help="As of this ISO time, not now.")] = None,
    due: Annotated[
        bool, typer.Option("--due", help="Only views whose hour or day has ended since.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Every entity of every view, realtime ones too: whatever was missed."
        ),
    ] = False,
    every: Annotated[
        float | None, typer.Option(help="Repeat every so many seconds until stopped.")
    ] = None,
    online: Annotated[
        bool, typer.Option("--online/--no-online", help="Publish to Redis as well.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Safe to run twice, safe to interrupt, never two at once on one view."""
    when = moment(at, "--at")
    if every is None:
        answering_postgres("watermarks")
    from extensions.operations.refresh import Refresher

    def once(refresher: Refresher) -> None:
        with progress("Refreshing") as report:
            done = refresher.refresh(
                refresher.choose(view, everything=full),
                when,
                due_only=due,
                full=full,
                progress=report,
            )
        if done or every is None:
            emit(done, as_json)

    if every is None:
        with Refresher.open(online=online) as refresher:
            once(refresher)
        return
    while True:
        # A server that is away for a while must not end the loop; a new round connects anew.
        try:
            with Refresher.open(online=online) as refresher:
                while True:
                    once(refresher)
                    time.sleep(every)
        except Exception as error:
            if not goes_on_after(error):
                raise
            err.print(f"refresh: {error}; trying again in {every:g} s", markup=False)
            time.sleep(every)


def backfill(
    view: Annotated[str, typer.Argument(help="The view, or `all`.")],
    start: Annotated[str, typer.Option("--from", help="ISO time; without a zone, UTC.")],
    end: Annotated[
        str | None, typer.Option("--to", help="ISO time; without a zone, UTC; now if left.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Replace what backfills wrote before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Resumable: the same command goes on after its last whole day."""
    first, last = moment(start, "--from"), moment(end, "--to") or datetime.now(UTC)
    assert first is not None  # the option is required
    answering_postgres("watermarks")
    from extensions.asof.backfill import backfill as run
    from extensions.asof.log_coverage import gap_behind
    from extensions.operations.refresh import Refresher

    done = []
    with Refresher.open(online=False) as refresher:
        for computation in refresher.choose(None if view == "all" else view, everything=True):
            with progress(f"Backfilling {computation.view}") as report:
                result = run(refresher.conn, computation, first, last, again=again, progress=report)
            if result.end < last:
                err.print(
                    f"{computation.name}: stopped at {result.end.isoformat()}, where live values "
                    "begin; what was logged live is never overlaid."
                )
            elif result.rows == 0 and result.resumed_from is not None:
                err.print(f"{computation.name}: done before, and its history has not changed.")
            done.append(result)
            gap = gap_behind(refresher.conn, computation)
            if gap is not None:
                err.print(
                    f"{computation.name}: the log is not complete between "
                    f"{gap.start.isoformat()} and {gap.end.isoformat()}: labels there get the "
                    f"values of its beginning. Run `skewless backfill {computation.view} --from "
                    f"{gap.start.isoformat()} --to {gap.end.isoformat()}`.",
                    markup=False, soft_wrap=True,
                )  # fmt: skip
    emit(done, as_json)

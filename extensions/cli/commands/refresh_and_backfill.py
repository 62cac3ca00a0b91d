"""Commands that compute features: refresh (the periodic one), backfill."""

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from extensions.cli.console import AsJson, emit, err, goes_on_after, moment
from extensions.cli.duration_option import length_of
from extensions.cli.preflight import answering_postgres
from extensions.cli.progress import progress
from extensions.errors import InputError, SkewlessError
from extensions.structured_logs import figures, switched_on
from extensions.value_text import exact_time_text, time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from extensions.asof.backfill import Backfill
    from extensions.asof.computation import Computation
    from extensions.operations.refresh import Refreshed, Refresher

View = Annotated[str | None, typer.Option("--view", help="One view only.")]
Engine = Literal["auto", "postgresql", "duckdb"]


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="Compute what changed since the last refresh, log it and publish it to Redis.",
        epilog="Examples: `skewless refresh` · `skewless refresh --view item_stats` · "
        "`skewless refresh --due --every 10` (the loop of `make up`)",
    )(refresh)
    app.command(
        help="Append the log that would exist had the store run then.",
        epilog="Examples: `skewless backfill all --last 7d` · "
        "`skewless backfill user_habits --from 2026-01-01` · "
        "`skewless backfill all --last 365d --engine duckdb --memory 8GB`",
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

    def once(refresher: Refresher) -> "list[Refreshed]":
        chosen = refresher.choose(view, everything=full)
        kept = "Views that were refreshed are kept whole; the same command goes on with the others."
        with progress("Refreshing", unit="views", kept="" if every else kept) as report:
            return refresher.refresh(chosen, when, due_only=due, full=full, progress=report)

    if every is None:
        with Refresher.open(online=online) as refresher:
            done = once(refresher)
            emit(done, as_json)
            _tell_of_refused(refresher, done)
            if not any(one.logged for one in done):
                _explain_nothing(refresher, view, None, when)
        return
    while True:
        # A server that is away for a while must not end the loop; a new round connects anew.
        try:
            with Refresher.open(online=online) as refresher:
                while True:
                    _note(once(refresher), as_json)
                    time.sleep(every)
        except Exception as error:
            if not goes_on_after(error):
                raise
            err.print(
                f"{time_text(datetime.now(UTC))} refresh: {error}; trying again in "
                f"{every:g} s", markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
            time.sleep(every)


def backfill(
    view: Annotated[str, typer.Argument(help="The view, or `all`.")],
    start: Annotated[
        str | None,
        typer.Option("--from", help="ISO time; without a zone, UTC; where history begins if left."),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="ISO time; without a zone, UTC; now if left.")
    ] = None,
    last: Annotated[
        str | None,
        typer.Option(help="Instead of --from: so far back, to the beginning of that day, as 7d."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Replace what backfills wrote before.")
    ] = False,
    engine: Annotated[
        Engine | None,
        typer.Option(help="auto: DuckDB for texts that are portable; default: feature_store.yaml."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="What DuckDB may use, as 4GB; default: feature_store.yaml.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Resumable: the same command goes on after its last chunk."""
    if last is not None and start is not None:
        raise InputError("Give --from or --last, not both.")
    first, through = moment(start, "--from"), moment(end, "--to") or datetime.now(UTC)
    if last is not None:
        # A whole day, so that the same command on the same day goes on with the same range.
        first = _beginning_of_day(through - length_of(last))
    answering_postgres("watermarks")
    from feast.repo_config import load_repo_config

    from extensions.operations.refresh import Refresher
    from extensions.repository import repo_root
    from extensions.versions.engine_choice import EngineSettings, definitions_of, fill

    done = []
    root = repo_root()
    config = load_repo_config(root, root / "feature_store.yaml")
    settings = EngineSettings.of(config.offline_store).over(engine, memory)
    with Refresher.open(online=False) as refresher:
        chosen = refresher.choose(None if view == "all" else view, everything=True)
        definitions = definitions_of(refresher.conn, {c.name: c for c in chosen}, root)
        if first is None:
            first = _beginning_of_history(refresher)
        kept = "Whole chunks are kept; the same command goes on after the last of them."
        for number, computation in enumerate(chosen, start=1):
            title = f"Backfilling {computation.name} ({number} of {len(chosen)} views)"
            with progress(title, unit="days", kept=kept) as report:
                result = fill(
                    refresher.conn, definitions[computation.name], first, through,
                    settings=settings, again=again, progress=report, tell=_tell,
                )  # fmt: skip
            done.append(result)
            if result.end < through and (end is not None or not result.rows):
                _tell(
                    f"{computation.name}: stopped at {exact_time_text(result.end)}, where live "
                    "values begin; what was logged live is never overlaid."
                )
            elif not result.rows and result.resumed_from is not None:
                _tell(f"{computation.name}: done before, and its history has not changed.")
            _tell_of_holes(refresher, computation, result)
            _tell_of_gap(refresher, computation)
        emit(done, as_json)
        if not any(result.rows or result.resumed_from for result in done):
            _explain_nothing(refresher, None if view == "all" else view, first, through)


def _tell_of_refused(refresher: "Refresher", done: "Sequence[Refreshed]") -> None:
    """Name an entity of each refreshed view that goes on without some."""
    from extensions.database.refused_of_views import refused_of_views

    refreshed = {(one.view, one.version) for one in done if one.refused}
    for one in refused_of_views(refresher.conn) if refreshed else ():
        if (one.view, one.version) in refreshed:
            _tell(one.sentence())


def _tell_of_holes(refresher: "Refresher", computation: "Computation", result: "Backfill") -> None:
    """Say which entities the range lacks, and what brings them back."""
    from extensions.asof.backfill_refusals import example

    if result.refused:
        first = example(refresher.conn, computation, result.start, result.end)
        _tell(
            f"{computation.name}: {result.refused} "
            f"{'entity lacks' if result.refused == 1 else 'entities lack'} values, which could "
            f"not be computed ({first}). Training sets count their labels; once the rows behind "
            "them are mended, the same command fills them in."
        )


def _tell_of_gap(refresher: "Refresher", computation: "Computation") -> None:
    """Say where the log is not complete, and how to fill it."""
    from extensions.asof.log_coverage import gap_behind

    gap = gap_behind(refresher.conn, computation)
    if gap is not None:
        start, end = exact_time_text(gap.start), exact_time_text(gap.end)
        _tell(
            f"{computation.name}: the log is not complete between {start} and "
            f"{end}: labels there get the values of its beginning. Run "
            f"`skewless backfill {computation.view} --from {start} --to "
            f"{end}`."
        )


def _beginning_of_day(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _beginning_of_history(refresher: "Refresher") -> datetime:
    """The day from which every view's primary source has rows.

    Raises:
        SkewlessError: one has none at all.
    """
    from extensions.asof.history_span import history_span

    firsts = []
    for source in {c.reads[0].table: c.reads[0] for c in refresher.computations.values()}.values():
        span = history_span(refresher.conn, source)
        if span is None:
            raise SkewlessError(
                f"{source.table} has no rows: bring history in with `skewless simulate` or "
                "`skewless import`."
            )
        firsts.append(span.first)
    return _beginning_of_day(max(firsts))


def _explain_nothing(
    refresher: "Refresher", view: str | None, start: datetime | None, end: datetime | None
) -> None:
    """Say why nothing was computed, where the data say why: an empty source, an empty range."""
    from extensions.asof.history_span import why_nothing

    sources = [each.reads[0] for each in refresher.choose(view, everything=True)]
    if sentence := why_nothing(refresher.conn, sources, start, end):
        _tell(sentence)


def _note(done: "Sequence[Refreshed]", as_json: bool) -> None:
    """One plain line for each view, for the log of a program that runs until it is stopped."""
    if as_json:
        if done:
            emit(list(done), as_json)
        return
    for one in done:
        if switched_on():
            figures("refreshed", asdict(one))
            continue
        print(  # noqa: T201
            f"{time_text(datetime.now(UTC))} {one.view} v{one.version}: {one.logged} rows "
            f"logged as of {time_text(one.at)}, {one.published} published, in "
            f"{one.seconds:.1f} s"
            + (f"; {one.refused} entities are refused, see `skewless doctor`" * (one.refused > 0)),
            flush=True,
        )


def _tell(sentence: str) -> None:
    err.print(sentence, markup=False, highlight=False, soft_wrap=True)

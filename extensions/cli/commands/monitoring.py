"""Commands that watch: drift baseline, check, calibrate, watch, report; audit."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from extensions.cli.console import AsJson, emit, err, goes_on_after, moment, wrapped
from extensions.cli.duration_option import length_of
from extensions.cli.metrics_options import MetricsHost, MetricsPort
from extensions.cli.output.monitoring_output import note, say, show, show_audit, show_calibration
from extensions.cli.output_file_option import output_file
from extensions.cli.preflight import answering_postgres
from extensions.cli.progress import progress
from extensions.errors import InputError, NothingToCheckError, SkewlessError

if TYPE_CHECKING:
    from monitoring.checks.drift_schedule import Response
    from monitoring.checks.drift_store import Run

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

drift = typer.Typer(
    help="Compare what is served with what models were trained on.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Rollback = Annotated[
    list[str] | None,
    typer.Option("--rollback", help="A view that may be rolled back by verdict; repeatable."),
]
After = Annotated[int, typer.Option(help="Critical windows in a row before a rollback.")]
RollbackCommand = Annotated[
    str | None,
    typer.Option(help="A program that rolls back instead of `skewless rollback`; {view}."),
]
MetricsFile = Annotated[
    Path | None,
    typer.Option(
        callback=output_file, help="Write Prometheus metrics here, for a textfile collector."
    ),
]
Engine = Literal["auto", "postgresql", "duckdb"]
Services = Annotated[list[str] | None, typer.Argument(help="Feature services; all by default.")]
Window = Annotated[str, typer.Option("--window", help="Length, as in 30m, 1h, 1d.")]
Least = Annotated[int, typer.Option("--least-rows", help="Fewer rows say nothing.")]


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    drift.command(
        "baseline",
        help="Keep a training set's distributions as the baseline of its service.",
        epilog="Example: `skewless drift baseline ranking --training-set train.manifest.json`",
    )(baseline)
    drift.command(
        "check",
        help="Compare the last whole window with the baseline. Exit code 0 ok (or too few rows), "
        "3 warning, 4 critical, 5 could not be checked.",
        epilog="Examples: `skewless drift check` · `skewless drift check ranking --window 1h` · "
        "`skewless drift check ranking --from 2026-01-01T00:00Z --to 2026-01-01T06:00Z`",
    )(check)
    drift.command(
        "calibrate",
        help="Replay past windows and propose floors above their ordinary variation.",
        epilog="Example: `skewless drift calibrate ranking --since 7d --write`",
    )(calibrate)
    drift.command(
        "watch",
        help="Check every window as it ends, alert, and keep the served log short.",
        epilog="Example: `skewless drift watch --window 1h --rollback item_profile`",
    )(watch)
    drift.command(
        "report",
        help="Write one HTML file: distributions, statistics over time, verdicts.",
        epilog="Example: `skewless drift report --out drift.html`",
    )(report)
    app.add_typer(drift, name="drift")
    app.command(
        "audit",
        help="Compare served values, and a sample of all entities, with the training join and "
        "with a recomputation. Exit code 0: all agree; 3: something is behind by more than its "
        "freshness budget; 4: history, log, Redis or what was served say different things; "
        "5: not all could be seen.",
        epilog="Examples: `skewless audit` · `skewless audit --since 1d --sample 1000`",
    )(audit)


def baseline(
    service: Annotated[str, typer.Argument(help="The feature service.")],
    training_set: Annotated[
        Path, typer.Option("--training-set", help="The manifest; the Parquet lies beside it.")
    ],
    as_json: AsJson = False,
) -> None:
    """From now on the service is compared with it; older baselines are kept."""
    url = answering_postgres()
    from feast import FeatureStore

    from extensions.database import connect
    from extensions.repository import repo_root
    from monitoring.baseline import take_baseline
    from monitoring.checks.drift_store import bind

    with progress("Reading the training set"):
        found = take_baseline(FeatureStore(str(repo_root())), training_set, service)
    with connect(url, autocommit=True) as conn:
        identity = bind(conn, found)
    emit(
        [
            {
                "service": service,
                "baseline": identity,
                "rows": found.rows,
                "features": len(found.features),
                "versions": ", ".join(f"{k} v{v}" for k, v in found.versions.items()),
                "left_out": ", ".join(found.left_out) or None,
            }
        ],
        as_json,
    )


def check(
    services: Services = None,
    window: Window = "1h",
    start: Annotated[str | None, typer.Option("--from", help="ISO time.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="ISO time.")] = None,
    least_rows: Least = 500,
    again: Annotated[
        bool, typer.Option("--again", help="Compare once more; nothing follows from it.")
    ] = False,
    rollback: Rollback = None,
    after: After = 2,
    rollback_command: RollbackCommand = None,
    metrics_file: MetricsFile = None,
    as_json: AsJson = False,
) -> None:
    """A window is compared once; asked again, the recorded verdict is shown."""
    url = answering_postgres()
    from monitoring.checks.drift_check import check as look
    from monitoring.checks.drift_schedule import check_and_react
    from monitoring.prometheus_exporter import write_file

    response = _response(least_rows, rollback, after, rollback_command)
    runs = []
    with progress("Checking"):
        for one in _windows(url, services, window, start, end):
            if again:
                runs.append(look(url, one, least_rows=least_rows, again=True))
                continue
            reaction = check_and_react(url, one, response)
            say(reaction)
            runs.append(reaction.run)
        if metrics_file is not None:
            write_file(url, metrics_file)
    show(runs, as_json=as_json)
    exit_with(runs)


def calibrate(
    service: Annotated[str, typer.Argument(help="The feature service.")],
    window: Window = "1h",
    since: Annotated[str, typer.Option(help="How far back, as in 7d.")] = "7d",
    least_rows: Least = 500,
    write: Annotated[bool, typer.Option("--write", help="Use the raised floors.")] = False,
    as_json: AsJson = False,
) -> None:
    """What is replayed counts as ordinary: choose a span without incidents."""
    length, span = length_of(window), length_of(since)
    url, now = answering_postgres(), datetime.now(UTC)
    from extensions.database import connect
    from monitoring.checks.calibration import calibrate as run
    from monitoring.checks.drift_store import set_floors

    with progress("Replaying"):
        found = run(url, service, length, now - span, now, least_rows=least_rows)
    show_calibration(found, as_json=as_json)
    if write:
        with connect(url, autocommit=True) as conn:
            set_floors(conn, service, found.floors)
        err.print(f"{len(found.floors)} floors of {service} are raised.")
    elif found.floors:
        err.print(f"{len(found.floors)} floors would be raised: say --write.")


def watch(
    services: Services = None,
    window: Window = "1h",
    least_rows: Least = 500,
    rollback: Rollback = None,
    after: After = 2,
    rollback_command: RollbackCommand = None,
    keep: Annotated[str, typer.Option(help="How long the served log is kept.")] = "14d",
    every: Annotated[float, typer.Option(help="Seconds between looks at the clock.")] = 30.0,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    metrics_file: MetricsFile = None,
) -> None:
    """Runs until stopped; a server that is away for a while does not end it."""
    from extensions.addresses import postgres_url

    url = postgres_url()
    length, kept = length_of(window), length_of(keep)
    from extensions.database import connect
    from extensions.stores.offline.writes.serving_log_table import prune
    from monitoring.checks.drift_schedule import check_and_react, due, resume
    from monitoring.checks.drift_store import NOTHING_WATCHED, bound_services
    from monitoring.prometheus_exporter import MonitoringCollector, write_file

    response = _response(least_rows, rollback, after, rollback_command)
    answering = None
    if metrics_port is not None:
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(MonitoringCollector(url))
        _, answering = start_http_server(metrics_port, metrics_host, registry=registry)
    told = False
    while True:
        if answering is not None and not answering.is_alive():
            raise SkewlessError("The thread that answers Prometheus ended: start it again.")
        try:
            for unfinished in resume(url, services, response):
                say(unfinished)
            with connect(url, autocommit=True) as conn:
                if not bound_services(conn) and not told:
                    told = True
                    wrapped(f"drift watch: {NOTHING_WATCHED}", console=err)
            for one in due(url, services, length):
                reaction = check_and_react(url, one, response)
                note(reaction.run)
                say(reaction)
            with connect(url, autocommit=True) as conn:
                prune(conn, datetime.now(UTC) - kept)
            if metrics_file is not None:
                write_file(url, metrics_file)
        except Exception as error:
            if not goes_on_after(error):
                raise
            wrapped(f"drift watch: {error}; trying again in {every:g} s", console=err)
        time.sleep(every)


def report(
    services: Services = None,
    out: Annotated[Path, typer.Option(callback=output_file, help="Where the file goes.")] = Path(
        "drift.html"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Great Expectations' own results instead, as JSON.")
    ] = False,
) -> None:
    """Opens without a network; nothing in it is fetched from anywhere."""
    import json

    url = answering_postgres()
    from extensions.database import connect
    from extensions.output_files import whole_file
    from monitoring.checks.drift_store import NOTHING_WATCHED, bound_services, recent_runs
    from monitoring.reports.drift_report import report as page

    with connect(url, autocommit=True) as conn:
        bound = bound_services(conn)
        named = services or bound
        if as_json:
            runs = [run for one in named for run in recent_runs(conn, one, 1, details=True)]
            print(json.dumps([{"service": r.service, "results": r.expectations} for r in runs]))  # noqa: T201
            return
        with whole_file(out) as partial:
            partial.write_text(page(conn, named), encoding="utf-8")
    wrapped(f"Written: {out}", console=err)
    if not set(named) & set(bound):
        raise NothingToCheckError(NOTHING_WATCHED)


def audit(
    since: Annotated[str, typer.Option(help="How far back, as in 1h; or an ISO time.")] = "1h",
    sample: Annotated[
        int | None, typer.Option(help="So many requests of each service; all by default.")
    ] = None,
    service: Annotated[list[str] | None, typer.Option(help="Only these services.")] = None,
    entities: Annotated[
        int, typer.Option(help="Entities of each view to compare as of now; 0: none.")
    ] = 500,
    questions: Annotated[
        int,
        typer.Option(help="Of each portable text, questions to put to both engines; 0: none."),
    ] = 200,
    engine: Annotated[
        Engine | None,
        typer.Option(help="That recomputes; auto: DuckDB for many values; feature_store.yaml."),
    ] = None,
    metrics_file: MetricsFile = None,
    as_json: AsJson = False,
) -> None:
    """Each difference has a name: lag, late, overdue, version; what has none is a bug."""
    until = datetime.now(UTC)
    begin = moment(since, "--since") if "-" in since else until - length_of(since)
    assert begin is not None  # the option has a value
    url = answering_postgres()
    from feast import FeatureStore

    from extensions.asof import load_computations
    from extensions.database import connect
    from extensions.repository import repo_root
    from extensions.versions.engine_choice import EngineSettings, definitions_of
    from extensions.versions.maintained_versions import live_computations
    from monitoring.audit.skew_audit import audit as run
    from monitoring.audit.skew_audit import record
    from monitoring.prometheus_exporter import write_file

    with progress("Auditing"), connect(url, autocommit=True) as conn:
        computations = live_computations(conn, load_computations(repo_root()))
        store = FeatureStore(str(repo_root()))
        found = run(
            store, computations, begin, until, sample=sample,
            settings=EngineSettings.of(store.config.offline_store).over(engine, None),
            services=service, entities=entities, questions=questions,
            definitions=definitions_of(conn, computations, repo_root()),
        )  # fmt: skip
        record(conn, found)
        if metrics_file is not None:
            write_file(url, metrics_file)
    show_audit(found, as_json=as_json)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def exit_with(runs: "list[Run]") -> None:
    """The gravest verdict's exit code."""
    from monitoring.verdicts import EXIT_CODES

    code = max((EXIT_CODES[run.verdict] for run in runs), default=0)
    if code:
        raise typer.Exit(code)


def _response(
    least_rows: int, views: list[str] | None, after: int, program: str | None
) -> "Response":
    from extensions.repository import repo_root
    from monitoring.alerts.automatic_rollback import Policy, command, in_repository
    from monitoring.alerts.notifiers import channels
    from monitoring.checks.drift_schedule import Response

    roll_back = command(program) if program else in_repository(repo_root())
    return Response(channels(), Policy(frozenset(views or ()), after), roll_back, least_rows)


def _windows(
    url: str, services: list[str] | None, length: str, start: str | None, end: str | None
) -> list[Any]:
    from extensions.database import connect
    from monitoring.checks.drift_store import NOTHING_WATCHED, bound_services
    from monitoring.checks.serving_log_window import Window as Span
    from monitoring.checks.serving_log_window import whole_windows

    with connect(url) as conn:
        named = services or bound_services(conn)
    if not named:
        raise NothingToCheckError(NOTHING_WATCHED)
    first, last = moment(start, "--from"), moment(end, "--to")
    if (first is None) != (last is None):
        raise InputError("Give both --from and --to, or neither.")
    if first is not None and last is not None:
        if first >= last:
            raise InputError("--from must be earlier than --to.")
        return [Span(service, first, last) for service in named]
    now = datetime.now(UTC)
    return [
        one for service in named for one in whole_windows(service, length_of(length), None, now)
    ]

"""Commands of online serving: serve, rebuild-online."""

from pathlib import Path
from typing import Annotated

import typer

from extensions.cli.console import AsJson, emit
from extensions.cli.preflight import answering_postgres, warn_of_blocked
from extensions.cli.progress import progress
from extensions.serving.settings import DEFAULT_PORT


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="Serve features over HTTP: /v1 and all of Feast's own routes.",
        epilog="Example: `skewless serve --port 8566 --workers 2`",
    )(serve)
    app.command(
        "rebuild-online",
        help="Refill an empty or lost Redis from the logs, while serving.",
        epilog="Example: `skewless rebuild-online --view user_watch_stats`",
    )(rebuild_online)


def serve(
    host: Annotated[str, typer.Option(help="Loopback unless told otherwise.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            envvar="SKEWLESS_PORT",
            help="The port; Feast's own server has 6566, which browsers refuse.",
        ),
    ] = DEFAULT_PORT,
    workers: Annotated[int, typer.Option(help="Processes that share the port.")] = 1,
    redis_deadline_ms: Annotated[
        int, typer.Option(help="Redis slower than this is answered with 503.")
    ] = 50,
    max_items: Annotated[
        int, typer.Option(help="Most items, rows or results of one request, on every route.")
    ] = 1_000,
    max_body: Annotated[int, typer.Option(help="Most bytes of one body.")] = 1_000_000,
    max_connections: Annotated[
        int, typer.Option(help="Most connections of one worker; further ones get 503.")
    ] = 4_096,
    near_megabytes: Annotated[
        int, typer.Option(help="Most that a worker holds of one entity's near views; 0: none.")
    ] = 64,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SKEWLESS_API_KEY",
            help="Demanded in X-Api-Key; with `auth`, instead of a token on /v1.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SKEWLESS_API_KEY_FILE",
            help="Keys, one a line; read again while serving, so that keys can be changed.",
        ),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file.")] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SKEWLESS_CORS_ORIGIN",
            help="A web origin whose pages may call the server, or '*'; may be repeated.",
        ),
    ] = None,
    gzip_bytes: Annotated[
        int, typer.Option(help="Compress replies of at least so many bytes; 0: none.")
    ] = 0,
    docs: Annotated[
        bool, typer.Option("--docs/--no-docs", help="Serve /, /docs and the OpenAPI documents.")
    ] = True,
    log: Annotated[
        list[str] | None,
        typer.Option(help="Share of requests to log, as SHARE or SERVICE=SHARE; 0.01 by default."),
    ] = None,
) -> None:
    """Documentation at /docs, readiness at /ready, metrics at /metrics."""
    from extensions.local.ports import require_free

    warn_of_blocked(port)
    # Before Feast is imported, which takes seconds.
    require_free(port, "The server", host)
    from extensions.repository import repo_root
    from extensions.serving.observability.serving_log import log_shares
    from extensions.serving.server import run
    from extensions.serving.settings import Settings

    run(
        Settings(
            repo=repo_root(),
            host=host,
            port=port,
            workers=workers,
            redis_deadline_ms=redis_deadline_ms,
            max_items=max_items,
            max_body=max_body,
            max_connections=max_connections,
            near_megabytes=near_megabytes,
            api_key=api_key,
            api_key_file=api_key_file,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            cors_origins=tuple(cors_origin or ()),
            gzip_bytes=gzip_bytes,
            docs=docs,
            **log_shares(log or []),
        )
    )


def rebuild_online(
    view: Annotated[str | None, typer.Option("--view", help="One view only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Interrupted, it goes on after its last whole step; newest wins throughout."""
    url = answering_postgres()
    from feast import FeatureStore

    from extensions.asof import load_computations
    from extensions.database import connect
    from extensions.repository import repo_root
    from extensions.stores.rebuild import rebuild_online as run
    from extensions.versions.maintained_versions import live_computations

    with connect(url) as conn:
        live = live_computations(conn, load_computations(repo_root()))
    kept = (
        "Whole steps of 50,000 entities are kept, newer values win meanwhile; the same command "
        "goes on after the last of them."
    )
    with progress("Rebuilding Redis", unit="entities", kept=kept) as report:
        before: dict[str, int] = {}

        def count(name: str, entities: int) -> None:
            before[name] = entities
            report(sum(before.values()), None)

        done = run(FeatureStore(str(repo_root())), view, count, live.values())
    emit(list(done), as_json)

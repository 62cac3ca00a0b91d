"""Commands of the local stack: up, down, demo."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from extensions.cli.commands.history_loading import SimulateCommand, chosen_parameters
from extensions.cli.console import AsJson, err
from extensions.cli.preflight import warn_of_blocked
from extensions.cli.progress import progress
from extensions.cli.stack_supervisor import Programs, apply_definitions
from extensions.serving.settings import DEFAULT_PORT

if TYPE_CHECKING:
    from extensions.local.stack import Stack

Kafka = Annotated[
    Literal["tansu", "apache"],
    typer.Option(help="The broker: a small one in memory, or genuine Apache Kafka (Java, Maven)."),
]


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        help="The whole life of a feature in three minutes; leaves nothing behind.",
        epilog="Example: `skewless demo --events 200000`",
        cls=SimulateCommand,
    )(demo)
    app.command(
        help="Run servers, stream worker, refresh loop and HTTP server until Ctrl-C.",
        epilog="Examples: `skewless up` · `skewless up --kafka apache`",
    )(up)
    app.command(help="Stop what `skewless up` runs.", epilog="Example: `skewless down`")(down)


def demo(ctx: typer.Context, kafka: Kafka = "tansu") -> None:
    """Start, load, apply, compute, train, serve, stream, stop; on what the repository simulates."""
    from extensions.cli.demo import Demonstration

    Demonstration(chosen_parameters(ctx), kafka).run()


def up(
    context: typer.Context,
    kafka: Kafka = "tansu",
    port: Annotated[
        int,
        typer.Option(
            envvar="SKEWLESS_PORT",
            help="Of the HTTP server; 0 takes a free one, as does the default where it is taken.",
        ),
    ] = DEFAULT_PORT,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Serve the stream worker's Prometheus metrics on this port."),
    ] = None,
) -> None:
    """Data stays in `.skewless/`; a server whose address is set already is not started."""
    from extensions.addresses import running_stack
    from extensions.local.ports import require_free
    from extensions.local.stack import Stack

    warn_of_blocked(port)
    source = context.get_parameter_source("port")
    by_default = source is not None and source.name == "DEFAULT"
    # Before servers are started; a stack that runs in this folder says so itself.
    if running_stack() is None and not by_default:
        require_free(port, "The HTTP server")
    if metrics_port is not None and running_stack() is None:
        require_free(metrics_port, "The stream worker's metrics", option="--metrics-port")
    with Stack(kafka=kafka) as stack:
        if by_default:
            port = stack.http_port(port)
        for sentence in stack.moved:
            err.print(sentence, markup=False, soft_wrap=True)
        with progress("Preparing PostgreSQL and Feast's registry"):
            apply_definitions(stack)
        programs = Programs(stack, port, metrics_port=metrics_port)
        _print_addresses(stack)
        try:
            with progress("Starting the HTTP server"):
                programs.wait_until_serving()
            err.print(f"HTTP        {programs.http}/docs")
            err.print("Feast's commands work here now. Ctrl-C or `skewless down` stops all.")
            programs.watch()
        except KeyboardInterrupt:
            err.print("Stopping; the data stays, and `skewless up` goes on with it.")


def down(as_json: AsJson = False) -> None:
    """Ends the stack of this repository in good order, from another terminal."""
    from extensions.addresses import home
    from extensions.local.stack import stop_running

    pid = stop_running(home())
    if as_json:
        print(f'{{"stopped": {"null" if pid is None else pid}}}')  # noqa: T201
    else:
        err.print("Nothing is running here." if pid is None else "Stopped.")


def _print_addresses(stack: "Stack") -> None:
    """Addresses only: the database's password stays in its file, readable by its owner."""
    from sqlalchemy import make_url

    where = make_url(stack.addresses.postgres)
    err.print(f"PostgreSQL  {where.render_as_string(hide_password=True)}")
    err.print(f"Redis       {stack.addresses.redis}")
    err.print(f"Kafka       {stack.addresses.kafka}")

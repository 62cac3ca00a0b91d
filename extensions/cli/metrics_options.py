"""The options of programs that serve Prometheus metrics: where to listen."""

from typing import Annotated

import typer

MetricsPort = Annotated[int | None, typer.Option(help="Serve Prometheus metrics on this port.")]
MetricsHost = Annotated[
    str,
    typer.Option(help="The address of --metrics-port; in a container 0.0.0.0, for all to scrape."),
]

"""The HTTP server: `run(Settings(...))` serves our routes and Feast's own."""

from extensions.serving.settings import Settings

__all__ = ["Settings", "run"]


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; see `extensions.serving.server`."""
    from extensions.serving.server import run as serve  # noqa: PLC0415 - Feast takes seconds

    serve(settings)

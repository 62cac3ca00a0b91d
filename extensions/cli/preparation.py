"""Bringing an empty or older stack to where features can be computed and served.

Run as a program (``python -m``) by `skewless up` and the demo: one process for the migrations and
`feast apply`, because Feast takes seconds to import, and so that the process which watches over
the stack need not hold it in memory.
"""

from extensions.cli import main


def prepare() -> None:
    """Migrate PostgreSQL, then run `feast apply` in the current folder."""
    from feast.cli.cli import cli

    from extensions.addresses import postgres_url
    from extensions.operations.database_setup import prepare_database

    prepare_database(postgres_url())
    cli.main(["apply"], prog_name="feast")


if __name__ == "__main__":
    main(prepare)

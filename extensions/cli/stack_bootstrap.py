"""Bootstrap of a local stack: migrations, then `feast apply`.

Run as a program (``python -m``) by `skewless up` and the demo. It is one process for both, because
Feast takes seconds to import, and not the supervisor's, which need not hold Feast in memory.
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

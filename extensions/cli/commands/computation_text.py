"""The command that prints a view version's SQL text, or writes it to its file: sql."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from extensions.cli.console import AsJson, emit, wrapped
from extensions.errors import InputError

if TYPE_CHECKING:
    from extensions.versions.version_text import VersionText

Reference = Annotated[
    str, typer.Argument(metavar="VIEW[@vN]", help="The view, and its version if not the files'.")
]


def register(app: typer.Typer) -> None:
    """Add this family to the command line."""
    app.command(
        name="sql",
        help="Print the SQL text by which a view version is computed.",
        epilog="Examples: `skewless sql user_spend` · `skewless sql user_spend@v1` · "
        "`skewless sql user_spend --eject`",
    )(sql)


def sql(
    reference: Reference,
    eject: Annotated[
        bool,
        typer.Option(
            "--eject", help="Write it to feature_repo/computations: then the file is the text."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The text as it was published; of a version that is not, as the files declare it."""
    from extensions.repository import repo_root

    view, version = _split(reference)
    text = _text(view, version)
    if eject:
        from extensions.versions.version_text import eject as write

        path, written = write(repo_root(), text)
        wrapped(f"{path} {'is written' if written else 'was there already, and is the same'}.")
        if text.computation.declaration is not None:
            tags = ", ".join(f'"{tag}": "{value}"' for tag, value in text.tags.items())
            wrapped(
                "Now make the view a FeatureView without aggregations, filters and the like, with "
                f"source=log(…) of this version and these tags beside its freshness: {{{tags}}}. "
                "Its values stay what they are."
            )
    elif as_json:
        row = {
            "view": text.computation.view,
            "version": f"v{text.computation.version}",
            "published": text.published,
            "compiled": text.computation.declaration is not None,
            "sql": text.sql,
        }
        emit([row], as_json=True)
    else:
        print(text.sql, end="")  # noqa: T201


def _text(view: str, version: int | None) -> "VersionText":
    """The text, by the database where it can be reached."""
    from extensions import addresses
    from extensions.cli.console import err, line
    from extensions.database import connect
    from extensions.errors import SkewlessError
    from extensions.repository import repo_root
    from extensions.versions.version_text import version_text

    try:
        conn = connect(addresses.postgres_url(), autocommit=True, name="skewless sql")
    except SkewlessError as error:
        line(f"{error.message} So this is what the files declare, published or not.", console=err)
        return version_text(None, repo_root(), view, version)
    with conn:
        return version_text(conn, repo_root(), view, version)


def _split(reference: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"([^@]+)(?:@v?(\d+))?", reference)
    if match is None:
        raise InputError(f"A version reads like user_spend@v2, not {reference!r}.")
    return match[1], int(match[2]) if match[2] else None

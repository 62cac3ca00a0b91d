"""The SQL text of a view version, from what is published or what the files declare; ejecting it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg

from extensions.asof.computation import Computation
from extensions.asof.durations import duration_text
from extensions.asof.sql_normalization import normalised
from extensions.errors import ConflictError, InputError
from extensions.output_files import whole_file
from extensions.stores.registry.version_store import Published, has_versions, published
from extensions.suggestions import did_you_mean
from extensions.version_names import sql_file
from extensions.versions.declared_definitions import read_declared


@dataclass(frozen=True)
class VersionText:
    """The text of a version. ``published``: whether it is the one that was published."""

    computation: Computation
    published: bool

    @property
    def sql(self) -> str:
        """The text, with an end of line."""
        return self.computation.sql.strip() + "\n"

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags that a view with this text by hand has beside its freshness."""
        computation = self.computation
        horizon: timedelta | None = computation.horizon
        return {
            "reads": ",".join(source.table for source in computation.reads),
            **({} if horizon is None else {"horizon": duration_text(horizon)}),
            **({"decays": "true"} if computation.decays else {}),
        }


def version_text(
    conn: psycopg.Connection | None, repo_root: Path, view: str, version: int | None
) -> VersionText:
    """The text of a version: as published, else as the files at ``repo_root`` have it.

    Args:
        conn: The database of published versions; None if it cannot be reached.
        repo_root: The repository.
        view: The view.
        version: Its version; None: the one that the files name.

    Raises:
        InputError: neither the files nor the database know it.
        DefinitionError: the files cannot be read.
    """
    definitions = {
        name: definition
        for name, definition in read_declared(repo_root).definitions.items()
        if definition.kind == "computation"
    }
    known: list[Published] = []
    if conn is not None and has_versions(conn):
        known = [each for each in published(conn, view) if each.kind == "computation"]
    declared = definitions.get(view)
    number = version or (declared.version if declared else None)
    if number is None and known:
        number = known[-1].version
    same = next((each for each in known if each.version == number), None)
    if declared is not None and declared.version == number:
        kept = declared if same is None else declared.with_text_of(same.definition)
        is_published = same is not None and kept.content["sql"] == same.content["sql"]
        return VersionText(kept.computation(), is_published)
    if same is not None:
        return VersionText(same.definition.computation(), published=True)
    if number is None:
        raise InputError(
            f"There is no computed view {view}; there are {', '.join(definitions) or 'none'}."
            f"{did_you_mean(view, definitions)}"
        )
    numbers = {each.version for each in known} | ({declared.version} if declared else set())
    raise InputError(
        f"There is no {view} v{number}: the files and the database know "
        f"{', '.join(f'v{each}' for each in sorted(numbers)) or 'none'}."
    )


def eject(repo_root: Path, text: VersionText) -> tuple[Path, bool]:
    """Write a version's text to its file, which from then on is the text.

    Returns:
        The file relative to ``repo_root``, and whether it was written; False if it was there.

    Raises:
        ConflictError: the file is there and says something else.
        InputError: what is there is no file.
    """
    relative = sql_file(text.computation.view, text.computation.version)
    path = repo_root / relative
    if path.is_file():
        if normalised(path.read_text()) != normalised(text.sql):
            raise ConflictError(
                f"{relative} is there already and says something else: remove it first, or keep it."
            )
        return relative, False
    with whole_file(path) as partial:
        partial.write_text(text.sql)
    return relative, True

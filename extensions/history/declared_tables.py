"""The sources that a repository declares, with their tables' columns from its database."""

from pathlib import Path

from extensions.addresses import project_name
from extensions.asof.computation_loading import read_repository
from extensions.database import connect
from extensions.errors import DefinitionError
from extensions.history.import_arguments import check_migrated
from extensions.sources import HistoryTable, Sources, load_sources
from extensions.suggestions import did_you_mean


def declared_sources(url: str, repo_root: Path) -> Sources:
    """The history tables and streams of the repository at ``repo_root``; imports Feast.

    Raises:
        ConfigurationError: the database does not answer, or has no tables yet.
        DefinitionError: a declaration and the database do not fit.
    """
    check_migrated(url)
    contents = read_repository(repo_root)
    with connect(url, name="skewless import") as conn:
        return load_sources(contents, conn, project_name(repo_root) or "")


def table_called(sources: Sources, name: str) -> HistoryTable:
    """The history table of a source, by its name or by what only its name ends in.

    So ``events`` is ``watch_events`` where no other source's name ends so.

    Raises:
        DefinitionError: there is none, or more than one.
    """
    if name in sources.tables:
        return sources.tables[name]
    if name in sources.streams:
        return sources.streams[name].table
    ending = [each for each in sources.tables if each.endswith(f"_{name}")]
    if len(ending) == 1:
        return sources.tables[ending[0]]
    raise DefinitionError(
        f"There is no history source {name}; declared are "
        f"{', '.join(sorted(sources.tables)) or 'none'}.{did_you_mean(name, sources.tables)}"
    )

"""Database setup: migrations, the repository's tables and seeds, the feature logs of its views."""

from dataclasses import dataclass
from pathlib import Path

from extensions.addresses import project_name
from extensions.asof.computation_loading import computations_in, read_repository
from extensions.asof.definition_validation import check_sources
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.history_changes import follow_sources
from extensions.asof.log_partitions import partition_logs, unpartitioned
from extensions.database import connect, migrate
from extensions.database.project_claim import claim_project
from extensions.operations.seeds import record_seeds
from extensions.repository import repo_root
from extensions.sources import load_sources
from extensions.sources.storage import ensure_id_tables
from extensions.version_names import HISTORY, SEEDS
from extensions.versions.maintained_versions import live_computations


@dataclass(frozen=True)
class Prepared:
    """What was pending and is done now.

    ``seeds``: rows of seeds that were new or changed. ``not_followed``: history sources that are
    views or foreign tables, whose changes behind the watermarks nobody sees. ``partitioned``:
    logs of an older release that have partitions now; ``kept_plain``: those that cannot have any,
    and what keeps each.
    """

    migrations: list[str]
    logs: list[str]
    seeds: int
    not_followed: list[str]
    partitioned: list[str]
    kept_plain: dict[str, str]


def prepare_database(url: str, repository: Path | None = None) -> Prepared:
    """Bring the database at ``url`` up to what the repository's files declare; idempotent.

    ``repository``: its folder; `repo_root` where it is left out.

    Raises:
        ConflictError: the database belongs to another project; nothing but the engine's
            migrations is done.
        DefinitionError: PostgreSQL refuses one of the repository's files.
    """
    repository = repository or repo_root()
    migrations = migrate(url)
    with connect(url, name="skewless migrate") as conn:
        if project := project_name(repository):
            claim_project(conn, project)
    migrations += migrate(url, repository / HISTORY)
    with connect(url, name="skewless migrate") as conn:
        contents = read_repository(repository)
        sources = load_sources(contents, conn, project or "")
        ensure_id_tables(conn, sources.tables.values())
        declared = computations_in(contents, repository)
        check_sources(conn, declared.values())
        computations = {**declared, **live_computations(conn, declared)}.values()
        logs = ensure_log_tables(conn, computations)
        not_followed = follow_sources(conn, computations)
        seeds = record_seeds(conn, repository / SEEDS, sources)
    tables = [computation.log_table for computation in computations]
    with connect(url, autocommit=True, name="skewless migrate") as conn:
        partitioned = partition_logs(conn, tables)
        kept = {table: why for table, why in unpartitioned(conn, tables).items() if why}
    return Prepared(migrations, logs, seeds, not_followed, partitioned, kept)

"""Database setup: migrations, the feature logs of the declared views, the genres."""

import json
from dataclasses import dataclass
from pathlib import Path

import psycopg

from extensions.addresses import REPO_ROOT, project_name
from extensions.asof import load_computations
from extensions.asof.definition_validation import check_sources
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.history_changes import follow_sources
from extensions.database import connect, migrate
from extensions.database.event_ingest import take_ingest_lock
from extensions.database.project_claim import claim_project
from extensions.versions.maintained_versions import live_computations


@dataclass(frozen=True)
class Prepared:
    """What was pending and is done now.

    ``not_followed``: history sources that are views or foreign tables, whose changes behind the
    watermarks nobody sees.
    """

    migrations: list[str]
    logs: list[str]
    genres: int
    not_followed: list[str]


def prepare_database(url: str, repo_root: Path = REPO_ROOT) -> Prepared:
    """Bring the database at ``url`` up to what the repository's files declare; idempotent.

    Raises:
        ConflictError: the database belongs to another project; nothing but migrations is done.
    """
    migrations = migrate(url)
    with connect(url, name="skewless migrate") as conn:
        if project := project_name(repo_root):
            claim_project(conn, project)
        declared = load_computations(repo_root)
        check_sources(conn, declared.values())
        computations = {**declared, **live_computations(conn, declared)}.values()
        logs = ensure_log_tables(conn, computations)
        not_followed = follow_sources(conn, computations)
        genres = _record_genres(conn, repo_root / "feature_repo" / "genres.json")
    return Prepared(migrations, logs, genres, not_followed)


def _record_genres(conn: psycopg.Connection, path: Path) -> int:
    """Append the embeddings that are new or changed; returns how many.

    A genre's first embedding is valid since ever, so that values can be computed from history older
    than this store; a changed one is valid from now on, so that past values stay the same.
    """
    take_ingest_lock(conn)
    declared = json.loads(path.read_text()) if path.is_file() else {}
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO genres (genre, embedding, ingested_at) "
            "SELECT %(genre)s, %(embedding)s::real[], "
            "CASE WHEN known.genre IS NULL THEN timestamptz '1970-01-01 00:00:00+00' "
            "ELSE clock_timestamp() END "
            "FROM (VALUES (1)) AS one LEFT JOIN LATERAL (SELECT genre, embedding FROM genres "
            "WHERE genre = %(genre)s ORDER BY ingested_at DESC LIMIT 1) AS known ON TRUE "
            "WHERE known.embedding IS DISTINCT FROM %(embedding)s::real[]",
            [{"genre": genre, "embedding": vector} for genre, vector in declared.items()],
        )
        return max(cursor.rowcount, 0)

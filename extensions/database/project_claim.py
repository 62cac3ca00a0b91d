"""The claim of a database by one project; the control tables know no project.

`skewless migrate` claims. Every connection sends its project as the setting ``skewless.project``,
which triggers on the control tables compare with the claim at each write (migration 0017), and
programs check it when they start, so that a second project is told before it does anything.
"""

import psycopg

from extensions.database.connection import table_exists
from extensions.database.scalars import one_row
from extensions.errors import ConflictError

# The triggers' SQLSTATE.
FOREIGN_PROJECT = "SK001"


def claim_project(conn: psycopg.Connection, project: str) -> None:
    """Claim the database for ``project``, in the caller's transaction.

    Raises:
        ConflictError: another project holds it.
    """
    conn.execute(
        "INSERT INTO project_claim (project) VALUES (%s) ON CONFLICT DO NOTHING", [project]
    )
    check_project(conn, project)


def check_project(conn: psycopg.Connection, project: str) -> None:
    """Check that no other project has claimed the database; one without our tables is free.

    Raises:
        ConflictError: another project holds it.
    """
    if not table_exists(conn, "project_claim"):
        return
    database, owner = one_row(conn, "SELECT current_database(), claimed_project()")
    if owner is not None and owner != project:
        raise ConflictError(
            f"The database {database} belongs to the project {owner}, not to {project}: give each "
            "project a database of its own (SKEWLESS_POSTGRES_URL, or feature_store.yaml)."
        )

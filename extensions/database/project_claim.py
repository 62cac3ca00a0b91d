"""The claim of a database by one project; the control tables know no project.

`skewless migrate` claims. Every connection sends its project as the setting ``skewless.project``,
which triggers on the control tables compare with the claim at each write (migration 0017), and
programs check it when they start, so that a second project is told before it does anything.
"""

import psycopg

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
    row = conn.execute("SELECT to_regclass('project_claim') IS NOT NULL").fetchone()
    if row != (True,):
        return
    row = conn.execute("SELECT current_database(), project FROM project_claim").fetchone()
    if row is not None and row[1] != project:
        raise ConflictError(
            f"The database {row[0]} belongs to the project {row[1]}, not to {project}: give each "
            "project a database of its own (SKEWLESS_POSTGRES_URL, or feature_store.yaml)."
        )

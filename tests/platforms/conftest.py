"""The platform that ``SKEWLESS_TEST_PLATFORM`` names; the root's fixtures work for its copy."""

import pytest
from psycopg import Connection, sql

from tests.platforms.description import Platform, Rows
from tests.platforms.named import PLATFORM


@pytest.fixture(scope="session")
def platform() -> Platform:
    """The platform of this process: a process works for one repository."""
    return PLATFORM


def insert(conn: Connection, rows: Rows) -> None:
    """Store rows as they are, arrivals too; tables are named as their sources."""
    for table, lines in rows.items():
        for row in lines:
            conn.execute(
                sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, row)),
                    sql.SQL(", ").join(sql.Placeholder() * len(row)),
                ),
                [*row.values()],
            )

"""The record of looks: who asked for one entity's values, when, of which view and as of when.

The entity stands there as a keyed hash of its join keys; the secret never leaves the database.
"""

from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from extensions.errors import ConfigurationError
from extensions.explain.subject import Subject


def record_look(
    conn: psycopg.Connection, subject: Subject, by: str, as_of: datetime | None
) -> None:
    """Record a look before anything is read; ``conn``: in autocommit.

    Args:
        conn: A connection whose role may execute the function `record_entity_look`.
        subject: Whose values are looked at.
        by: Who looks.
        as_of: The time that was asked about; None: now.

    Raises:
        ConfigurationError: the database has no such record yet.
    """
    keys = {name: str(value) for name, value in subject.entity.items()}
    # Parameters, so that no key stands in the text of a statement that a server logs.
    query = sql.SQL("SELECT record_entity_look(%s, %s, %s, %s, %s)")
    try:
        conn.execute(query, [by, subject.view, subject.version, Jsonb(keys), as_of])
    except psycopg.errors.UndefinedFunction as error:
        raise ConfigurationError(
            "The database has no record of looks yet, and none is taken without it: run "
            "`skewless migrate`."
        ) from error

"""Connections to PostgreSQL with UTC sessions and errors that say what to do."""

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from extensions.addresses import project_name
from extensions.errors import SkewlessError, UnavailableError

if TYPE_CHECKING:
    from adbc_driver_postgresql import dbapi


# Seconds, where the URL does not say.
CONNECT_TIMEOUT = 5


def connect(url: str, *, autocommit: bool = False, name: str = "skewless") -> psycopg.Connection:
    """Open a connection with a UTC session; ``name`` is its application_name.

    The session says the repository's project, which `extensions.database.project_claim` compares
    with the database's claim.

    Raises:
        SkewlessError: the server cannot be reached or refuses; the message names host and
            database, never the password.
    """
    try:
        told = conninfo_to_dict(url)
        project = project_name()
        options = [str(told.get("options") or ""), "-c timezone=UTC"]
        if project:
            options.append(f"-c skewless.project={_escaped(project)}")
        return psycopg.connect(
            url,
            autocommit=autocommit,
            application_name=told.get("application_name", name),
            options=" ".join(options).strip(),
            connect_timeout=told.get("connect_timeout", CONNECT_TIMEOUT),
        )
    except psycopg.OperationalError as error:
        raise _unreachable(url, error) from error


def connect_arrow(url: str) -> "dbapi.Connection":
    """Open an ADBC connection: results and uploads are Arrow, moved by binary COPY.

    Raises:
        SkewlessError: as `connect`.
    """
    # Imports pandas, which takes a second that most connections need not wait for.
    from adbc_driver_manager import Error as AdbcError  # noqa: PLC0415

    from extensions.database.adbc_connections import arrow_connection  # noqa: PLC0415

    try:
        return arrow_connection(url)
    except (AdbcError, psycopg.OperationalError) as error:
        raise _unreachable(url, error) from error


def conninfo_of(conn: psycopg.Connection) -> str:
    """The connection's own database, as another connection's address; it holds the password."""
    told = {name: value for name, value in conn.info.get_parameters().items() if value}
    return make_conninfo(**told, password=conn.info.password or None)


def _escaped(option: str) -> str:
    """A value in libpq's ``options``, where spaces separate and a backslash escapes."""
    return option.replace("\\", "\\\\").replace(" ", "\\ ")


def _unreachable(url: str, error: Exception) -> SkewlessError:
    where = conninfo_to_dict(url)
    reason = str(error).strip().splitlines()[0].rpartition("failed: ")[2]
    if where.get("password"):
        reason = reason.replace(str(where["password"]), "…")
    return UnavailableError(
        f"PostgreSQL at {where.get('host')}:{where.get('port', 5432)}/{where.get('dbname')} "
        f"does not answer ({reason}): start it with `skewless up`, or check SKEWLESS_POSTGRES_URL."
    )


def table_exists(conn: psycopg.Connection, table: str) -> bool:
    """Whether ``table`` is visible on the session's search path."""
    row = conn.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone()
    return bool(row and row[0])


def identifiers(names: tuple[str, ...] | list[str], prefix: str | None = None) -> sql.Composed:
    """``"a", "b"``, or ``p."a", p."b"``: quoted names joined by commas."""
    parts = [sql.Identifier(prefix, name) if prefix else sql.Identifier(name) for name in names]
    return sql.SQL(", ").join(parts)

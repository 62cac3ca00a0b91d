"""A DuckDB in memory that reaches nothing but what it is given: no files, network or extensions."""

from collections.abc import Callable, Mapping

import duckdb

# What DuckDB takes for a setting.
Setting = str | bool | int | float | list[str]


def open_sandbox(
    prepare: Callable[[duckdb.DuckDBPyConnection], None],
    config: Mapping[str, Setting] | None = None,
    *,
    files: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A session whose settings can no longer be changed.

    Args:
        prepare: Makes the settings and macros that the session is to have.
        config: Of DuckDB, beside what closes it.
        files: Whether its SQL may read files.
    """
    closed: dict[str, Setting] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "allow_community_extensions": "false",
    }
    conn = duckdb.connect(":memory:", config=closed | dict(config or {}))
    prepare(conn)
    conn.execute("SET python_enable_replacements = false")
    if not files:
        conn.execute("SET enable_external_access = false")
    conn.execute("SET lock_configuration = true")
    return conn

"""The dialect: what makes DuckDB read a text that was written for PostgreSQL.

A session gets some settings and three macros, the prelude. The text itself is not rewritten: what
DuckDB computes otherwise all the same is found by asking both engines (`portability`).
"""

from hashlib import blake2b
from typing import Final

import duckdb

# `date_part` is what EXTRACT calls; the built-in stays reachable by its full name. Macros are
# untyped: typed overloads are ambiguous where an argument's type is not known yet.
PRELUDE: Final = (
    "SET TimeZone = 'UTC'",
    "SET integer_division = true",
    "SET default_null_order = 'nulls_last_on_asc_first_on_desc'",
    (
        "CREATE TEMP MACRO array_fill(filling, lengths) AS "
        "list_transform(range(lengths[1]), lambda place: filling)"
    ),
    "CREATE TEMP MACRO date_bin(stride, source, origin) AS time_bucket(stride, source, origin)",
    # PostgreSQL divides whole microseconds; DuckDB adds days and seconds as doubles.
    (
        "CREATE TEMP MACRO date_part(part, x) AS CASE lower(part) "
        "WHEN 'epoch' THEN epoch_us(x)::DOUBLE / 1e6 "
        "WHEN 'second' THEN system.main.date_part('microseconds', x)::DOUBLE / 1e6 "
        "WHEN 'seconds' THEN system.main.date_part('microseconds', x)::DOUBLE / 1e6 "
        "ELSE system.main.date_part(part, x) END"
    ),
)


def prelude_hash() -> str:
    """16 hexadecimal digits that differ when the prelude does."""
    return blake2b("\n".join(PRELUDE).encode(), digest_size=8).hexdigest()


def prepare(conn: duckdb.DuckDBPyConnection) -> None:
    """Run the prelude in a session."""
    for statement in PRELUDE:
        conn.execute(statement)


def one_zero(value: str, pg_type: str) -> str:
    """SQL of a value whose negative zeros are zeros; others of ``pg_type`` as they are.

    PostgreSQL's ``sum`` begins with the first value and DuckDB's with 0.0, so the sign of a zero
    is no part of an answer.
    """
    if pg_type in ("real", "double precision"):
        return f"CASE WHEN {value} = 0 THEN 0::{pg_type} ELSE {value} END"
    if pg_type in ("real[]", "double precision[]"):
        zero = f"0::{pg_type.removesuffix('[]')}"
        return f"list_transform({value}, lambda x: CASE WHEN x = 0 THEN {zero} ELSE x END)"
    return value

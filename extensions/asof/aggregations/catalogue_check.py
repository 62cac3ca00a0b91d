"""Comparing declared aggregations with the columns of their tables, as PostgreSQL has them."""

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import sql

from extensions.asof.aggregations.declaration import (
    AggregatedFeature,
    declared_filters,
    from_canonical,
)
from extensions.asof.aggregations.functions import FLOATS
from extensions.database.connection import identifiers
from extensions.errors import DefinitionError
from extensions.feature_types import FLOATS as FLOAT_COLUMNS
from extensions.feature_types import INTEGERS
from extensions.suggestions import did_you_mean

_NUMBERS = INTEGERS | FLOAT_COLUMNS | {"numeric"}
# Types whose text depends on nothing but the value.
_AS_TEXT = INTEGERS | {"text", "character varying", "character", "uuid", "boolean", '"char"'}
_FUNCTIONS_OF_ANY = ("count", "count_distinct", "time_since")
_IMMUTABLE = "not immutable"


def check_aggregations(conn: psycopg.Connection, computation: Any) -> None:
    """Refuse aggregations of columns that are not there or of another type than they need.

    ``computation``: one whose declaration was compiled; any other passes. Nothing is changed: what
    PostgreSQL is asked to make is rolled back.

    Raises:
        DefinitionError: one sentence for each problem.
    """
    if computation.declaration is None:
        return
    columns = _columns(conn, computation.reads[0].table)
    problems = [
        problem
        for feature in from_canonical(computation.declaration)
        for problem in _column_problems(computation, feature, columns)
    ]
    problems += [
        f"The filter {text!r} of view {computation.view} is no condition over the columns of "
        f"{computation.reads[0].table}: {problem}."
        for text in declared_filters(computation.declaration)
        if (problem := _filter_problem(conn, computation.reads[0].table, text))
    ]
    if not problems and (problem := _text_problem(conn, computation)):
        problems = [f"The aggregations of view {computation.view} cannot be computed: {problem}."]
    if problems:
        raise DefinitionError(" ".join(problems))


def _column_problems(
    computation: Any, feature: AggregatedFeature, columns: Mapping[str, str]
) -> Iterator[str]:
    what, table = f"{computation.view}:{feature.name}", computation.reads[0].table
    if not feature.column:
        return
    if feature.column not in columns:
        yield (
            f"The aggregation {what} names the column {feature.column}, which {table} does not "
            f"have (there are {', '.join(columns)}).{did_you_mean(feature.column, columns)}"
        )
        return
    kind = columns[feature.column]
    if feature.function in _FUNCTIONS_OF_ANY:
        return
    wanted, advice = _wanted(feature)
    if kind not in wanted:
        yield (
            f"The aggregation {what} is a {feature.function} of {table}.{feature.column}, which "
            f"is {kind}: {advice}."
        )


def _wanted(feature: AggregatedFeature) -> tuple[frozenset[str], str]:
    """The column types from which the feature can be made exactly, and what to do about others."""
    if feature.type_name == "INT32":
        return INTEGERS - {"bigint"}, "take Int64, or a column of whole numbers of 32 bits"
    if feature.type_name == "INT64":
        return INTEGERS, "take a dtype of fractions (Float64), or a column of whole numbers"
    if feature.type_name in FLOATS:
        return _NUMBERS, "take a column of numbers"
    if feature.type_name == "BOOL":
        return frozenset({"boolean"}), "take a boolean column"
    if feature.type_name == "UNIX_TIMESTAMP":
        return frozenset({"timestamp with time zone"}), "take a timestamptz column"
    return _AS_TEXT, "its text depends on settings or on its type; take another column"


def _columns(conn: psycopg.Connection, table: str) -> dict[str, str]:
    return dict(
        conn.execute(
            "SELECT attname, CASE t.typtype WHEN 'e' THEN 'text' "
            "ELSE format_type(a.atttypid, NULL) END FROM pg_attribute AS a "
            "INNER JOIN pg_type AS t ON t.oid = a.atttypid WHERE a.attrelid = to_regclass(%s) "
            "AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            [sql.Identifier(table).as_string(None)],
        ).fetchall()
    )


def _filter_problem(conn: psycopg.Connection, table: str, text: str) -> str | None:
    """What PostgreSQL says against a condition as one that depends on a row alone.

    A generated column must be that, so it is asked for one.
    """
    made = sql.SQL(
        "CREATE TEMP TABLE filtered_rows (LIKE {table}) ON COMMIT DROP; "
        "ALTER TABLE filtered_rows ADD COLUMN a_row_is_kept boolean "
        "GENERATED ALWAYS AS (\n{condition}\n) STORED"
    ).format(table=sql.Identifier(table), condition=sql.SQL(text))
    problem = _tried(conn, made)
    if problem and _IMMUTABLE in problem:
        return (
            "it depends on more than the row, such as the time zone of a session (write "
            "AT TIME ZONE 'UTC')"
        )
    return problem


def _text_problem(conn: psycopg.Connection, computation: Any) -> str | None:
    """What PostgreSQL says against the text as a whole."""
    keys = zip(computation.join_keys, computation.key_types, strict=True)
    columns = [
        sql.SQL("NULL::{} AS {}").format(sql.SQL(kind), sql.Identifier(key)) for key, kind in keys
    ]
    explained = sql.SQL(
        "EXPLAIN WITH spine AS (SELECT {keys}, now() AS as_of) SELECT {columns} FROM (\n{text}\n) "
        "AS computation"
    ).format(
        keys=sql.SQL(", ").join(columns),
        columns=identifiers(computation.columns),
        text=sql.SQL(computation.sql),
    )
    return _tried(conn, explained)


def _tried(conn: psycopg.Connection, statement: sql.Composed) -> str | None:
    """PostgreSQL's objection to a statement, which is rolled back; None without one."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement)
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
        raise
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        return str(error.diag.message_primary)
    return None

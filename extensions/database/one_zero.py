"""Negative zeros become zeros on every way into a log."""

from psycopg import sql

_FLOATS = ("real", "double precision")


def one_zero(value: sql.Composable, pg_type: str) -> sql.Composable:
    """SQL of ``value`` with negative zeros made zeros, also within an array.

    Args:
        value: An expression of any type, which it keeps.
        pg_type: The type of the column that it is for; only floats have a negative zero.
    """
    element = pg_type.rstrip("[]")
    if element not in _FLOATS:
        return value
    if element == pg_type:
        return sql.SQL("CASE WHEN {0} = 0 THEN 0 ELSE {0} END").format(value)
    zero = sql.SQL(f"0::{element}")
    # -0.0 = 0.0, so that it is found and replaced, in an array of any dimensions.
    return sql.SQL("array_replace({}, {}, {})").format(value, zero, zero)

"""Join keys: how labels carry them, and when a label's key is a row's key.

One rule for training and serving: a key of a type with several spellings (Uuid, Decimal) is the
value; a key declared String is the text that PostgreSQL writes for the column, and nothing else.
So a label joins the rows that a request with the same key is served from. A label that no row
can have (3e9 for an integer column, a text that is no UUID) joins nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

from feast.types import FeastType
from psycopg import sql

from extensions.errors import InputError
from extensions.feature_types import FEATURE_TYPES, FLOATS, INTEGER_BITS, INTEGERS, TEXTS, TIMES
from extensions.stores.offline.arrow.exact_column_reading import text_form
from extensions.stores.offline.arrow.source_column_types import SourceType

# Column, label, and the column's type.
Match = Callable[[sql.Composable, sql.Composable, SourceType], sql.Composed]


def _kind(dtype: FeastType) -> str:
    return str(getattr(dtype, "name", dtype))


def matches(
    column: sql.Composable, label: sql.Composable, dtype: FeastType, held: SourceType
) -> sql.Composed:
    """Condition: the row's key is the label's. Written so that an index on the column serves.

    ``held``: the column's type.
    """
    return _MATCHES.get(_kind(dtype), _as_text)(column, label, held)


def _to_whole(column: sql.Composable, label: sql.Composable, held: SourceType) -> sql.Composed:
    if held.name in INTEGERS:
        # Of different widths, too: indexes know that, and a number beyond the column is no error.
        return _equal(column, label)
    if held.name in FLOATS:
        near = sql.SQL("{}::{}").format(label, sql.SQL(held.name))
        return sql.SQL("{} = {} AND {}::numeric = {}").format(column, near, near, label)
    if held.name in TEXTS:
        return _equal(column, sql.SQL("{}::text").format(label))
    return sql.SQL("{} = {}::numeric").format(column, label)


def _as_text(column: sql.Composable, label: sql.Composable, held: SourceType) -> sql.Composed:
    if held.name in ("text", "character varying", "name"):
        return _equal(column, label)
    if held.name == "bpchar":  # padding does not count
        return sql.SQL("{} = {}::bpchar").format(column, label)
    same_text = sql.SQL("{} = {}").format(text_form(column, held), label)
    if not held.comparable or held.element is not None:
        return same_text
    # The first condition is for the index, the second for one spelling.
    return sql.SQL("{} = {} AND {}").format(column, _valid(label, held.name), same_text)


def _to_float(column: sql.Composable, label: sql.Composable, held: SourceType) -> sql.Composed:
    if held.name in INTEGERS:
        return _equal(column, _whole_float(label, held.name))
    if held.name == "numeric":
        return sql.SQL("{}::double precision = {}").format(column, label)
    return _equal(column, label)


def _to_uuid(column: sql.Composable, label: sql.Composable, held: SourceType) -> sql.Composed:
    if held.name == "uuid":
        return _equal(column, _valid(label, "uuid"))
    return sql.SQL("{} = ANY({})").format(column, _spellings(label))


def _to_decimal(column: sql.Composable, label: sql.Composable, held: SourceType) -> sql.Composed:
    number = _valid(label, "numeric")
    if held.name in INTEGERS:
        return _equal(column, _whole(number, held.name))
    if held.name == "numeric":
        return _equal(column, number)
    return sql.SQL("{} = {}").format(_valid(column, "numeric"), number)


def _to_time(column: sql.Composable, label: sql.Composable, held: SourceType) -> sql.Composed:
    if held.name == "timestamp with time zone":
        return _equal(column, label)
    # Exact in a session that speaks UTC; of a date, only its first instant.
    return sql.SQL("{} = {}::timestamp without time zone").format(column, label)


def _to_same(column: sql.Composable, label: sql.Composable, _held: SourceType) -> sql.Composed:
    return _equal(column, label)


def _equal(column: sql.Composable, label: sql.Composable) -> sql.Composed:
    return sql.SQL("{} = {}").format(column, label)


def _valid(text: sql.Composable, kind: str) -> sql.Composed:
    """The text as a value of ``kind``; null where it is none."""
    return sql.SQL("CASE WHEN pg_input_is_valid({text}, {name}) THEN {text}::{kind} END").format(
        text=text, name=sql.Literal(kind), kind=sql.SQL(kind)
    )


def _whole(number: sql.Composable, kind: str) -> sql.Composed:
    """A number as a whole one of ``kind``; null where it has a fraction or is too large."""
    bits = INTEGER_BITS[kind]
    return sql.SQL(
        "CASE WHEN {number}::numeric = trunc({number}::numeric) "
        "AND {number}::numeric BETWEEN {least} AND {most} THEN {number}::numeric::{kind} END"
    ).format(
        number=number,
        least=sql.Literal(-(2**bits)),
        most=sql.Literal(2**bits - 1),
        kind=sql.SQL(kind),
    )


def _whole_float(number: sql.Composable, kind: str) -> sql.Composed:
    """As `_whole`, of a float: as a numeric it would be rounded to 15 digits."""
    bits = INTEGER_BITS[kind]
    return sql.SQL(
        "CASE WHEN {number} = trunc({number}) AND {number} >= {least}::double precision "
        "AND {number} < {end}::double precision THEN {number}::{kind} END"
    ).format(
        number=number,
        least=sql.Literal(-(2**bits)),
        end=sql.Literal(2**bits),
        kind=sql.SQL(kind),
    )


def _spellings(label: sql.Composable) -> sql.Composed:
    """The ways in which a text column may spell a UUID; the label comes in the first of them."""
    bare = sql.SQL("replace({}, '-', '')").format(label)
    return sql.SQL(
        "ARRAY[{label}, upper({label}), {bare}, upper({bare}), "
        "'{{' || {label} || '}}', '{{' || upper({label}) || '}}']"
    ).format(label=label, bare=bare)


# By the declared type; any other is compared as text.
_MATCHES: Mapping[str, Match] = {
    "INT32": _to_whole,
    "INT64": _to_whole,
    "FLOAT32": _to_float,
    "FLOAT64": _to_float,
    "BOOL": _to_same,
    "BYTES": _to_same,
    "UNIX_TIMESTAMP": _to_time,
    "UUID": _to_uuid,
    "TIME_UUID": _to_uuid,
    "DECIMAL": _to_decimal,
}


# --- labels that a query returns ---------------------------------------------------------------


def key_of_query(
    value: sql.Composable, dtype: FeastType, held: SourceType, name: str
) -> sql.Composable:
    """A query's column as the key that it must be; null where a value is none.

    Raises:
        InputError: no value of the column's type can be such a key.
    """
    kind = _kind(dtype)
    known = FEATURE_TYPES.get(kind)
    # The type in which the labels' temporary table holds the key: it may hold what is no UUID.
    wanted = (known and known.postgres) or "text"
    if kind == "UUID":
        wanted = "text"
    if not _admitted(kind, held):
        raise InputError(
            f"The key {name} must be {dtype}, as its entity says; the labels' query has "
            f"{held.name}."
        )
    if kind in ("INT32", "INT64") and held.name != wanted:
        return (_whole_float if held.name in FLOATS else _whole)(value, wanted)
    if kind in ("UUID", "TIME_UUID") and held.name in TEXTS:
        uuid = _valid(text_form(value, held), "uuid")
        return sql.SQL("coalesce(({})::text, {}::text)").format(uuid, value)
    if wanted == "text" and held.name != "bpchar":
        return text_form(value, held)
    return sql.SQL("{}::{}").format(value, sql.SQL(wanted))


# Keys that are read from the columns that a feature of their type is read from.
_AS_COLUMNS = ("BOOL", "BYTES", "UUID", "TIME_UUID", "DECIMAL")


def _admitted(kind: str, held: SourceType) -> bool:
    numbers = INTEGERS | FLOATS | {"numeric"}
    admitted: Mapping[str, Any] = {
        **{name: FEATURE_TYPES[name].exact_from for name in _AS_COLUMNS},
        "INT32": numbers,
        "INT64": numbers,
        "FLOAT32": FLOATS,
        "FLOAT64": FLOATS | {"numeric"} | INTEGERS - {"bigint"},
        "UNIX_TIMESTAMP": TIMES,
    }
    if kind in admitted:
        return held.name in admitted[kind]
    # A whole number is written in one way alone; other numbers are not.
    return held.name not in FLOATS | {"numeric", "boolean"} and held.element is None

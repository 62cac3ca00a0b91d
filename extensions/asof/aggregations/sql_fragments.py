"""Pieces of SQL text that the compiler puts together: names, literals, intervals, layout."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
# PostgreSQL 18's reserved key words (appendix C), which cannot name a table without quotes.
_RESERVED = frozenset({
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric",
    "authorization", "binary", "both", "case", "cast", "check", "collate", "collation", "column",
    "concurrently", "constraint", "create", "cross", "current_catalog", "current_date",
    "current_role", "current_schema", "current_time", "current_timestamp", "current_user",
    "default", "deferrable", "desc", "distinct", "do", "else", "end", "except", "false", "fetch",
    "for", "foreign", "freeze", "from", "full", "grant", "group", "having", "ilike", "in",
    "initially", "inner", "intersect", "into", "is", "isnull", "join", "lateral", "leading",
    "left", "like", "limit", "localtime", "localtimestamp", "natural", "not", "notnull", "null",
    "offset", "on", "only", "or", "order", "outer", "overlaps", "placing", "primary",
    "references", "returning", "right", "select", "session_user", "similar", "some", "symmetric",
    "system_user", "table", "tablesample", "then", "to", "trailing", "true", "union", "unique",
    "user", "using", "variadic", "verbose", "when", "where", "window", "with",
})  # fmt: skip
# Below it a value counts as zero where dividing or rounding it would underflow, an error in
# PostgreSQL: the smallest normal number of 32 bits, and one of 64 bits with room to be divided.
_SMALLEST_SINGLE = "1.1754943508222875e-38"
_SMALLEST_DIVIDED = "1e-280"

INDENT = "    "


def name(identifier: str) -> str:
    """An identifier, quoted where it must be."""
    if _PLAIN_NAME.fullmatch(identifier) and identifier not in _RESERVED:
        return identifier
    return '"' + identifier.replace('"', '""') + '"'


def interval(duration: timedelta) -> str:
    """An interval in hours, minutes or seconds: a day's length depends on a session's time zone."""
    seconds = int(duration.total_seconds())
    for size, unit in ((3_600, "hours"), (60, "minutes"), (1, "seconds")):
        if seconds % size == 0:
            return f"interval '{seconds // size} {unit}'"
    raise AssertionError(duration)


def literal(value: Any, pg_type: str) -> str:
    """A default as a typed literal; times are seconds since 1970."""
    if pg_type.endswith("[]"):
        element = pg_type.removesuffix("[]")
        inner = ", ".join(literal(each, element).partition("::")[0] for each in value)
        return f"ARRAY[{inner}]::{pg_type}"
    if pg_type == "boolean":
        return "TRUE" if value else "FALSE"
    if pg_type == "timestamptz":
        return f"timestamptz '{datetime.fromtimestamp(value, tz=UTC).isoformat(sep=' ')}'"
    if isinstance(value, str):
        quoted = value.replace("'", "''")
        return f"'{quoted}'::{pg_type}"
    text = repr(value)
    if text in ("inf", "-inf"):
        text = "'Infinity'" if value > 0 else "'-Infinity'"
    return f"{text}::{pg_type}"


def divided(value: str, by: str) -> str:
    """A double divided by a whole number."""
    return f"CASE WHEN abs({value}) < {_SMALLEST_DIVIDED} THEN 0 ELSE {value} / {by} END"


def single(value: str) -> str:
    """A double rounded to 32 bits."""
    return f"CASE WHEN abs({value}) < {_SMALLEST_SINGLE} THEN 0 ELSE {value} END::real"


def indented(lines: Sequence[str], depth: int = 1) -> list[str]:
    """The lines, further in."""
    return [INDENT * depth + line if line else line for line in lines]


def conditions(keyword: str, parts: Sequence[str]) -> list[str]:
    """``WHERE`` and its conditions, one to a line."""
    first, *others = parts
    return [keyword, INDENT + first, *(f"{INDENT}AND {part}" for part in others)]


def listed(items: Sequence[Sequence[str]]) -> list[str]:
    """Expressions of a select list, each of one or more lines, with commas between."""
    lines: list[str] = []
    for i, item in enumerate(items):
        *head, last = item
        lines += [*head, last + ("," if i + 1 < len(items) else "")]
    return lines

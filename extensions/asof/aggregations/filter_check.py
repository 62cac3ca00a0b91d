"""Filters of aggregations: a condition over one row's own columns, checked without a database.

What PostgreSQL alone can tell (columns, types, functions that are not immutable) is checked by
`catalogue_check` when a plan is made.
"""

from extensions.asof.sql_normalization import scan

# Other relations, clocks and chance; the catalogue knows the rest.
_FORBIDDEN = frozenset({
    "select", "with", "insert", "update", "delete", "over", "spine", "now", "current_timestamp",
    "current_date", "current_time", "localtime", "localtimestamp", "clock_timestamp",
    "statement_timestamp", "transaction_timestamp", "timeofday", "random",
})  # fmt: skip
_PAIRS = {")": "(", "]": "["}


def filter_problem(text: str) -> str | None:
    """What keeps ``text`` from being one condition over a row's columns; None if nothing does."""
    open_brackets: list[str] = []
    words = 0
    for kind, part in scan(text):
        words += kind != "gap"
        if kind == "comment" or (kind == "gap" and part.startswith("--")):
            return "has a comment"
        if kind == "word" and part.lower() in _FORBIDDEN:
            return f"says {part}, and may only look at the row's own columns"
        if part in (";", "$", "'", '"', "\\"):
            return f"has a {part} that does not belong to a condition"
        if part in "([":
            open_brackets.append(part)
        elif part in _PAIRS and (not open_brackets or open_brackets.pop() != _PAIRS[part]):
            return f"closes a {part} that was not opened"
    if open_brackets:
        return f"does not close a {open_brackets[-1]}"
    return None if words else "is empty"

"""Fragments of HTML for notebooks (`_repr_html_`): short, escaped, without a style sheet.

A notebook calls `_repr_html_` whenever a cell ends with an object, so a fragment must be made
from what the object holds in memory: no query, no file, no loop over rows.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from extensions.reports.html import Markup, element, table

# Of a longer list only so many entries are shown, and how many more there are.
MOST_ROWS = 20
MOST_NAMES = 12
MOST_CHARACTERS = 200


def block(title: str, *parts: Markup) -> str:
    """A titled fragment, for `_repr_html_` to return."""
    return str(element("div", element("strong", title), *parts))


def bounded_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markup:
    """The first `MOST_ROWS` rows, and how many more there are."""
    cells = ([_cell(value) for value in row] for row in islice(rows, MOST_ROWS))
    shown = table(caption, columns, cells)
    more = len(rows) - MOST_ROWS
    return shown + element("p", f"… and {more:,} more") if more > 0 else shown


def names(of: Iterable[str], number_of: int) -> str:
    """The first `MOST_NAMES` of ``number_of`` names, and how many more there are."""
    listed = ", ".join(shortened(name) for name in islice(of, MOST_NAMES))
    more = number_of - MOST_NAMES
    return f"{listed} … and {more:,} more" if more > 0 else listed


def shortened(text: str) -> str:
    """At most `MOST_CHARACTERS` of a text."""
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def _cell(value: Any) -> Any:
    return value if isinstance(value, Markup) else shortened(str(value))

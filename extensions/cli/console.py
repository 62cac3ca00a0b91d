"""What people and programs read: tables and bars for the one, JSON for the other."""

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from extensions.errors import InputError, SkewlessError
from extensions.failure_classification import first_line, of_a_server
from extensions.timestamps import NotATimestampError, parse_timestamp
from extensions.value_text import printable, value_text

# Figures go to standard output; what happens meanwhile goes to standard error.
out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

# Integers that are counts; others may be identifiers, which nobody wants with separators.
_COUNTS = frozenset(
    {
        "backfilled", "compared", "dead_letters", "duplicates", "entities", "equal", "events",
        "features", "lag_records", "log_rows", "published", "read", "records", "rejected",
        "removed", "replayed", "requests", "retries", "rows", "steps", "stored", "written",
    }
)  # fmt: skip
_MOST_LINES_IN_A_CELL = 3
_NUMBER = re.compile(r"[-\d.,]+|–")


# Rows of a table; further ones begin another one below.
ROWS_OF_A_TABLE = 10_000


def emit(rows: Iterable[Any], as_json: bool) -> None:
    """Print frozen values or mappings, all of one shape: as tables or records, or as JSON.

    A table that does not fit the terminal without breaking words, hashes or paths is printed as
    records: a block of lines for each row. Rows are printed as they come: however many there
    are, some thousands are in memory.
    """
    records = map(_record, rows)
    if as_json:
        separator = "["
        for record in records:
            sys.stdout.write(separator + json.dumps(record, default=_plain))
            separator = ", "
        print("[]" if separator == "[" else "]")  # noqa: T201
        return
    while part := list(islice(records, ROWS_OF_A_TABLE)):
        print_rows([{k: _cell(k, value) for k, value in each.items()} for each in part])


def print_json(content: Any) -> None:
    """Print JSON: times as ISO 8601, what JSON does not know as text."""
    print(json.dumps(content, default=_plain))  # noqa: T201


def print_rows(rows: list[dict[str, str]]) -> None:
    """Print rows of texts as a table, or as records where a table does not fit."""
    for shown in (rows, [{k: _broken(v) for k, v in row.items()} for row in rows]):
        if (widths := _widths(shown)) is not None:
            table = Table(
                box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
            )
            for column, width in widths.items():
                numeric = all(_NUMBER.fullmatch(row[column]) for row in shown)
                table.add_column(
                    _title(column), width=width, justify="right" if numeric else "left"
                )
            for row in shown:
                # Values may hold anything, square brackets as well.
                table.add_row(*(escape(row[column]) for column in widths))
            out.print(table, highlight=False)
            return
    for i, row in enumerate(rows):
        if i:
            line("")
        print_record(row)


def print_record(values: Mapping[str, str], indent: str = "") -> None:
    """Print one value a line after its name; a long text is wrapped, a long word is not broken."""
    label = max((len(_title(name)) for name in values), default=0) + 2
    for name, value in values.items():
        head = f"{indent}{_title(name):<{label}}"
        for text in value.splitlines() or [""]:
            room = out.width - len(head)
            first = text.split(" ", 1)[0]
            if len(first) > room and len(head) > len(indent) + 2:
                line(head.rstrip())
                head = f"{indent}  "
            wrapped(text, head)
            head = " " * len(head)


def wrapped(
    text: str, head: str = "", *, hanging: str | None = None, console: Console = out
) -> None:
    """Print a text within the terminal's width, its later lines under its beginning."""
    lines = textwrap.wrap(
        text, max(console.width, len(head) + 20), initial_indent=head,
        subsequent_indent=" " * len(head) if hanging is None else hanging,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    for each in lines or [head]:
        line(each, console=console)


def print_checks(findings: Iterable[Any]) -> None:
    """Print what was examined, with a mark; under it, what to do where it is not well."""
    for each in findings:
        wrapped(f"{value_text(each.ok)} {each.what}: {each.found}", "", hanging="  ")
        if each.advice and not each.ok:
            wrapped(each.advice, "  → ")


def line(text: str, *, style: str | None = None, console: Console = out) -> None:
    """Print one line as it is: no markup, no wrapping."""
    console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


def _widths(rows: list[dict[str, str]]) -> dict[str, int] | None:
    """A width for each column such that no word is broken; None where the table is too wide."""
    natural, least = {}, {}
    for column in rows[0]:
        cells = [_title(column), *(row[column] for row in rows)]
        natural[column] = max(cell_len(each) for cell in cells for each in cell.split("\n"))
        least[column] = max(cell_len(word) for cell in cells for word in cell.split() or [""])
    room = out.width - 2 * (len(natural) - 1)
    if sum(least.values()) > room:
        return None
    while sum(natural.values()) > room:
        widest = max((c for c in natural if natural[c] > least[c]), key=lambda c: natural[c])
        natural[widest] -= 1
    tallest = max(
        sum(len(textwrap.wrap(each, natural[column])) for each in row[column].split("\n"))
        for row in rows
        for column in natural
    )
    return natural if tallest <= _MOST_LINES_IN_A_CELL else None


def _broken(text: str) -> str:
    """``view:feature`` on two lines."""
    view, colon, feature = text.partition(":")
    plain = colon and view.isidentifier() and feature.isidentifier()
    return f"{view}:\n{feature}" if plain else text


def _title(name: str) -> str:
    return name.replace("_", " ")


# PostgreSQL's SQLSTATE of a table that does not exist.
UNDEFINED_TABLE = "42P01"


def server_failure(error: BaseException) -> str | None:
    """What a person is told of a server's failure; None where the error is no server's."""
    if not of_a_server(error):
        return None
    if getattr(error, "sqlstate", None) == UNDEFINED_TABLE:
        table = str(error).partition('"')[2].partition('"')[0]
        return f"The table {table} is not there: run `skewless migrate` first."
    if isinstance(error, MemoryError):
        return "The memory is used up: ask for less at a time, or allow this program more."
    return f"A server failed ({first_line(error)}): run `skewless doctor`, then try again."


def goes_on_after(error: BaseException) -> bool:
    """Whether a loop that runs until it is stopped tries again: all but mistakes of ours."""
    return isinstance(error, SkewlessError) or of_a_server(error)


def _record(row: Any) -> Mapping[str, Any]:
    return asdict(row) if is_dataclass(row) and not isinstance(row, type) else row


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _cell(name: str, value: Any) -> str:
    """Counts have thousands separators; identifiers, offsets and versions do not."""
    if isinstance(value, int) and not isinstance(value, bool) and name in _COUNTS:
        return f"{value:,}"
    return value_text(value)


def moment(text: str | None, option: str) -> datetime | None:
    """The time that an option gives, in UTC; None where it is not given.

    Raises:
        InputError: it is no time.
    """
    if text is None:
        return None
    try:
        return parse_timestamp(text)
    except NotATimestampError as error:
        raise InputError(f"{option} must be {error}.") from error

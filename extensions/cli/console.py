"""What people and programs read: tables and bars for the one, JSON for the other."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from extensions.errors import InputError, SkewlessError
from extensions.failure_classification import first_line, of_a_server
from extensions.timestamps import NotATimestampError, parse_timestamp

# Figures go to standard output; what happens meanwhile goes to standard error.
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def emit(rows: list[Any], as_json: bool) -> None:
    """Print frozen values or mappings, all of one shape: a table, or a JSON array."""
    records = [_record(row) for row in rows]
    if as_json:
        print(json.dumps(records, default=_plain))  # noqa: T201
        return
    if not records:
        return
    table = Table()
    for column in records[0]:
        table.add_column(column.replace("_", " "))
    for record in records:
        # Values may hold anything, square brackets as well.
        table.add_row(*(escape(_cell(value)) for value in record.values()))
    out.print(table)


def server_failure(error: BaseException) -> str | None:
    """What a person is told of a server's failure; None where the error is no server's."""
    if not of_a_server(error):
        return None
    if isinstance(error, psycopg.errors.UndefinedTable):
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


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


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

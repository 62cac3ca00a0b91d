"""Rows from decoded fields: a function compiled for the stream's columns and policies.

The function is Python source that is put together once per stream, as ``dataclasses`` does for
``__init__``: a loop over columns with a call for each took twice as long as the decoder that knew
its six fields by heart. Nothing of a message enters the source, and names only as literals.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from extensions.errors import DefinitionError
from extensions.sources import Column, EventStream
from extensions.sources.type_modifiers import (
    LONGEST_KEYS,
    longest_text,
    time_digits,
    too_long_for_an_index,
)
from streaming.decoding.column_values import (
    INTEGERS,
    TEXTS,
    TIMESTAMPS,
    converter,
    exact_time,
)
from streaming.decoding.epochs import EpochTime, absurd, looks_like, timestamp_reader
from streaming.decoding.json_format import name_of
from streaming.kafka.message_decoder import Message, Reason, RejectedError

_MICROSECONDS = 6
Row = tuple[Any, ...]
# (fields, message, now, time of the change or None) to a row.
Build = Callable[[Mapping[str, Any], Message, datetime, EpochTime | None], Row]


@dataclass(frozen=True)
class FieldColumn:
    """A column and the message field that it is read from; ``path``: a nested field's steps."""

    column: Column
    field: str
    path: tuple[str, ...]


def columns_of(stream: EventStream, *, deleted_field: str | None = None) -> tuple[FieldColumn, ...]:
    """The columns that the stream writes, each with its field.

    Args:
        stream: The declared stream.
        deleted_field: Where the envelope says that a row ends its entity's value.

    Raises:
        DefinitionError: two fields are mapped to one column.
    """
    table = stream.table
    mapped: dict[str, str] = {}
    for field, column in stream.field_mapping.items():
        if column in mapped:
            raise DefinitionError(
                f"The stream {stream.name} maps {mapped[column]} and {field} to the column "
                f"{column}: keep one of them, or choose by a function (tag convert)."
            )
        mapped[column] = field
    if deleted_field and table.deleted:
        mapped.setdefault(table.deleted, deleted_field)
    # As in the import: the store's clock is the arrival.
    arrival = table.arrival if table.has_arrival else None
    found = []
    for each in table.written:
        if each.name != arrival:
            name = mapped.get(each.name, each.name)
            found.append(FieldColumn(each, name, tuple(name.split("."))))
    return tuple(found)


def row_builder(
    stream: EventStream,
    columns: Iterable[FieldColumn],
    *,
    inexact: bool = False,
    deleting: bool = False,
) -> Build:
    """Compile the function that makes a row.

    Args:
        stream: The declared stream.
        columns: Of `columns_of`.
        inexact: Numbers come from a JSON reader that makes floats of long integers.
        deleting: Rows that end a value: what the source no longer tells is null.
    """
    table, lines = stream.table, []
    names: dict[str, Any] = {"nested": nested, "RejectedError": RejectedError}
    # The values' names with their fields: of the entities' keys, and of the row's id.
    indexed: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for number, (column, field, path) in enumerate(
        (each.column, each.field, each.path) for each in columns
    ):
        value = f"v{number}"
        if len(path) == 1:
            lines.append(f"{value} = get({field!r})")
        else:
            lines.append(f"{value} = nested(fields, {field!r}, {path!r})")
        for texts, named in zip(indexed, (table.keys, (table.id,)), strict=True):
            if column.pg_type in TEXTS and column.name in named:
                texts[value] = field
        if column.name == table.time:
            names[f"c{number}"] = _event_time(stream, column, field)
            lines += _quick_time(stream, column, value, f"c{number}", names)
            continue
        names[f"c{number}"] = converter(
            field,
            column,
            identifier=column.name in table.keys or column.name == table.id,
            coerce=stream.coerce,
            unit=(stream.time_units or {}).get(column.name, "iso"),
            inexact=inexact,
        )
        names[f"a{number}"] = _absent(stream, column, field, deleting=deleting)
        if quick := _as_it_is(column, value, unicode=inexact):
            lines += [f"if {quick}: pass", f"elif {value} is None: {value} = a{number}(message)"]
        else:
            lines.append(f"if {value} is None: {value} = a{number}(message)")
        lines.append(f"else: {value} = c{number}({value})")
    for check, texts in zip(("check_keys", "check_id"), indexed, strict=True):
        lines += _bounded(texts, check, names)
    row = "".join(f"v{number}, " for number, _ in enumerate(columns))
    source = "\n    ".join(
        ["def build(fields, message, now, at=None):", "get = fields.get", *lines, f"return ({row})"]
    )
    exec(source, names)  # noqa: S102 - put together above, of the declaration alone
    build: Build = names["build"]
    return build


def _bounded(texts: Mapping[str, str], name: str, names: dict[str, Any]) -> list[str]:
    """The lines that refuse texts that one index cannot hold together.

    Args:
        texts: The values' names, with their fields.
        name: Of the function that checks them.
        names: The source's, to which the function is added.
    """
    if not texts:
        return []
    why = too_long_for_an_index(list(texts.values()))

    def check(*keys: str | None) -> None:
        if sum(len(key.encode()) for key in keys if key is not None) > LONGEST_KEYS:
            raise RejectedError(Reason.OUT_OF_RANGE, why)

    names[name] = check
    # No character takes more than four bytes.
    lengths = " + ".join(f"len({text} or '')" for text in texts)
    return [f"if {lengths} > {LONGEST_KEYS // 4}: {name}({', '.join(texts)})"]


def _quick_time(
    stream: EventStream, column: Column, value: str, event_time: str, names: dict[str, Any]
) -> list[str]:
    """The event time's lines: UTC text within its bounds here, all else by the function."""
    call = f"{value} = {event_time}(given, message, now, at)"
    if column.pg_type != "timestamp with time zone" or time_digits(column) != _MICROSECONDS:
        return [f"given = {value}", call]
    names |= {
        "parse": datetime.fromisoformat, "UTC": UTC, "oldest": stream.table.oldest,
        "ahead": stream.max_future, "late": stream.max_lateness,
    }  # fmt: skip
    late = "" if stream.max_lateness is None else f" or now - {value} > late"
    return [
        f"given, {value} = {value}, None",
        "if type(given) is str:",
        f"    try: {value} = parse(given)",
        "    except ValueError: pass",
        (
            f"if {value} is None or {value}.tzinfo is not UTC "
            f"or not oldest <= {value} <= now + ahead{late}:"
        ),
        f"    {call}",
    ]


def _as_it_is(column: Column, value: str, *, unicode: bool) -> str | None:
    """A condition under which the value is the column's already; what it misses is converted.

    ``unicode``: texts come from a reader that makes no halves of surrogate pairs.
    """
    if column.pg_type in INTEGERS:
        bound = INTEGERS[column.pg_type]
        return f"type({value}) is int and -{bound} <= {value} < {bound}"
    if column.pg_type in ("real", "double precision"):
        return f"type({value}) is float and -9e18 < {value} < 9e18"
    if column.pg_type in TEXTS:
        ascii_ = "" if unicode else f"{value}.isascii() and "
        limit = longest_text(column)
        if limit is not None and limit[1] == "bytes":
            return None
        short = "" if limit is None else f"len({value}) <= {limit[0]} and "
        return f"type({value}) is str and {short}{ascii_}'\\0' not in {value}"
    return None


def nested(fields: Mapping[str, Any], field: str, path: tuple[str, ...]) -> Any:
    """The value of a nested field; None where a step is missing. A name with dots is itself."""
    value: Any = fields
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
        if value is None:
            return fields.get(field)
    return value


def _absent(
    stream: EventStream, column: Column, field: str, *, deleting: bool
) -> Callable[[Message], Any]:
    """What a column gets whose field is missing or null."""

    def refuse(message: Message) -> Any:  # noqa: ARG001
        raise RejectedError(Reason.MISSING_FIELD, f"{field} is missing")

    strict = stream.missing == "dead-letter" and not deleting
    if column.name in stream.table.keys:
        return refuse
    if column.name == stream.table.id and column.pg_type in TEXTS and not strict:
        return lambda message: message.position
    if column.required or strict:
        return refuse
    return lambda _: None


def _event_time(
    stream: EventStream, column: Column, field: str
) -> Callable[[Any, Message, datetime, EpochTime | None], datetime]:
    """The event time: of the field, else of the change, else of the record; within its bounds."""
    unit = (stream.time_units or {}).get(column.name, "iso")
    assert column.pg_type in TIMESTAMPS or column.pg_type == "date"
    zoned = column.pg_type == "timestamp with time zone"
    read = exact_time(field, column, timestamp_reader(field, unit, zone_required=zoned))
    strict = stream.missing == "dead-letter"
    oldest, ahead, late = stream.table.oldest, stream.max_future, stream.max_lateness

    def event_time(value: Any, message: Message, now: datetime, at: EpochTime | None) -> datetime:
        if value is None:
            value = at
            if value is None:
                if strict:
                    raise RejectedError(Reason.MISSING_FIELD, f"{field} is missing")
                value = EpochTime(message.timestamp_ms, "ms")
        found = read(value)
        if found > now + ahead or found < oldest:
            raise _out_of_bounds(field, value, unit, oldest, now + ahead, found)
        if late is not None and now - found > late:
            raise RejectedError(Reason.TOO_LATE, f"{field} is older than events may be on arrival")
        return found

    if zoned:
        return event_time
    if column.pg_type == "date":
        return lambda value, message, now, at: event_time(value, message, now, at).date()  # type: ignore[return-value]
    return lambda value, message, now, at: event_time(value, message, now, at).replace(tzinfo=None)


def _out_of_bounds(
    field: str, value: Any, unit: str, oldest: datetime, latest: datetime, found: datetime
) -> RejectedError:
    """Why an event time is refused: most of all, because it is one in another unit."""
    count, declared = (value.number, value.unit) if isinstance(value, EpochTime) else (value, unit)
    if declared != "iso" and isinstance(count, int):
        # What is a time of the last years in another unit, or of the next days.
        other = looks_like(count, declared, oldest, latest + timedelta(days=1))
        if other:
            return absurd(field, declared, other)
    if found > latest:
        return RejectedError(Reason.IN_THE_FUTURE, f"{field} lies ahead of the store's clock")
    return RejectedError(Reason.TOO_OLD, f"{field} lies before {oldest:%Y-%m-%d}")


class KnownFields:
    """The names of fields that have a column; others are refused, where the stream says so."""

    def __init__(self, columns: Iterable[FieldColumn], prefix: str | None) -> None:
        self._tree: dict[str, Any] = {}
        self._whole: set[str] = set()
        self._prefix = prefix
        for each in columns:
            self._whole.add(each.field)
            node = self._tree
            for step in each.path[:-1]:
                node = node.setdefault(step, {})
            node.setdefault(each.path[-1], None)

    def check(self, fields: Mapping[str, Any]) -> None:
        """Refuse a message that has a field without a column.

        Raises:
            RejectedError: with the first such field's name.
        """
        unknown = self._unknown(fields, self._tree, "")
        if unknown is not None:
            raise RejectedError(Reason.UNKNOWN_FIELD, f"{name_of(unknown)} has no column")

    def _unknown(self, fields: Mapping[str, Any], tree: Mapping[str, Any], path: str) -> str | None:
        for name, value in fields.items():
            whole = f"{path}{name}"
            if whole in self._whole or (
                not path and self._prefix is not None and name.startswith(self._prefix)
            ):
                continue
            if name not in tree:
                return whole
            inner = tree[name]
            if inner is not None and isinstance(value, Mapping):
                found = self._unknown(value, inner, whole + ".")
                if found is not None:
                    return found
        return None

"""What each column of a table is made of: a column of the file, an expression, a constant."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from extensions.errors import InputError
from extensions.history.column_types import INTEGER_LIMITS, TEXTS
from extensions.history.csv_records import IsRow
from extensions.history.file_expressions import columns_of
from extensions.history.value_conversion import DURATION_UNITS, duration_unit, value_test
from extensions.sources import Column, HistoryTable
from extensions.suggestions import did_you_mean

# A mapping's text that can only be meant as the name of a column.
_NAME = re.compile(r"[A-Za-z_]\w*|\d+")
_WORDS = {"true", "false", "null", "current_date", "current_timestamp"}


@dataclass(frozen=True)
class FileColumn:
    """A column of the file; numbers are multiplied by ``scale``."""

    place: int
    name: str
    scale: float = 1.0

    def __str__(self) -> str:
        times = f" × {self.scale:g}" if self.scale != 1 else ""
        return f"the file's column {self.name}{times}"


@dataclass(frozen=True)
class Expression:
    """SQL over the file's columns."""

    text: str

    def __str__(self) -> str:
        return f"the expression {self.text}"


@dataclass(frozen=True)
class Constant:
    """The same text for each row, read as the file's would be."""

    text: str

    def __str__(self) -> str:
        return f"the constant {self.text!r}"


Origin = FileColumn | Expression | Constant


@dataclass(frozen=True)
class ColumnPlan:
    """Where the columns of a table come from; those that are not named take their defaults."""

    table: HistoryTable
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def is_row(self, accept: Mapping[str, Callable[[str], bool]]) -> IsRow | None:
        """Tells a line that is a row of the file; ``accept`` has tests that replace a type's own.

        Text may happen to have as many delimiters, and a number between two of them; that most
        of the places have what they should is no accident. A row with a fault is one all the same.
        """
        tests = []
        for name, origin in self.origins.items():
            test = accept.get(name) or value_test(self.table.by_name[name])
            if isinstance(origin, FileColumn) and test and self.table.by_name[name].required:
                tests.append((origin.place, test))
        if not tests:
            return None

        def is_row(fields: Sequence[str], among: range) -> bool:
            fits = [test(fields[at]) for at, test in tests if at in among]
            return 2 * sum(fits) > len(fits)

        return is_row


def plan_columns(
    path: Path,
    present: Sequence[str],
    table: HistoryTable,
    *,
    mapping: Mapping[str, str],
    constants: Mapping[str, str],
    aliases: Mapping[str, str],
    first_row: Sequence[str] | None = None,
) -> ColumnPlan:
    """What each of the table's columns is made of.

    A column that neither ``mapping`` nor ``constants`` names is the file's column of its name, in
    this order: written so, in another way (``userId``, ``User ID``), as ``aliases`` say (a
    stream's name of it), or, of a column such as ``duration_ms``, in another unit.

    Raises:
        InputError: exit code 2, when a column that must be there is not, or one that is named is
            unknown, missing or ambiguous, or the names are values, so that the header is
            missing; it lists the columns that there are.
    """
    columns = {column.name: column for column in table.written}
    for option, names in (("--map", mapping), ("--set", constants)):
        for name in names:
            if name not in columns:
                raise InputError(
                    f"{option} does not know {name}: {table.table} has {', '.join(columns)}."
                    f"{did_you_mean(name, columns)}"
                )
    if both := sorted(mapping.keys() & constants.keys()):
        raise InputError(f"{both[0]} is given by --map and by --set: keep one.")
    file = _File(path, present, first_row)
    origins: dict[str, Origin] = {}
    for name, column in columns.items():
        if name in constants:
            origins[name] = Constant(constants[name])
        elif name in mapping:
            origins[name] = file.mapped(name, mapping[name])
        elif found := file.named(column, aliases):
            origins[name] = found
        elif name in table.imports and columns_of(table.imports[name]) <= set(present):
            origins[name] = Expression(table.imports[name])
        else:
            file.ask_about(column)
    _check_required(file, origins, table)
    return ColumnPlan(table, origins)


class _File:
    """The columns of one file, and what it is called in messages."""

    def __init__(self, path: Path, present: Sequence[str], first_row: Sequence[str] | None) -> None:
        self.path, self.present, self.first_row = path, list(present), first_row

    def mapped(self, name: str, text: str) -> Origin:
        """What ``--map name=text`` means."""
        if text in self.present:
            return self._column(text)
        if _NAME.fullmatch(text) and text.lower() not in _WORDS:
            raise InputError(
                f"{self.path} has no column {text}, which --map names for {name}: {self.there()}."
            )
        return Expression(text)

    def named(self, column: Column, aliases: Mapping[str, str]) -> FileColumn | None:
        """The file's column that is meant to be the table's by its name."""
        name = column.name
        for candidates in (
            [each for each in self.present if each == name],
            [each for each in self.present if _snake(each) == name],
            [each for each in self.present if aliases.get(each) == name],
        ):
            units = self._in_other_units(column, candidates)
            if len({*candidates, *units}) > 1 and (units or len(set(candidates)) > 1):
                both = ", ".join(dict.fromkeys([*candidates, *units]))
                raise InputError(
                    f"{self.path} has more than one column for {name} ({both}): name the one to "
                    f"take with --map {name}=COLUMN."
                )
            if candidates:
                return self._column(candidates[0])
        units = self._in_other_units(column, [])
        return self._column(units[0], self._scale(name, units[0])) if units else None

    def ask_about(self, column: Column) -> None:
        """Refuse to leave a column out that the file may have under a longer name."""
        unit = duration_unit(column.name)
        stem = column.name.rpartition("_")[0]
        if unit is None or column.pg_type in TEXTS:
            return
        for each in self.present:
            theirs, _, end = _snake(each).rpartition("_")
            if end in DURATION_UNITS and theirs.endswith(f"_{stem}"):
                times = self._scale(column.name, each)
                text = f'"{each}" * {times:g}' if times != 1 else f'"{each}"'
                raise InputError(
                    f"{self.path} has no column {column.name}, but {each} may be it: "
                    f"--map '{column.name}={text}' takes it, and "
                    f"--set {column.name}=VALUE does not."
                )

    def _in_other_units(self, column: Column, besides: Sequence[str]) -> list[str]:
        """The file's columns that hold the same duration in another unit."""
        if duration_unit(column.name) is None or column.pg_type in TEXTS:
            return []
        stem = column.name.rpartition("_")[0]
        return [
            each
            for each in self.present
            if each not in besides
            and _snake(each) != column.name
            and _snake(each).rpartition("_")[0] == stem
            and _snake(each).rpartition("_")[2] in DURATION_UNITS
        ]

    def _scale(self, name: str, theirs: str) -> float:
        scale = (duration_unit(_snake(theirs)) or 1.0) / (duration_unit(name) or 1.0)
        return round(scale, 9) if scale < 1 else float(round(scale))

    def _column(self, name: str, scale: float = 1.0) -> FileColumn:
        if (times := self.present.count(name)) > 1:
            raise InputError(f"{self.path} has {times} columns called {name}: rename all but one.")
        return FileColumn(self.present.index(name), name, scale)

    def there(self) -> str:
        """What the file has, with a word on a header that is missing."""
        if self.first_row is not None:
            pairs = zip(self.present, self.first_row, strict=True)
            values = ", ".join(f"{name} ({value})" for name, value in pairs)
            return f"its columns, and their first values, are {values}"
        said = f"its columns are {', '.join(self.present)}"
        if any(_is_value(name) for name in self.present):
            said += " (if that is a row and no header, give --no-header as well)"
        return said


def _check_required(file: _File, origins: Mapping[str, Origin], table: HistoryTable) -> None:
    """Is each column there that a row must bring, by a name that is no value?"""
    required = [
        column
        for column in table.written
        if column.name != table.arrival or not table.has_arrival
        if column.required or column.name in table.keys or column.name == table.time
        if not (column.name == table.id and can_be_derived(column))
        if not (column.name not in table.keys and column.has_default)
    ]
    missing = [column.name for column in required if column.name not in origins]
    if missing:
        example = "COLUMN" if file.first_row is None else "NUMBER"
        sentence = (
            f"{file.path} has no column for {', '.join(missing)}: name it with "
            f"--map {missing[0]}={example}, or give all rows one value with "
            f"--set {missing[0]}=VALUE; {file.there()}."
        )
        if table.time in missing:
            sentence += f" Without a time ({table.time}) a row has no place in history."
        raise InputError(sentence)
    plain = {
        column.name: origin
        for column in required
        if isinstance(origin := origins[column.name], FileColumn)
    }
    if file.first_row is None and plain and _are_values(plain, table):
        name, origin = next(iter(plain.items()))
        raise InputError(
            f"The first row of {file.path} is no header but a row ({', '.join(file.present[:6])}): "
            f"import it with --no-header and name columns by their numbers, such as "
            f"--map {name}={origin.place + 1}."
        )


def can_be_derived(column: Column) -> bool:
    """Whether an id of this column's type can be made of a row's keys and time."""
    return column.pg_type in ("text", "character varying", "uuid")


def _are_values(origins: Mapping[str, FileColumn], table: HistoryTable) -> bool:
    """Are the names of these columns values of theirs? A number alone is no text."""
    for name, origin in origins.items():
        test = value_test(table.by_name[name])
        if not (test(origin.name) if test else not _is_number(origin.name)):
            return False
    return any(value_test(table.by_name[name]) for name in origins) or not any(
        _NAME.fullmatch(origin.name) for origin in origins.values()
    )


def _is_number(name: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", name.strip()) is not None


def _is_value(name: str) -> bool:
    """Is a column's name rather a number or a time?"""
    whole = value_test(Column("", next(iter(INTEGER_LIMITS))))
    time = value_test(Column("", "timestamp with time zone"))
    return any(test(name) for test in (whole, time) if test)


def _snake(name: str) -> str:
    """``userId``, ``User ID`` and ``user-id`` as ``user_id``."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\s\-.]+", "_", name.strip())
    return re.sub(r"_+", "_", parted).lower()

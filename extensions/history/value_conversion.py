"""From a file's values to a table's: whole columns at once, each bad value with its reason.

A converter takes a column as the file holds it (text, or a Parquet type) and gives the Arrow
array that the table's column takes, with null where the file has no value. What a constraint of
the table refuses is the database's to say.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from extensions.history.column_types import FLOATS, INTEGER_LIMITS, TEXTS, TIMES
from extensions.history.parsed_values import (
    NUMBER,
    Mask,
    Parsed,
    all_match,
    plain,
    problems,
    wrong_type,
)
from extensions.history.time_conversion import Times, is_time
from extensions.sources import Column
from extensions.sources.ingest import arrow_of
from extensions.sources.type_modifiers import (
    decimal_places,
    finer_than,
    fits_places,
    longest_text,
    time_digits,
    too_fine,
    too_long,
)

_INTEGER = r"^[+-]?[0-9]+(\.0*)?$"
_COMMA = r"^[+-]?[0-9]+,[0-9]+$"
_CLOCK = r"^[0-9]{1,6}:[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?$"
# A column whose name ends in one of these holds durations: how many seconds its unit is.
DURATION_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "min": 60.0, "h": 3_600.0}
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
_REPLACED = "\ufffd|\\x00"
# A number that was computed is whole if it is off by no more than rounding errors.
_WHOLE_WITHIN = 1e-9


@dataclass(frozen=True)
class Converted:
    """One column for the table, and what is wrong with which rows."""

    values: pa.Array
    problems: list[tuple[Mask, str]]


class Converter(Protocol):
    """Converts a column of a file, batch by batch."""

    def parse(self, column: pa.Array) -> Parsed:
        """The values of the table's type, and their problems."""

    def notes(self) -> list[str]:
        """What was assumed about this column, in sentences."""


def converted(
    converter: Converter, column: Column, values: pa.Array, *, required: bool
) -> Converted:
    """A batch's column, null where it is empty; that is a problem where a value is ``required``."""
    parsed = converter.parse(values)
    found = list(parsed.problems)
    if required:
        found.insert(0, (parsed.empty, f"{column.name} is empty"))
    bad = parsed.empty.copy()
    for mask, _ in found:
        bad |= mask
    wanted = arrow_of(column)
    array = parsed.values
    if isinstance(array, pa.Array):
        array = pc.if_else(pa.array(bad), pa.scalar(None, array.type), array)
    elif pa.types.is_timestamp(wanted) or pa.types.is_date(wanted):
        array = pa.array(array, pa.int64(), mask=bad).cast(pa.timestamp("us"))
        if pa.types.is_date(wanted):
            array = pc.floor_temporal(array, unit="day")
    else:
        array = pa.array(array, mask=bad)
    return Converted(array.cast(wanted), found)


def converter_of(
    column: Column,
    *,
    scale: float = 1.0,
    decimal_comma: bool = False,
    times: Times | None = None,
) -> Converter:
    """The converter for a column of a table.

    Args:
        column: The table's column.
        scale: What numbers are multiplied with, where the file has them in another unit.
        decimal_comma: Whether ``1,5`` is a number.
        times: Of a column of times, its converter.
    """
    kind = column.pg_type
    if kind in TIMES:
        return times or Times(column.name)
    if kind in INTEGER_LIMITS and scale == 1:
        return Integers(column, _Commas(column.name, decimal_comma))
    if kind in INTEGER_LIMITS or kind in FLOATS or kind == "numeric":
        return Numbers(column, _Commas(column.name, decimal_comma), scale)
    if kind == "boolean":
        return Booleans(column.name)
    if kind == "bytea":
        return Octets(column.name)
    return Texts(column)


def duration_unit(name: str) -> float | None:
    """How many seconds the unit is in which a column of this name holds durations."""
    return DURATION_UNITS.get(name.rpartition("_")[2]) if "_" in name else None


@dataclass
class _Commas:
    """Numbers that people write: decimal commas, and durations such as ``1:02:03``."""

    name: str
    accepted: bool
    _commas: int = 0
    _clocks: int = 0

    def __post_init__(self) -> None:
        self._unit = duration_unit(self.name)

    def replaced(self, column: pa.Array, *, scale: float = 1.0) -> pa.Array:
        """Texts with what is recognised written as plain numbers."""
        if self.accepted:
            comma = pc.match_substring_regex(column, _COMMA)
            if many := pc.sum(comma).as_py():
                self._commas += many
                column = pc.if_else(comma, pc.replace_substring(column, ",", "."), column)
        clock = pc.match_substring_regex(column, _CLOCK)
        if many := pc.sum(clock).as_py():
            self._clocks += many
            unit = (self._unit or 1.0) * scale
            texts = column.to_pylist()
            for place in np.flatnonzero(clock.to_numpy(zero_copy_only=False)):
                texts[place] = _plain_number(_seconds(texts[place]) / unit)
            column = pa.array(texts, pa.string())
        return column

    def from_duration(self, column: pa.Array) -> pa.Array:
        """Arrow's durations and times of day as numbers in the column's unit."""
        kind = column.type
        if kind == pa.month_day_nano_interval():
            seconds = [
                None if v is None else (v.months * 30 + v.days) * 86_400 + v.nanoseconds / 1e9
                for v in column.to_pylist()
            ]
        elif pa.types.is_duration(kind):
            seconds = [None if v is None else v.total_seconds() for v in column.to_pylist()]
        elif pa.types.is_time(kind):
            seconds = [
                None if v is None
                else v.hour * 3_600 + v.minute * 60 + v.second + v.microsecond / 1e6
                for v in column.to_pylist()
            ]  # fmt: skip
        else:
            return column
        self._clocks += len(column) - column.null_count
        unit = self._unit or 1.0
        return pa.array([None if s is None else s / unit for s in seconds], pa.float64())

    def notes(self) -> list[str]:
        """What was recognised, in sentences."""
        notes = []
        if self._commas:
            notes.append(f"{self.name}: {self._commas} values with a decimal comma, such as 0,5, "
                         "read as 0.5.")  # fmt: skip
        if self._clocks:
            unit = {v: k for k, v in DURATION_UNITS.items() if k != "sec"}[self._unit or 1.0]
            notes.append(f"{self.name}: {self._clocks} durations such as 1:02:03 read as hours, "
                         f"minutes and seconds, stored in {unit}.")  # fmt: skip
        return notes


class Integers:
    """Whole numbers in their type's range; ``12.0`` is one, ``12.5`` and ``abc`` are not."""

    def __init__(self, column: Column, commas: _Commas) -> None:
        self._name, self._low, self._high = column.name, *INTEGER_LIMITS[column.pg_type]
        self._commas = commas
        bits = {"smallint": 16, "integer": 32, "bigint": 64}[column.pg_type]
        self._what = f"{column.name} is not a {bits}-bit integer"

    def parse(self, column: pa.Array) -> Parsed:
        """The values, and which are none of the column's type."""
        column, empty = plain(self._commas.from_duration(column))
        if pa.types.is_string(column.type):
            if (usual := _usual_integers(column, empty)) is not None:
                values = usual
                fits = (values >= self._low) & (values <= self._high)
                return Parsed(np.where(fits, values, 0), empty, problems(empty, fits, self._what))
            column = self._commas.replaced(column)
            good = pc.match_substring_regex(column, _INTEGER)
            digits = pc.replace_substring_regex(pc.if_else(good, column, "0"), r"^\+|\.0*$", "")
            fits = good.to_numpy(zero_copy_only=False)
            try:
                values = digits.cast(pa.int64()).to_numpy()
            except pa.ArrowInvalid:
                exact = [int(text) for text in digits.to_pylist()]
                fits = fits & np.array([-(2**63) <= value < 2**63 for value in exact])
                values = np.array([v if f else 0 for v, f in zip(exact, fits, strict=True)])
                values = values.astype(np.int64)
        elif pa.types.is_boolean(column.type):
            raise wrong_type(self._name, column, "whole numbers")
        elif pa.types.is_integer(column.type):
            numbers = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
            fits = np.ones(len(numbers), bool)
            if numbers.dtype == np.uint64:
                fits = numbers <= np.array(2**63 - 1, np.uint64)
            values = numbers.astype(np.int64)
        elif pa.types.is_decimal(column.type):  # as a float it would keep 53 bits
            held = column.to_pylist()
            fits = np.array(
                [v is not None and self._low <= v == int(v) <= self._high for v in held]
            )
            whole_ones = [int(v) if fit else 0 for v, fit in zip(held, fits, strict=True)]
            values = np.array(whole_ones, np.int64)
            fits = fits.astype(bool)
        elif pa.types.is_floating(column.type):
            floats = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
            # From 2**53 on a float may have been another integer.
            fits = np.isfinite(floats) & (np.abs(floats) < 2**53)
            floats = np.where(fits, floats, 0)
            whole = np.rint(floats)
            fits &= np.abs(floats - whole) <= _WHOLE_WITHIN * np.maximum(1, np.abs(floats))
            values = whole.astype(np.int64)
        else:
            raise wrong_type(self._name, column, "whole numbers")
        fits &= (values >= self._low) & (values <= self._high)
        return Parsed(np.where(fits, values, 0), empty, problems(empty, fits, self._what))

    def notes(self) -> list[str]:
        """What was recognised, in sentences."""
        return self._commas.notes()


def _usual_integers(column: pa.Array, empty: Mask) -> npt.NDArray[np.int64] | None:
    """Texts of nothing but digits as numbers, 0 for the empty ones; None where one is another.

    Two times as fast as what reads any way.
    """
    if empty.any():
        column = pc.if_else(pa.array(empty), "0", column)
    if not all_match(column, r"^-?[0-9]{1,18}$"):
        return None
    values: npt.NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return values


class Numbers:
    """Finite numbers times a scale; of whole numbers' columns, rounded to the nearest."""

    def __init__(self, column: Column, commas: _Commas, scale: float) -> None:
        self._column, self._commas, self._scale = column, commas, scale

    def parse(self, column: pa.Array) -> Parsed:
        """The values, and which are none of the column's type."""
        name, kind = self._column.name, self._column.pg_type
        column, empty = plain(self._commas.from_duration(column))
        what = f"{name} is not a number"
        if pa.types.is_string(column.type):
            good = pc.match_substring_regex(column, NUMBER)
            if not (_mask(good) | empty).all():
                column = self._commas.replaced(column, scale=self._scale)
                good = pc.match_substring_regex(column, NUMBER)
            if kind == "numeric" and self._scale == 1:  # as many digits as there are
                column = pc.if_else(good, column, "0")
                found = problems(empty, _mask(good), what)
                return Parsed(column, empty, [*found, *self._too_fine(column, empty)])
            floats = pc.if_else(good, column, "0").cast(pa.float64()).to_numpy()
            fits = _mask(good) & np.isfinite(floats)
        elif (
            pa.types.is_integer(column.type)
            or pa.types.is_floating(column.type)
            or pa.types.is_decimal(column.type)
        ):
            if kind == "numeric" and self._scale == 1 and not pa.types.is_floating(column.type):
                text = pc.fill_null(column.cast(pa.string()), "0")
                return Parsed(text, empty, self._too_fine(text, empty))
            floats = pc.fill_null(column.cast(pa.float64(), safe=False), 0.0).to_numpy(
                zero_copy_only=False
            )
            fits = np.isfinite(floats)
        else:
            raise wrong_type(name, column, "numbers")
        values = np.where(fits, floats, 0) * self._scale
        if kind in INTEGER_LIMITS:
            low, high = INTEGER_LIMITS[kind]
            values = np.rint(values)
            inside = (values >= float(low)) & (values <= min(float(high), 2.0**62))
            integers = np.where(inside, values, 0).astype(np.int64)
            return Parsed(integers, empty, [
                *problems(empty, fits, what),
                (fits & ~empty & ~inside, f"{name} is outside {low:,} to {high:,}"),
            ])  # fmt: skip
        if kind == "real":
            with np.errstate(over="ignore"):
                fits &= np.isfinite(values.astype(np.float32))
        if kind == "numeric":
            texts = pa.array([self._decimal_text(float(v)) for v in values], pa.string())
            found = problems(empty, fits, what)
            return Parsed(texts, empty, [*found, *self._too_fine(texts, empty)])
        return Parsed(np.where(fits, values, 0), empty, problems(empty, fits, what))

    def _decimal_text(self, value: float) -> str:
        """A number that was computed, rounded to its column's digits if it is off by no more."""
        places = decimal_places(self._column)
        if places is not None:
            rounded = round(value, places)
            off = abs(rounded - value)
            if self._scale != 1 or off <= _WHOLE_WITHIN * max(1.0, abs(value)):
                return f"{Decimal(repr(rounded)):f}"
        return repr(value)

    def _too_fine(self, texts: pa.Array, empty: Mask) -> list[tuple[Mask, str]]:
        places = decimal_places(self._column)
        if places is None:
            return []
        usual = rf"^[+-]?[0-9]*(\.[0-9]{{0,{max(places, 0)}}}0*)?$" if places >= 0 else "^0$"
        fine = ~_mask(pc.match_substring_regex(texts, usual))
        for place in np.flatnonzero(fine):
            fine[place] = not fits_places(Decimal(texts[place].as_py()), places)
        return [(fine & ~empty, too_fine(self._column.name, places))]

    def notes(self) -> list[str]:
        """What was recognised, in sentences."""
        return self._commas.notes()


@dataclass
class Booleans:
    """True and false, yes and no, 1 and 0."""

    name: str

    def parse(self, column: pa.Array) -> Parsed:
        """The values, and which are none of the column's type."""
        column, empty = plain(column)
        if pa.types.is_boolean(column.type):
            return Parsed(column, empty, [])
        if not pa.types.is_string(column.type):
            if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
                raise wrong_type(self.name, column, "true and false")
            column = pc.fill_null(column.cast(pa.string()), "")
        text = pc.utf8_lower(column)
        true = pc.is_in(text, value_set=pa.array(_TRUE))
        known = pc.or_(true, pc.is_in(text, value_set=pa.array(_FALSE)))
        return Parsed(
            true, empty, problems(empty, _mask(known), f"{self.name} is not true or false")
        )

    def notes(self) -> list[str]:
        """What was recognised, in sentences."""
        return []


@dataclass
class Octets:
    r"""Bytes: as they are, or text such as ``\x00ff``, or the UTF-8 of any other text."""

    name: str

    def parse(self, column: pa.Array) -> Parsed:
        """The values, and which are none of the column's type."""
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            return Parsed(column.cast(pa.binary()), _mask(pc.is_null(column)), [])
        column, empty = plain(column, trim=False)
        if not pa.types.is_string(column.type):
            raise wrong_type(self.name, column, "bytes")
        values: list[bytes] = []
        good = np.ones(len(column), bool)
        for place, text in enumerate(column.to_pylist()):
            try:
                octets = bytes.fromhex(text[2:]) if text.startswith("\\x") else text.encode()
            except ValueError:
                octets, good[place] = b"", False
            values.append(octets)
        array = pa.array(values, pa.binary())
        return Parsed(array, empty, problems(empty, good, f"{self.name} is not hexadecimal"))

    def notes(self) -> list[str]:
        """What was recognised, in sentences."""
        return []


@dataclass
class Texts:
    """Text as it is written; of any other type, the text that PostgreSQL casts to it."""

    column: Column
    _blanks: int = 0
    _empty: int = 0
    _is_text: bool = field(init=False)

    def __post_init__(self) -> None:
        self._is_text = self.column.pg_type in TEXTS

    def parse(self, column: pa.Array) -> Parsed:
        """The values, and which are none of the column's type."""
        name = self.column.name
        column = self._texts(column)
        column, empty = plain(column, trim=not self._is_text)
        if self._is_text:
            edges = pc.match_substring_regex(column, r"^\s|\s$")
            self._blanks += int((_mask(edges) & ~empty).sum())
            self._empty += int((_mask(pc.equal(column, "")) & ~empty).sum())
        broken = _mask(pc.match_substring_regex(column, _REPLACED))
        found = problems(empty, ~broken, f"{name} is not valid UTF-8 text")
        return Parsed(column, empty, [*found, *self._unfit(column, empty)])

    def _unfit(self, column: pa.Array, empty: Mask) -> list[tuple[Mask, str]]:
        """What PostgreSQL would cut or round."""
        if (limit := longest_text(self.column)) and not self.column.pg_type.endswith("[]"):
            count = pc.binary_length if limit[1] == "bytes" else pc.utf8_length
            long = _mask(pc.greater(count(column), limit[0]))
            return [(long & ~empty, too_long(self.column.name, limit))]
        digits, places = time_digits(self.column), decimal_places(self.column)
        kept = places if digits is None else digits
        if kept is None:
            return []
        fine = _mask(pc.match_substring_regex(column, finer_than(max(kept, 0))))
        said = too_fine(self.column.name, kept, of_a_second=digits is not None)
        return [(fine & ~empty, said)]

    def notes(self) -> list[str]:
        """What was recognised, in sentences."""
        name, notes = self.column.name, []
        if self._blanks:
            said = f"{name}: {self._blanks} texts begin or end with a blank, and were stored so: "
            notes.append(said + f'--map {name}="trim(COLUMN)" takes it off.')
        if self._empty:
            said = f"{name}: {self._empty} texts are empty, and were stored so: "
            notes.append(said + f"--map {name}=\"nullif(COLUMN, '')\" makes them no value.")
        return notes

    def _texts(self, column: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if _is_string(kind) or pa.types.is_null(kind):
            return column
        if self._is_text and (pa.types.is_floating(kind) or _is_nested(kind)):
            # 5.0 for an id of 5 is what a missing value makes of a column of whole numbers.
            raise wrong_type(self.column.name, column, "text")
        if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
            return _each(column, lambda value: value.hex())
        if _is_nested(kind):
            as_array = self.column.pg_type.endswith("[]")
            return _each(column, _array_text if as_array else _json_text)
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
            return column.cast(pa.string())
        return _each(column, str)


def _each(column: pa.Array, text: Callable[[Any], str]) -> pa.Array:
    return pa.array([None if v is None else text(v) for v in column.to_pylist()], pa.string())


def _is_string(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind))


def _json_text(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        value = dict(value)  # an Arrow map
    return json.dumps(value, ensure_ascii=False, default=str)


def _array_text(values: Any) -> str:
    if values is None:
        return "NULL"
    if isinstance(values, list):
        return "{" + ",".join(map(_array_text, values)) + "}"
    return '"' + str(values).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _mask(values: pa.Array) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = values.to_numpy(zero_copy_only=False)
    return mask


def _seconds(clock: str) -> float:
    """``1:02:03`` and ``2:03`` in seconds."""
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def _plain_number(value: float) -> str:
    rounded = round(value, 6)
    return str(int(rounded)) if rounded == int(rounded) else repr(rounded)


# What tells a value of a type, as a file writes it; types that any text could be have none.
_TESTS: Mapping[str, str] = {
    **dict.fromkeys(INTEGER_LIMITS, _INTEGER),
    **dict.fromkeys((*FLOATS, "numeric"), NUMBER),
    "uuid": r"^\{?[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\}?$",
}


def value_test(column: Column) -> Callable[[str], bool] | None:
    """Tells a text that could be a value of the column; None where any could."""
    if column.pg_type in TIMES:
        return is_time
    if column.pg_type not in _TESTS:
        return None
    pattern = re.compile(_TESTS[column.pg_type])
    return lambda text: pattern.match(text.strip()) is not None

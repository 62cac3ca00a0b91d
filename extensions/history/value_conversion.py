"""From a file's values to the store's: whole columns at once, each bad value with its reason.

Every function takes a column (text as CSV holds it, or a Parquet type) and gives numpy values
and the problems found: masks with a reason. A value under a mask means nothing.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from extensions.errors import InputError, SkewlessError
from extensions.timestamp_column_parsing import coerce_timestamps

Mask = npt.NDArray[np.bool_]
EpochUnit = Literal["s", "ms", "us", "ns"]

_MICROS_PER: dict[EpochUnit, float] = {"s": 1e6, "ms": 1e3, "us": 1, "ns": 1e-3}
_UNIT_NAMES: dict[EpochUnit, str] = {
    "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds",
}  # fmt: skip
# A moment of our time in one unit is far from any in another: seconds pass 1e11 in the year
# 5138, milliseconds were below it until 1973.
_UNIT_LIMITS = np.array([1e11, 1e14, 1e17])
# Stands for every moment that microseconds cannot count: outside of any range.
_FAR_US = 2**62
_UNITS: tuple[EpochUnit, ...] = ("s", "ms", "us", "ns")

_INTEGER = r"^[+-]?[0-9]+(\.0*)?$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}.*)?$"
_ZONE = r"(Z|z|:[0-9]{2}(\.[0-9]+)?\s*[+-][0-9]{2}(:?[0-9]{2})?)$"
# What Arrow and pandas read alike: whole dates and times of our centuries, in at most microseconds.
_USUAL = r"^(19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"

MAX_TEXT_BYTES = 200
# The seconds of 2000: smaller numbers are no times that an import takes.
_FIRST_EPOCH = 946_684_800


def is_integer(text: str) -> bool:
    """Could this be a whole number, as a file writes it?"""
    return re.match(_INTEGER, text.strip()) is not None


def is_time(text: str) -> bool:
    """Could this be a time since 2000: epoch numbers, or ISO 8601?"""
    text = text.strip()
    if re.match(_NUMBER, text):
        return float(text) >= _FIRST_EPOCH
    return re.match(_DATE, text) is not None


@dataclass(frozen=True)
class Parsed:
    """One column's values, and what is wrong with which of them."""

    values: npt.NDArray[np.generic] | pa.Array
    problems: list[tuple[Mask, str]]


def integers(name: str, column: pa.Array) -> Parsed:
    """Signed 64-bit integers (int64); ``12.0`` is one, ``12.5`` and ``abc`` are not."""
    column, empty = _plain(column)
    what = f"{name} is not a 64-bit integer"
    if pa.types.is_string(column.type):
        good = _matches(column, _INTEGER)
        digits = pc.replace_substring_regex(pc.if_else(good, column, "0"), r"^\+|\.0*$", "")
        try:
            values = digits.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid:
            exact = [int(text) for text in digits.to_pylist()]
            fits = np.array([-(2**63) <= value < 2**63 for value in exact])
            values = np.array([v if f else 0 for v, f in zip(exact, fits, strict=True)], np.int64)
            good = pa.array(good.to_numpy(zero_copy_only=False) & fits)
        return Parsed(values, _problems(empty, good.to_numpy(zero_copy_only=False), name, what))
    if pa.types.is_integer(column.type):
        numbers = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
        good_mask = numbers <= np.array(2**63 - 1, np.uint64) if numbers.dtype == np.uint64 else (
            np.ones(len(numbers), bool))  # fmt: skip
        return Parsed(numbers.astype(np.int64), _problems(empty, good_mask, name, what))
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        floats = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
        # Beyond 2**53 a float is no longer one integer.
        whole = np.isfinite(floats) & (np.abs(floats) <= 2**53) & (floats == np.floor(floats))
        values = np.where(whole, floats, 0).astype(np.int64)
        return Parsed(values, _problems(empty, whole, name, what))
    raise _wrong_type(name, column, "64-bit integers")


def numbers(name: str, column: pa.Array, *, scale: float, low: float, high: float) -> Parsed:
    """Finite numbers (float64) times ``scale``, which must then lie in [low, high]."""
    column, empty = _plain(column)
    what = f"{name} is not a number"
    if pa.types.is_string(column.type):
        good = _matches(column, _NUMBER)
        floats = pc.if_else(good, column, "0").cast(pa.float64()).to_numpy()
        mask = good.to_numpy(zero_copy_only=False) & np.isfinite(floats)
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or (
        pa.types.is_decimal(column.type)
    ):  # fmt: skip
        floats = pc.fill_null(column.cast(pa.float64(), safe=False), 0.0).to_numpy()
        mask = np.isfinite(floats)
    else:
        raise _wrong_type(name, column, "numbers")
    values = np.where(mask, floats, low) * np.where(mask, scale, 1.0)
    outside = mask & ~empty & ((values < low) | (values > high))
    said = f"{name} is outside {low / scale:g} to {high / scale:g}"
    return Parsed(values, [*_problems(empty, mask, name, what), (outside, said)])


def texts(name: str, column: pa.Array) -> Parsed:
    """Text (an Arrow string array) of 1 to `MAX_TEXT_BYTES` bytes of UTF-8."""
    column, empty = _plain(column)
    if not pa.types.is_string(column.type):
        if not (pa.types.is_integer(column.type) or pa.types.is_fixed_size_binary(column.type)):
            raise _wrong_type(name, column, "text")
        if pa.types.is_fixed_size_binary(column.type):
            column = pa.array([v.hex() if v is not None else "" for v in column.to_pylist()])
        column = pc.fill_null(column.cast(pa.string()), "")
    length = pc.binary_length(column).to_numpy(zero_copy_only=False)
    broken = pc.match_substring_regex(column, "\ufffd|\\x00").to_numpy(zero_copy_only=False)
    return Parsed(
        column,
        [
            (empty, f"{name} is empty"),
            (length > MAX_TEXT_BYTES, f"{name} is longer than {MAX_TEXT_BYTES} bytes"),
            (broken, f"{name} is not valid UTF-8 text"),
        ],
    )


class Times:
    """Moments: epoch numbers in one unit, or ISO 8601 text; without a zone they are UTC.

    The unit of epoch numbers is inferred once, from the first batch that has any.
    """

    def __init__(self, name: str, *, low_us: int, high_us: int) -> None:
        self.name = name
        self._low, self._high = low_us, high_us
        self._unit: EpochUnit | None = None
        self._naive = 0

    def parse(self, column: pa.Array) -> Parsed:
        """Microseconds since the Unix epoch (int64), inside the allowed range."""
        column, empty = _plain(column)
        kind = column.type
        if pa.types.is_string(kind):
            values, good = self._from_text(column)
        elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            values, good = self._from_timestamps(column)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            floats = pc.fill_null(column.cast(pa.float64(), safe=False), 0).to_numpy()
            exact = pc.fill_null(column, 0) if pa.types.is_integer(kind) else None
            values, good = self._from_epoch(floats, exact)
        else:
            raise _wrong_type(self.name, column, "times")
        outside = good & ~empty & ((values < self._low) | (values > self._high))
        low, high = (
            np.datetime64(us, "us").astype("datetime64[s]").item().isoformat(sep=" ")
            for us in (self._low, self._high)
        )
        unit = f" (read as epoch {_UNIT_NAMES[self._unit]})" if self._unit else ""
        return Parsed(
            values,
            [
                *_problems(empty, good, self.name, f"{self.name} is not a time"),
                (outside, f"{self.name} is not between {low} and {high} UTC{unit}"),
            ],
        )

    def notes(self) -> list[str]:
        """What was assumed about this column, in sentences."""
        notes = []
        if self._unit:
            notes.append(f"{self.name}: numbers read as epoch {_UNIT_NAMES[self._unit]} "
                         "(by their magnitude).")  # fmt: skip
        if self._naive:
            notes.append(f"{self.name}: {self._naive} times without a zone read as UTC.")
        return notes

    def _from_timestamps(self, column: pa.Array) -> tuple[npt.NDArray[np.int64], Mask]:
        if pa.types.is_date(column.type) or column.type.tz is None:
            self._naive += len(column) - column.null_count
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("ms"))
        try:
            micros = column.cast(pa.timestamp("us"), safe=column.type.unit != "ns")
        except pa.ArrowInvalid:  # a value beyond what microseconds can count
            counts = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
            scale = _MICROS_PER[column.type.unit]
            fits = np.abs(counts.astype(np.float64)) * scale < _FAR_US
            micros_or_far = np.where(fits, counts, 0) * int(scale)
            return np.where(fits, micros_or_far, _FAR_US), np.ones(len(counts), bool)
        values = pc.fill_null(micros.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return values, np.ones(len(values), bool)

    def _from_text(self, column: pa.Array) -> tuple[npt.NDArray[np.int64], Mask]:
        number = _matches(column, _NUMBER)
        is_number = number.to_numpy(zero_copy_only=False)
        values = np.zeros(len(column), np.int64)
        good = np.zeros(len(column), bool)
        if is_number.any():
            digits = column.filter(number)
            integral: pa.Array | None = None
            if pc.all(pc.match_substring_regex(digits, r"^-?[0-9]{1,18}$")).as_py():
                integral = digits.cast(pa.int64())
            values[is_number], good[is_number] = self._from_epoch(
                digits.cast(pa.float64()).to_numpy(), integral
            )
        if not is_number.all():
            text = column.filter(pc.invert(number))
            values[~is_number], good[~is_number] = self._from_iso(text)
        return values, good

    def _from_iso(self, column: pa.Array) -> tuple[npt.NDArray[np.int64], Mask]:
        usual = self._from_usual(column)
        if usual is not None:
            return usual, np.ones(len(usual), bool)
        column = pc.replace_substring_regex(column, r"\s*(UTC|GMT)$", "Z")
        dated = _matches(column, _DATE)
        column = pc.if_else(dated, column, "")
        zoned = _matches(column, _ZONE).to_numpy(zero_copy_only=False)
        times = coerce_timestamps(column.to_pandas(), zoned).astype("datetime64[us]")
        good = ~np.isnat(times) & dated.to_numpy(zero_copy_only=False)
        self._naive += int((good & ~zoned).sum())
        return np.where(good, times.astype(np.int64), 0), good

    def _from_usual(self, column: pa.Array) -> npt.NDArray[np.int64] | None:
        """Micros where every text is written in the usual way, all in UTC or all without a zone.

        Three times as fast as what reads any way; None where one is written otherwise.
        """
        zoned = column[0].as_py().endswith("Z")
        if not pc.all(_matches(column, _USUAL + ("Z$" if zoned else "$"))).as_py():
            return None
        try:
            moments = column.cast(pa.timestamp("us", "UTC" if zoned else None))
        except pa.ArrowInvalid:  # the 30th of February
            return None
        if not zoned:
            self._naive += len(column)
        values: npt.NDArray[np.int64] = moments.cast(pa.int64()).to_numpy()
        return values

    def _from_epoch(
        self, floats: npt.NDArray[np.float64], integral: pa.Array | None
    ) -> tuple[npt.NDArray[np.int64], Mask]:
        """Micros from epoch numbers; exactly where they are ``integral``."""
        good = np.isfinite(floats)
        if self._unit is None and good.any():
            magnitudes = np.searchsorted(_UNIT_LIMITS, np.abs(floats[good]), side="right")
            self._unit = _UNITS[Counter(magnitudes.tolist()).most_common(1)[0][0]]
        if self._unit is None:
            return np.zeros(len(floats), np.int64), good
        scale = _MICROS_PER[self._unit]
        # What is too large for microseconds is out of any range: the limit says so.
        fits = good & (np.abs(np.where(good, floats, 0)) * scale < _FAR_US)
        if integral is not None and not pa.types.is_uint64(integral.type):
            exact = np.where(fits, integral.to_numpy(zero_copy_only=False), 0).astype(np.int64)
            values = exact // 1000 if self._unit == "ns" else exact * int(scale)
        else:
            values = np.rint(np.where(fits, floats, 0) * scale).astype(np.int64)
        return np.where(fits, values, _FAR_US), good


def _plain(column: pa.Array) -> tuple[pa.Array, Mask]:
    """The column without dictionaries, its text trimmed and never null; and what is empty."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
        return column, pc.equal(column, "").to_numpy(zero_copy_only=False)
    return column, pc.is_null(column).to_numpy(zero_copy_only=False)


def _matches(column: pa.Array, pattern: str) -> pa.Array:
    return pc.match_substring_regex(column, pattern)


def _problems(empty: Mask, good: Mask, name: str, what: str) -> list[tuple[Mask, str]]:
    return [(empty, f"{name} is empty"), (~good & ~empty, what)]


def _wrong_type(name: str, column: pa.Array, wanted: str) -> SkewlessError:
    return InputError(
        f"The column for {name} holds {column.type}, not {wanted}: map another column.",
    )

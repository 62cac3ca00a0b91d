"""Times as files write them: ISO 8601, with slashes, epoch numbers, or by a given format."""

from collections import Counter
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from extensions.history.parsed_values import (
    NUMBER,
    Mask,
    Parsed,
    all_match,
    plain,
    problems,
    wrong_type,
)
from extensions.sources.type_modifiers import too_fine
from extensions.timestamp_column_parsing import coerce_timestamps

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
# The years 1 and 9999, which can be written.
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_000_000
_UNITS: tuple[EpochUnit, ...] = ("s", "ms", "us", "ns")

_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}.*)?$"
_SLASHED = r"^([0-9]{4})/([0-9]{1,2})/([0-9]{1,2})"
_ZONE = r"(Z|z|:[0-9]{2}(\.[0-9]+)?\s*[+-][0-9]{2}(:?[0-9]{2})?)$"
# What Arrow and pandas read alike: whole dates and times of our centuries, in at most microseconds.
_USUAL = r"^(19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
# The seconds of 1980: a smaller number alone is no sign of a time.
_LEAST_EPOCH = 315_532_800


def is_time(text: str) -> bool:
    """Could this be a time: a large epoch number, or a date with or without a time of day?"""
    column = pa.array([text.strip()])
    if all_match(column, NUMBER):
        return float(text) >= _LEAST_EPOCH
    return all_match(column, _DATE) or all_match(column, _SLASHED)


class Times:
    """A column of times; it remembers the file's epoch unit.

    Values are microseconds since the epoch, in UTC (int64).

    Args:
        name: The column, for messages.
        low_us: The least time that is accepted, in microseconds; None: any.
        high_us: The greatest one.
        form: One of ``s``, ``ms``, ``us``, ``ns`` (epoch numbers), ``iso``, or a format as
            Python's ``strptime`` takes it; None recognises epoch numbers, ISO and dates written
            with slashes, the year first.
    """

    def __init__(
        self,
        name: str,
        *,
        low_us: int | None = None,
        high_us: int | None = None,
        form: str | None = None,
        digits: int | None = None,
    ) -> None:
        self.name = name
        # Micros of the finest difference that the column keeps.
        self._step = 1 if digits is None else 10 ** (6 - digits)
        self._digits = digits
        self._low = -(2**61) if low_us is None else low_us
        self._high = 2**61 if high_us is None else high_us
        self._bounded = low_us is not None or high_us is not None
        self._form = form
        self._unit: EpochUnit | None = form if form in _UNITS else None
        self._naive = self._slashed = 0
        self.too_old = 0

    def parse(self, column: pa.Array) -> Parsed:
        """The column's times; a value of another kind is a problem of its row."""
        column, empty = plain(column)
        kind = column.type
        if pa.types.is_string(kind):
            values, good = self._from_text(column)
        elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            values, good = self._from_timestamps(column)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            floats = pc.fill_null(column.cast(pa.float64(), safe=False), 0).to_numpy(
                zero_copy_only=False
            )
            exact = pc.fill_null(column, 0) if pa.types.is_integer(kind) else None
            values, good = self._from_epoch(floats, exact)
        else:
            raise wrong_type(self.name, column, "times")
        fits = good & ~empty
        below, above = fits & (values < self._low), fits & (values > self._high)
        self.too_old += int((below & (values > -_FAR_US // 2)).sum())
        found = [
            *problems(empty, good, f"{self.name} is not a time{self._as_given()}"),
            (below | above, self._outside()),
        ]
        if self._digits is not None and self._step > 1:
            said = too_fine(self.name, self._digits, of_a_second=True)
            found.append((fits & (values % self._step != 0), said))
        return Parsed(values, empty, found)

    def notes(self) -> list[str]:
        """What was assumed about this column, in sentences."""
        notes = []
        if self._unit and self._unit != self._form:
            notes.append(f"{self.name}: numbers read as epoch {_UNIT_NAMES[self._unit]} "
                         "(by their magnitude).")  # fmt: skip
        if self._slashed:
            notes.append(f"{self.name}: {self._slashed} dates such as 2014/04/05 read as "
                         "year/month/day.")  # fmt: skip
        if self._naive:
            notes.append(f"{self.name}: {self._naive} times without a zone read as UTC.")
        return notes

    def _as_given(self) -> str:
        if self._form is None or self._form == "iso" or self._form in _UNITS:
            return ""
        return f" of the form {self._form}"

    def _outside(self) -> str:
        if not self._bounded:
            return f"{self.name} is outside of what PostgreSQL can hold"
        low, high = (_text(max(self._low, _FIRST_US)), _text(min(self._high, _LAST_US)))
        unit = f" (read as epoch {_UNIT_NAMES[self._unit]})" if self._unit else ""
        return f"{self.name} is not between {low} and {high} UTC{unit}"

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
        if self._as_given():
            return self._from_form(column)
        if self._form not in _UNITS and (usual := self._from_usual(column)) is not None:
            return usual, np.ones(len(usual), bool)
        number = pc.match_substring_regex(column, NUMBER)
        if self._form == "iso":
            number = pa.array(np.zeros(len(column), bool))
        is_number = number.to_numpy(zero_copy_only=False)
        values = np.zeros(len(column), np.int64)
        good = np.zeros(len(column), bool)
        if is_number.any():
            digits = column.filter(number)
            integral: pa.Array | None = None
            if all_match(digits, r"^-?[0-9]{1,18}$"):
                integral = digits.cast(pa.int64())
            values[is_number], good[is_number] = self._from_epoch(
                digits.cast(pa.float64()).to_numpy(), integral
            )
        if not is_number.all() and self._form not in _UNITS:
            text = column.filter(pc.invert(number))
            values[~is_number], good[~is_number] = self._from_iso(text)
        return values, good

    def _from_form(self, column: pa.Array) -> tuple[npt.NDArray[np.int64], Mask]:
        form = str(self._form)
        parsed = pd.to_datetime(column.to_pandas(), format=form, utc=True, errors="coerce")
        times = pd.DatetimeIndex(parsed).as_unit("us").tz_localize(None).to_numpy()
        good = ~np.isnat(times)
        if "%z" not in form and "%Z" not in form:
            self._naive += int(good.sum())
        return np.where(good, times.astype(np.int64), 0), good

    def _from_iso(self, column: pa.Array) -> tuple[npt.NDArray[np.int64], Mask]:
        if self._form is None:
            slashed = pc.match_substring_regex(column, _SLASHED)
            if many := pc.sum(slashed).as_py():
                self._slashed += many
                column = pc.if_else(slashed, _dashed(column), column)
        column = pc.replace_substring_regex(column, r"\s*(UTC|GMT)$", "Z")
        dated = pc.match_substring_regex(column, _DATE)
        column = pc.if_else(dated, column, "")
        zoned = pc.match_substring_regex(column, _ZONE).to_numpy(zero_copy_only=False)
        times = coerce_timestamps(column.to_pandas(), zoned).astype("datetime64[us]")
        good = ~np.isnat(times) & dated.to_numpy(zero_copy_only=False)
        self._naive += int((good & ~zoned).sum())
        return np.where(good, times.astype(np.int64), 0), good

    def _from_usual(self, column: pa.Array) -> npt.NDArray[np.int64] | None:
        """Micros where every text is written in the usual way, all in UTC or all without a zone.

        Three times as fast as what reads any way; None where one is written otherwise.
        """
        zoned = len(column) > 0 and column[0].as_py().endswith("Z")
        if not all_match(column, _USUAL + ("Z$" if zoned else "$")):
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


def _text(micros: int) -> str:
    moment: datetime = np.datetime64(micros, "us").astype("datetime64[s]").item()
    return moment.isoformat(sep=" ")


def _dashed(column: pa.Array) -> pa.Array:
    """Dates written with slashes in the ISO way, months and days in two digits."""
    column = pc.replace_substring_regex(column, _SLASHED, r"\1-\2-\3")
    column = pc.replace_substring_regex(column, r"^([0-9]{4})-([0-9])-", r"\1-0\2-")
    return pc.replace_substring_regex(column, r"^([0-9]{4}-[0-9]{2})-([0-9])([T ]|$)", r"\1-0\2\3")

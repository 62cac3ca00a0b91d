"""What the conversion of a column gives: values, which are empty, and what is wrong with which."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from extensions.errors import InputError

Mask = npt.NDArray[np.bool_]

NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Parsed:
    """One column's values; those under a mask mean nothing.

    ``empty``: which have none. ``problems``: masks with a reason.
    """

    values: npt.NDArray[np.generic] | pa.Array
    empty: Mask
    problems: list[tuple[Mask, str]]


def plain(column: pa.Array, *, trim: bool = True) -> tuple[pa.Array, Mask]:
    """The column without dictionaries, its text never null; and what has no value.

    Args:
        column: Of any type.
        trim: Whether blanks around a text mean nothing, and a text of nothing else is no value:
            so of all types but text and bytes, for which only what is not there is none.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if (
        pa.types.is_large_string(column.type)
        or pa.types.is_string_view(column.type)
        or pa.types.is_null(column.type)
    ):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        if not trim:
            missing = pc.is_null(column).to_numpy(zero_copy_only=False)
            return pc.fill_null(column, ""), missing
        trimmed = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
        return trimmed, pc.equal(trimmed, "").to_numpy(zero_copy_only=False)
    return column, pc.is_null(column).to_numpy(zero_copy_only=False)


def problems(empty: Mask, good: Mask, what: str) -> list[tuple[Mask, str]]:
    """That the values that are there and not ``good`` are ``what``."""
    return [(~good & ~empty, what)]


def wrong_type(name: str, column: pa.Array, wanted: str) -> InputError:
    """That a column holds values of another kind."""
    return InputError(f"The column for {name} holds {column.type}, not {wanted}: map another one.")


def all_match(column: pa.Array, pattern: str) -> bool:
    """Whether every text of a column matches a pattern of RE2."""
    return bool(pc.all(pc.match_substring_regex(column, pattern)).as_py())

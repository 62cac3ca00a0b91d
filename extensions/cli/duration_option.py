"""Lengths of time as options write them: ``30m``, ``1h``, ``7d``."""

import re
from datetime import timedelta

from extensions.errors import InputError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def length_of(text: str) -> timedelta:
    """The length that ``30m``, ``1h`` or ``2d`` says.

    Raises:
        SkewlessError: it is none, or longer than a timedelta holds.
    """
    match = re.fullmatch(r"(\d+)\s*([smhd])", text.strip())
    try:
        length = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta(0)
    except OverflowError:
        length = timedelta(0)
    if not length:
        raise InputError(f"A length of time reads like 30m, 1h or 2d, not {text!r}.")
    return length

"""Numbers as people read them: few digits, no exponents where a plain number will do."""

import math
from datetime import datetime

MISSING = "–"


def number(value: float | None, digits: int = 4) -> str:
    """``digits`` significant digits, thousands separated: ``1,234``, ``0.05231``, ``1.2e-07``."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -5 < size < 12:
        return f"{value:.{digits - 1}g}"
    text = f"{value:,.{max(0, digits - 1 - size)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def signed(value: float | None, digits: int = 4) -> str:
    """As `number`, with a sign before what is positive."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def share(value: float | None) -> str:
    """A share of rows in per cent; what is not nothing is never shown as ``0 %``."""
    if value is None or math.isnan(value):
        return MISSING
    percent = 100 * value
    if 0 < percent < 0.01:
        return "< 0.01 %"
    if 99.99 < percent < 100:
        return "> 99.99 %"
    return f"{number(percent, 3 if percent < 99.5 else 4)} %"


def statistic(value: float | None) -> str:
    """A statistic whose scale is about 0 to 1: nothing that is not 0 or 1 is shown as such."""
    if value is not None and 0 < value < 0.001:
        return "< 0.001"
    if value is not None and 0.9995 <= value < 1 - 1e-12:
        return "> 0.999"
    return number(value, 3)


def chance(p: float) -> str:
    """A p-value in words: ``1 in 2,300``, ``less than 1 in a million``."""
    if p >= 0.1:
        return share(p) if p < 0.995 else "no evidence"
    if p < 1e-6:
        return "less than 1 in a million"
    return f"1 in {number(1 / p, 2)}"


def timestamp(value: datetime) -> str:
    """A UTC timestamp to the minute."""
    return f"{value:%Y-%m-%d %H:%M} UTC"

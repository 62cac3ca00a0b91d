"""Floors: the least effect of a statistic that is worth a warning or a critical verdict."""

from collections.abc import Mapping
from dataclasses import dataclass

OK, WARNING, CRITICAL = "ok", "warning", "critical"


@dataclass(frozen=True)
class Floor:
    """The least effect that is worth a warning, and a critical verdict."""

    warning: float
    critical: float

    def judge(self, effect: float) -> str:
        """``ok``, ``warning`` or ``critical`` by the size of an effect alone."""
        if effect < self.warning:
            return OK
        return CRITICAL if effect >= self.critical else WARNING


# Of two distributions: psi the population stability index; js the Jensen-Shannon distance (base 2,
# 0 to 1); nulls and defaults a change of their share of rows.
DISTRIBUTION_FLOORS: Mapping[str, Floor] = {
    "psi": Floor(0.1, 0.2),
    "js": Floor(0.10, 0.15),
    "nulls": Floor(0.01, 0.05),
    "defaults": Floor(0.05, 0.20),
}

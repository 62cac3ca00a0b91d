"""What a check can say, and the floors that an effect must exceed to matter."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

OK, INSUFFICIENT, WARNING, CRITICAL, ERROR = "ok", "insufficient", "warning", "critical", "error"
_ORDER = {OK: 0, INSUFFICIENT: 1, WARNING: 2, CRITICAL: 3, ERROR: 4}
# What `skewless drift check` exits with. Too few rows is nothing that anybody must mend.
EXIT_CODES = {OK: 0, INSUFFICIENT: 0, WARNING: 1, CRITICAL: 2, ERROR: 3}

# Fewer rows than this say nothing about a distribution.
LEAST_ROWS = 500
# The chance that a stationary service is given any warning in one window, over all statistics of
# all its features. The floors make the true rate lower still.
FAMILY_ALPHA = 0.005


@dataclass(frozen=True)
class Floor:
    """The least effect that is worth a warning, and a critical verdict."""

    warning: float
    critical: float


# Effects are: psi the population stability index; mean a shift by the baseline's scale; sd
# |ln ratio| shown as a ratio - 1; js the Jensen-Shannon distance (base 2); unseen, nulls,
# defaults, stale shares of rows; dimension_mean in standard deviations; dimension_sd |ln ratio|;
# anchors 1 - median cosine; volume the share of requests that is missing.
FLOORS: Mapping[str, Floor] = {
    "psi": Floor(0.1, 0.2),
    "mean": Floor(0.10, 0.20),
    "sd": Floor(0.15, 0.30),
    "js": Floor(0.10, 0.15),
    "unseen": Floor(0.01, 0.03),
    "nulls": Floor(0.01, 0.05),
    "defaults": Floor(0.05, 0.20),
    "stale": Floor(0.01, 0.10),
    "dimension_mean": Floor(0.15, 0.5),
    "dimension_sd": Floor(0.15, 0.5),
    "anchors": Floor(0.3, 0.6),
    "volume": Floor(0.5, 0.9),
    "schema": Floor(0.5, 0.5),
}


@dataclass(frozen=True)
class Statistic:
    """One comparison: how large the effect is, and how likely it is by chance (``p``).

    ``limit``: the effect at which chance would be ruled out at the check's certainty; None where
    it is not one number.
    """

    name: str
    effect: float
    p: float
    limit: float | None = None

    def judge(self, floor: Floor, alpha: float) -> str:
        """Certain *and* large enough, or nothing."""
        if self.p >= alpha or self.effect < floor.warning:
            return OK
        return CRITICAL if self.effect >= floor.critical else WARNING


@dataclass(frozen=True)
class Finding:
    """A statistic with its verdict; ``feature`` is ``view:feature``, or the view alone."""

    feature: str
    statistic: str
    effect: float
    p: float
    warning: float
    critical: float
    verdict: str
    limit: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As `drift_runs.findings` holds it."""
        return asdict(self)


def worst(verdicts: Iterable[str]) -> str:
    """The gravest; ``ok`` of none."""
    return max(verdicts, key=_ORDER.__getitem__, default=OK)


def at_least(verdict: str, other: str) -> bool:
    """Whether ``verdict`` is as grave as ``other``."""
    return _ORDER[verdict] >= _ORDER[other]

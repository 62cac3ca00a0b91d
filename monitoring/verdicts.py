"""Verdicts of checks, and the floors that an effect must exceed to matter."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from extensions import exit_codes
from extensions.statistics.effect_floors import CRITICAL, DISTRIBUTION_FLOORS, OK, WARNING, Floor

__all__ = [
    "CRITICAL", "ERROR", "EXIT_CODES", "FAMILY_ALPHA", "FLOORS", "INSUFFICIENT", "LEAST_ROWS", "OK",
    "SYMPTOM", "UNWATCHED", "WARNING", "Finding", "Floor", "Statistic", "at_least", "worst",
]  # fmt: skip

INSUFFICIENT, ERROR = "insufficient", "error"
# Of single findings only: one that follows from another, and a feature that could not be watched.
SYMPTOM, UNWATCHED = "symptom", "unwatched"
_ORDER = {OK: 0, SYMPTOM: 0, UNWATCHED: 0, INSUFFICIENT: 1, WARNING: 2, CRITICAL: 3, ERROR: 4}
# What `skewless drift check` exits with. Too few rows is nothing that anybody must mend.
EXIT_CODES = {
    OK: exit_codes.OK,
    INSUFFICIENT: exit_codes.OK,
    WARNING: exit_codes.ATTENTION,
    CRITICAL: exit_codes.WRONG,
    ERROR: exit_codes.NOT_CHECKED,
}

# Fewer rows than this say nothing about a distribution.
LEAST_ROWS = 500
# The chance that a stationary service is given any warning in one window, over all statistics of
# all its features. The floors make the true rate lower still.
FAMILY_ALPHA = 0.005


# Effects are: psi the population stability index; mean a shift by the baseline's scale; sd
# |ln ratio| shown as a ratio - 1; outside, unseen, nulls, defaults, stale shares of rows; js the
# Jensen-Shannon distance (base 2); dimension_mean in standard deviations; dimension_sd |ln ratio|;
# anchors 1 - median cosine; volume the share of requests that is missing.
FLOORS: Mapping[str, Floor] = {
    **DISTRIBUTION_FLOORS,
    "mean": Floor(0.10, 0.20),
    "sd": Floor(0.15, 0.30),
    "outside": Floor(0.02, 0.05),
    "unseen": Floor(0.01, 0.03),
    "stale": Floor(0.01, 0.10),
    "dimension_mean": Floor(0.15, 0.5),
    "dimension_sd": Floor(0.15, 0.5),
    "anchors": Floor(0.3, 0.6),
    "volume": Floor(0.5, 0.9),
    "schema": Floor(0.5, 0.5),
}


@dataclass(frozen=True)
class Statistic:
    """One comparison: how large the effect is, and how likely it is by chance (``p``)."""

    name: str
    effect: float
    p: float

    def judge(self, floor: Floor, alpha: float) -> str:
        """A warning or critical verdict only if certain *and* above the floor."""
        return OK if self.p >= alpha else floor.judge(self.effect)


@dataclass(frozen=True)
class Finding:
    """A statistic with its verdict; ``feature`` is ``view:feature``, or the view alone.

    ``because``: a sentence for a symptom (what it follows from) and for what is not watched.
    """

    feature: str
    statistic: str
    effect: float
    p: float
    warning: float
    critical: float
    verdict: str
    because: str | None = None

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> "Finding":
        """Read what `to_json` wrote, now or in an earlier release."""
        return cls(**{name: held[name] for name in cls.__dataclass_fields__ if name in held})

    def to_json(self) -> dict[str, Any]:
        """As stored in `drift_runs.findings`."""
        return asdict(self)


def worst(verdicts: Iterable[str]) -> str:
    """The gravest verdict; symptoms and unwatched features count as ``ok``."""
    result = max(verdicts, key=_ORDER.__getitem__, default=OK)
    return result if _ORDER[result] else OK


def at_least(verdict: str, other: str) -> bool:
    """Whether ``verdict`` is as grave as ``other``."""
    return _ORDER[verdict] >= _ORDER[other]

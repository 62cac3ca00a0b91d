"""The report of a comparison: each difference with view, entity, side and cause, and coverage.

Every cause but `LAG` is a finding to be repaired; `advice` says how.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from extensions.value_text import evidence_text, time_text
from extensions.version_names import version_name

LAG = "lag"
NOT_COMPUTED = "not computed"
LEFT_WINDOW = "stale after leaving the window"
CLAIMED_ARRIVAL = "claimed arrival"
OVERDUE = "overdue"
LOG_GAP = "log gap"
NOT_PUBLISHED = "not published"
ONLINE_BEHIND = "online behind the log"
ONLINE_AHEAD = "online ahead of the log"
FUTURE_ROW = "future row"
BUG = "bug"


@dataclass(frozen=True)
class Cause:
    """``side``: which of history, log and online store is apart from the others."""

    side: str
    meaning: str
    advice: str


# In order of severity, the worst last. ``{view}`` and ``{name}`` (view.vN) are filled in.
CAUSES: Mapping[str, Cause] = {
    NOT_COMPUTED: Cause(
        "log",
        "history gives a value that the log lacks",
        "Run `skewless refresh --full --view {name}`.",
    ),
    LEFT_WINDOW: Cause(
        "log",
        "events left the window and the log still counts them",
        "Run `skewless refresh --full --view {name}`.",
    ),
    CLAIMED_ARRIVAL: Cause(
        "history",
        "history rows that became visible after the value was computed claim an earlier arrival",
        "Run `skewless refresh --full --view {name}`; for labels of the past, "
        "`skewless backfill {name} --again` over the range.",
    ),
    OVERDUE: Cause(
        "log",
        "the log is behind history by more than the view's freshness budget",
        "See that `skewless ingest` and `skewless refresh --due` run: `skewless status`.",
    ),
    LOG_GAP: Cause(
        "log",
        "no row of the log covers labels of that time: training gets an older value",
        "Run `skewless backfill {view} --from … --to …` over the gap.",
    ),
    NOT_PUBLISHED: Cause(
        "online",
        "the log has a newer row that was never published to Redis",
        "Run `skewless rebuild-online --view {name}`.",
    ),
    ONLINE_BEHIND: Cause(
        "online",
        "Redis lacks a row that was published: it lost it, or was restored from an older copy",
        "Run `skewless rebuild-online --view {name}`.",
    ),
    ONLINE_AHEAD: Cause(
        "online",
        "Redis has a row that the log does not have: PostgreSQL was restored from an older copy, "
        "or the row was written to Redis alone",
        "Run `skewless rebuild-online --view {name}`.",
    ),
    FUTURE_ROW: Cause(
        "online",
        "a row's event time lies ahead of the database's clock: it shuts out every true row",
        "Delete the row from the log, then run `skewless rebuild-online --view {name}`.",
    ),
    BUG: Cause(
        "log",
        "nothing explains the difference",
        "Please report it, with this line.",
    ),
}


@dataclass(frozen=True)
class Difference:
    """One entity whose values are apart. Values are by feature; None where that side has no row.

    ``as_of``: the instant that ``recomputed`` answers; ``label``: of a log gap, the label's time.
    """

    view: str
    version: int
    cause: str
    side: str
    why: str
    keys: Mapping[str, Any]
    as_of: datetime | None
    recomputed: Mapping[str, Any] | None
    logged: Mapping[str, Any] | None
    logged_as_of: datetime | None
    online: Mapping[str, Any] | None
    online_as_of: datetime | None
    label: datetime | None = None

    @property
    def name(self) -> str:
        """``view.vN``."""
        return version_name(self.view, self.version)

    @property
    def entity(self) -> str:
        """``visitor=5, sku=A-7``."""
        return ", ".join(f"{key}={value}" for key, value in self.keys.items())

    @property
    def advice(self) -> str:
        """How to repair it."""
        return CAUSES[self.cause].advice.format(view=self.view, name=self.name)

    def sentence(self) -> str:
        """One line: view, entity, cause, the values and what to do."""
        told = []
        if self.recomputed is not None:
            at = f" as of {time_text(self.as_of)}" if self.as_of else ""
            told.append(f"recomputed{at} {_short(self.recomputed)}")
        since = f" of {time_text(self.logged_as_of)}" if self.logged_as_of else ""
        told.append(f"log{since} {_short(self.logged)}")
        # Where log and history are apart, the online store was not looked at.
        if self.side == "online" or self.online is not None:
            since = f" of {time_text(self.online_as_of)}" if self.online_as_of else ""
            told.append(f"online{since} {_short(self.online)}")
        where = f" (label {time_text(self.label)})" if self.label else ""
        return f"{self.name} {self.entity}: {self.cause}{where}: {self.why}; {', '.join(told)}"


@dataclass(frozen=True)
class ViewComparison:
    """One view version: how many entities were compared, what differs, and what was not seen.

    ``origins``: entities by where the sample found them (history, log, online). ``counts``:
    entities by cause. ``lag``: differences that the freshness budget excuses. ``worst``: some of
    each cause. ``left_out``: sentences on what could not be compared.
    """

    view: str
    version: int
    as_of: datetime | None
    entities: int
    origins: Mapping[str, int]
    counts: Mapping[str, int]
    lag: int
    worst: tuple[Difference, ...]
    left_out: tuple[str, ...]
    blind: bool = False

    @property
    def name(self) -> str:
        """``view.vN``."""
        return version_name(self.view, self.version)

    @property
    def findings(self) -> int:
        """Differences that are not excused as lag."""
        return sum(self.counts.values())

    @property
    def bugs(self) -> int:
        """Differences without a known cause."""
        return self.counts.get(BUG, 0)


def _short(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "has no row"
    return "{" + ", ".join(f"{name}={evidence_text(value)}" for name, value in values.items()) + "}"

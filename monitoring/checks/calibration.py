"""Calibration of floors: replay past windows, and propose floors above ordinary variation."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from extensions.database import connect
from extensions.errors import InputError, SkewlessError
from extensions.value_text import exact_time_text
from monitoring.baseline import CATEGORICAL, NUMERIC, Baseline
from monitoring.checks import drift_store
from monitoring.checks.drift_check import measure, read_results
from monitoring.checks.serving_log_window import count_requests, whole_windows
from monitoring.verdicts import FLOORS, LEAST_ROWS, Floor

# A floor lies this much above the largest effect of an ordinary window.
HEADROOM = 1.25
LEAST_WINDOWS = 5
TOP_CATEGORIES = 5


@dataclass(frozen=True)
class Proposal:
    """One statistic over past windows, and the floor that would have been silent."""

    feature: str
    statistic: str
    windows: int
    median: float
    largest: float
    floor: Floor
    proposed: Floor

    @property
    def raised(self) -> bool:
        """Whether ordinary variation reaches the floor that is in force."""
        return self.proposed != self.floor


@dataclass(frozen=True)
class Range:
    """What a person would call a feature's usual values, as monitors of old state them.

    Numbers: the means and spreads of past windows, the least and greatest value of the training
    set. Categories: the most frequent ones and their shares.
    """

    feature: str
    mean: tuple[float, float] | None = None
    sd: tuple[float, float] | None = None
    minimum: float | None = None
    maximum: float | None = None
    top: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Calibration:
    """Proposals and ranges of one service over ``windows`` windows with enough rows."""

    service: str
    windows: int
    proposals: tuple[Proposal, ...]
    ranges: tuple[Range, ...]

    @property
    def floors(self) -> dict[tuple[str, str], Floor]:
        """The floors that would be raised."""
        return {(p.feature, p.statistic): p.proposed for p in self.proposals if p.raised}


def calibrate(
    url: str,
    service: str,
    length: timedelta,
    since: datetime,
    until: datetime,
    *,
    least_rows: int = LEAST_ROWS,
) -> Calibration:
    """Replay the windows between two timestamps; nothing is recorded and no alert is sent.

    Choose a span without incidents: what is replayed counts as ordinary.

    Raises:
        SkewlessError: too few windows have enough rows.
    """
    effects: dict[tuple[str, str], list[float]] = defaultdict(list)
    lives: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    count = 0
    with connect(url, autocommit=True, name="skewless drift") as conn:
        _, baseline = drift_store.bound_baseline(conn, service)
        with drift_store.alone(conn, service):
            for window in whole_windows(service, length, since, until):
                if count_requests(conn, window) < least_rows:
                    continue
                results = measure(conn, url, window, baseline, least_rows).results
                findings, errors = read_results(results)
                if errors:
                    raise SkewlessError(
                        f"The window from {exact_time_text(window.start)} cannot be measured: "
                        f"{errors[0]}"
                    )
                count += 1
                for finding in findings:
                    if finding.statistic in FLOORS and finding.statistic not in (
                        "schema",
                        "volume",
                    ):
                        effects[finding.feature, finding.statistic].append(finding.effect)
                for feature, live in _lives(results).items():
                    lives[feature].append(live)
        floors = drift_store.floors_of(conn, service)
    if count < LEAST_WINDOWS:
        raise InputError(
            f"Only {count} windows of {service} have {least_rows} requests: replay a longer span "
            "(--since), or longer windows."
        )
    proposals = [
        _proposal(key, values, floors.get(key, FLOORS[key[1]]))
        for key, values in sorted(effects.items())
    ]
    ranges = _ranges(baseline, lives)
    return Calibration(service, count, tuple(proposals), tuple(ranges))


def _proposal(key: tuple[str, str], values: Sequence[float], floor: Floor) -> Proposal:
    largest = max(values)
    proposed = floor
    if largest * HEADROOM > floor.warning:
        # The distance between warning and critical stays what it was.
        warning = largest * HEADROOM
        proposed = Floor(round(warning, 6), round(warning * floor.critical / floor.warning, 6))
    return Proposal(key[0], key[1], len(values), float(np.median(values)), largest, floor, proposed)


def _lives(results: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    live_of = {}
    for result in results:
        details = result["result"].get("details") if result["result"] else None
        if details and ("mean" in details["live"] or "counts" in details["live"]):
            live_of[str(result["expectation_config"]["kwargs"]["feature"])] = details["live"]
    return live_of


def _ranges(baseline: Baseline, lives: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Range]:
    result = []
    for feature in baseline.features:
        label, seen = feature.feature.label, lives.get(feature.feature.label, ())
        if feature.feature.kind == NUMERIC:
            means = [float(live["mean"]) for live in seen if "mean" in live]
            sds = [float(live["sd"]) for live in seen if "sd" in live]
            if means:
                least, greatest = feature.content["minimum"], feature.content["maximum"]
                result.append(Range(label, _around(means), _around(sds), least, greatest))
        elif feature.feature.kind == CATEGORICAL:
            totals: dict[str, float] = defaultdict(float)
            for live in seen:
                for name, count in live["counts"].items():
                    totals[name] += count
            everything = sum(totals.values()) or 1.0
            most = sorted(totals.items(), key=lambda each: -each[1])[:TOP_CATEGORIES]
            result.append(Range(label, top={name: count / everything for name, count in most}))
    return result


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest, widened by three deviations of the windows'."""
    spread = 3 * float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return (min(values) - spread, max(values) + spread)

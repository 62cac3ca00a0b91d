"""Drift rules: false alarms and detection, ours beside the published rule and Evidently's."""

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.drift_platform import (
    DRIFTS,
    FEATURES,
    STATIONARY,
    baseline,
    draw,
    many_features,
    serve_many,
    tastes,
)
from benchmarks.report import Row, arguments, publish
from extensions.database import connect, connect_arrow, migrate
from extensions.local import postgres
from monitoring import records, statistics
from monitoring.baseline import CATEGORICAL, EMBEDDING, NUMERIC, Baseline, text
from monitoring.drift import _as_json, read_results
from monitoring.suite import Rules
from monitoring.verdicts import CRITICAL, WARNING, Floor, Statistic, at_least, worst
from monitoring.window import Window, relations

SIZES = (200, 1_000, 10_000)
ROWS_PER_HOUR = 500
BASELINE_ROWS = 10_000
# A year of hours that never end is no answer.
LONGEST_HOURS = 200


def main() -> None:
    """All parts, on the same draws."""
    args = arguments(__doc__.splitlines()[0])
    runs = 100 if args.quick else 1_000
    detections = 20 if args.quick else 200
    rules = {"ours": Ours(baseline(BASELINE_ROWS)), "published": Published(BASELINE_ROWS)}
    evidently = Evidently.made(BASELINE_ROWS)
    rows = false_alarms(rules, evidently, runs, 1 if args.quick else 50)
    rows += detected(rules, evidently, detections, 1 if args.quick else 10)
    rows += at_scale(100_000 if args.quick else 1_000_000)
    publish("drift", rows, args)


@dataclass(frozen=True)
class Ours:
    """Our statistics and floors, on numbers that numpy measured."""

    base: Baseline

    def verdict(self, columns: Mapping[str, Any], *, rotated: bool = False) -> str:
        """The gravest verdict over all features of one window."""
        rules = Rules.of(self.base, least_rows=1)
        n = len(columns["score"])
        verdicts = []
        for one in self.base.features:
            content, label = one.content, one.feature.label
            values = columns[one.feature.name]
            found = []
            if one.feature.kind == NUMERIC:
                held = np.asarray(values, float)
                kept = held[np.isfinite(held)]
                counts = np.histogram(kept, [-np.inf, *content["edges"], np.inf])[0]
                m, alpha = one.values, rules.alpha  # noqa: PD011
                found = [
                    statistics.psi(counts.tolist(), content["weights"], m, alpha),
                    statistics.mean_shift(
                        kept.mean(), len(kept), content["mean"], content["sd"], m, alpha
                    ),
                    statistics.sd_shift(
                        kept.std(ddof=1), len(kept), content["sd"], content["kurtosis"], m, alpha
                    ),
                    statistics.share_shift("nulls", n - len(kept), n, one.null_rate, one.rows),
                ]
            elif one.feature.kind == CATEGORICAL:
                names, numbers = np.unique(values, return_counts=True)
                live = {text(a): int(b) for a, b in zip(names, numbers, strict=True)}
                known = {k: v for k, v in live.items() if k in content["frequencies"]}
                unseen = n - sum(known.values())
                merged = {**known, "": unseen} if unseen else known
                found = [
                    statistics.js_distance(merged, content["frequencies"], one.values, rules.alpha),
                    statistics.share_shift("unseen", unseen, n, content["other"], one.values),
                ]
            elif one.feature.kind == EMBEDDING:
                vectors = np.asarray(values, float)
                found = list(
                    statistics.dimension_shifts(
                        vectors.mean(axis=0),
                        vectors.std(axis=0, ddof=1),
                        n,
                        np.array(content["means"]),
                        np.array(content["sds"]),
                        np.array(content["kurtoses"]),
                        one.values,
                        rules.alpha,
                    )
                )
                found.append(self._anchors(content, rotated=rotated))
            floors = rules.floors_of(label)
            verdicts += [s.judge(Floor(**floors[s.name]), rules.alpha) for s in found]
        return worst(verdicts)

    @staticmethod
    def _anchors(content: Mapping[str, Any], *, rotated: bool) -> Statistic:
        users = np.array([anchor["keys"][0] for anchor in content["anchors"]])
        now = tastes(users, dataclasses.replace(STATIONARY, rotation=rotated))
        then = np.array([anchor["vector"] for anchor in content["anchors"]])
        return statistics.lost_anchors(np.asarray(now, float), then, 0.3)


class Published:
    """The published rule: mean within 20 %, sd within 30 %, of numeric features only."""

    def __init__(self, rows: int) -> None:
        columns = draw(STATIONARY, rows, np.random.default_rng(1))
        self._base = {
            f.name: (float(np.nanmean(columns[f.name])), float(np.nanstd(columns[f.name])))
            for f in FEATURES
            if f.kind == NUMERIC
        }

    def verdict(self, columns: Mapping[str, Any], *, rotated: bool = False) -> str:  # noqa: ARG002
        """A shift beyond its thresholds is critical; there is no warning."""
        for name, (mean, sd) in self._base.items():
            live = np.asarray(columns[name], float)
            if abs(np.nanmean(live) - mean) > 0.2 * abs(mean):
                return CRITICAL
            if abs(np.nanstd(live) - sd) > 0.3 * sd:
                return CRITICAL
        return "ok"


class Evidently:
    """Evidently's defaults: a test by type and size for each column; any column alarms.

    It compares no vectors: each dimension is a column of its own, as its guide advises.
    """

    def __init__(self, rows: int, report: Any, metric: Any, definition: Any, dataset: Any) -> None:
        self._report, self._metric = report, metric
        self._definition, self._dataset = definition, dataset
        self._reference = self._as_dataset(draw(STATIONARY, rows, np.random.default_rng(1)))

    @classmethod
    def made(cls, rows: int) -> "Evidently | None":
        """None where it is not installed."""
        os.environ["DO_NOT_TRACK"] = "1"
        try:
            from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415
            from evidently.metrics import DriftedColumnsCount  # noqa: PLC0415
        except ImportError:
            return None
        return cls(rows, Report, DriftedColumnsCount, DataDefinition, Dataset)

    def verdict(self, columns: Mapping[str, Any], *, rotated: bool = False) -> str:  # noqa: ARG002
        """Critical when its summary counts any drifted column."""
        result = self._report([self._metric()]).run(self._as_dataset(columns), self._reference)
        [metric] = result.dict()["metrics"]
        return CRITICAL if metric["value"]["count"] > 0 else "ok"

    def _as_dataset(self, columns: Mapping[str, Any]) -> Any:
        frame = pd.DataFrame({f.name: columns[f.name] for f in FEATURES if f.kind != EMBEDDING})
        for f in FEATURES:
            if f.kind == EMBEDDING:
                vectors = columns[f.name]
                parts = {f"{f.name}_{d}": vectors[:, d] for d in range(vectors.shape[1])}
                frame = pd.concat([frame, pd.DataFrame(parts)], axis=1)
        numbers = [name for name in frame.columns if name != "genre"]
        definition = self._definition(numerical_columns=numbers, categorical_columns=["genre"])
        return self._dataset.from_pandas(frame, data_definition=definition)


def false_alarms(
    rules: Mapping[str, Any], evidently: Any, runs: int, evidently_runs: int
) -> list[Row]:
    """Checks of a stationary service that raise anything, in percent."""
    rows = []
    for n in SIZES:
        raised = dict.fromkeys(rules, 0)
        critical = [False]
        in_a_row = others = 0
        for run in range(runs):
            columns = draw(STATIONARY, n, np.random.default_rng([2, n, run]))
            for name, rule in rules.items():
                verdict = rule.verdict(columns)
                raised[name] += at_least(verdict, WARNING)
                if name == "ours":
                    critical.append(verdict == CRITICAL)
                    in_a_row += critical[-1] and critical[-2]
            if evidently is not None and run < evidently_runs:
                others += evidently.verdict(columns) == CRITICAL
        what = f"stationary, 7 features, {n:,} rows, {runs:,} checks"
        percent: dict[str, Any] = {"unit": "% of checks", "better": "lower", "runs": runs}
        rows += [
            Row(
                f"{what}; stock: the published rule",
                "false alarms, warning or worse",
                ours=100 * raised["ours"] / runs,
                stock=100 * raised["published"] / runs,
                **percent,
            ),
            Row(
                f"{what}",
                "critical twice in a row",
                ours=float(in_a_row),
                unit="times",
                better="lower",
                runs=runs,
            ),
        ]
        if evidently is not None:
            rows.append(
                Row(
                    f"{what}; stock: Evidently's defaults ({evidently_runs} checks)",
                    "false alarms, warning or worse",
                    ours=100 * raised["ours"] / runs,
                    stock=100 * others / evidently_runs,
                    **percent,
                )
            )
    return rows


def detected(rules: Mapping[str, Any], evidently: Any, runs: int, evidently_runs: int) -> list[Row]:
    """Checks of 1,000 rows that see the drift, in percent, and hours of traffic until then."""
    rows = []
    for place, (name, world) in enumerate(DRIFTS.items()):
        found = dict.fromkeys((*rules, "evidently"), 0)
        for run in range(runs):
            columns = draw(world, 1_000, np.random.default_rng([3, place, run]))
            for one, rule in rules.items():
                found[one] += at_least(rule.verdict(columns, rotated=world.rotation), WARNING)
            if evidently is not None and run < evidently_runs:
                found["evidently"] += evidently.verdict(columns) == CRITICAL
        share: dict[str, Any] = {"unit": "% of checks", "better": "higher", "runs": runs}
        ours = 100 * found["ours"] / runs
        rows.append(
            Row(
                f"{name}, 1,000 rows; stock: the published rule",
                "detected",
                ours=ours,
                stock=100 * found["published"] / runs,
                **share,
            )
        )
        if evidently is not None:
            rows.append(
                Row(
                    f"{name}, 1,000 rows; stock: Evidently's defaults ({evidently_runs} checks)",
                    "detected",
                    ours=ours,
                    stock=100 * found["evidently"] / evidently_runs,
                    **share,
                )
            )
        rows.append(_hours(name, rules, found, evidently, runs, evidently_runs))
    return rows


def _hours(
    name: str,
    rules: Mapping[str, Any],
    found: Mapping[str, int],
    evidently: Any,
    runs: int,
    evidently_runs: int,
) -> Row:
    """Two hours fill a window of 1,000; a rule that sees a share p of them needs 2 / p hours."""
    window = 1_000 / ROWS_PER_HOUR

    def hours(share: float) -> float | None:
        return window / share if share and window / share < LONGEST_HOURS else None

    seen = {one: hours(found[one] / runs) for one in rules}
    other = hours(found["evidently"] / evidently_runs) if evidently is not None else None
    said = f"Evidently: {'never' if other is None else f'{other:.1f} h'}"
    if seen["published"] is None:
        said += "; the published rule: never"
    return Row(
        f"{name} at {ROWS_PER_HOUR} rows/h; stock: the published rule",
        "time to detect",
        "h",
        "lower",
        ours=seen["ours"],
        stock=seen["published"],
        runs=runs,
        why=said,
    )


def at_scale(rows: int) -> list[Row]:
    """A check of 20 features in PostgreSQL, and the same classes on the same rows in pandas."""
    with tempfile.TemporaryDirectory() as folder:
        server = postgres.start(Path(folder) / "postgres", durable=False)
        try:
            migrate(server.url)
            with connect(server.url, autocommit=True) as conn:
                base, features = many_features()
                records.bind(conn, base)
                window = serve_many(conn, server.url, features, rows)
                conn.execute("VACUUM ANALYZE")
                seconds, megabytes = _in_its_own_process(server.url, window)
                [run] = records.recent_runs(conn, window.service, 1)
                equal = _equal_in_pandas(conn, base, window, run, server.url)
        finally:
            server.stop()
    what = f"check of {len(features)} features over {rows:,} logged rows, in PostgreSQL"
    return [
        Row(
            what,
            "wall",
            "s",
            "lower",
            ours=seconds,
            equal=equal,
            why="equal: findings and verdicts are pandas'",
        ),
        Row(what, "peak memory of the process", "MB", "lower", ours=megabytes,
            why="Feast and Great Expectations are most of it"),
    ]  # fmt: skip


_CHECK = """
import resource, sys, time
from datetime import datetime
import monitoring.suite
from monitoring.drift import check
from monitoring.window import Window
url, service, start, end = sys.argv[1:]
window = Window(service, datetime.fromisoformat(start), datetime.fromisoformat(end))
began = time.perf_counter()
run = check(url, window)
assert run.error is None, run.error
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _in_its_own_process(url: str, window: Window) -> tuple[float, float]:
    """Seconds of the check (imports left out) and megabytes at most, as cron would run it."""
    ends = (window.start.isoformat(), window.end.isoformat())
    done = subprocess.run(
        [sys.executable, "-c", _CHECK, url, window.service, *ends],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    seconds, megabytes = map(float, done.stdout.split()[-2:])
    return seconds, megabytes


def _equal_in_pandas(conn: Any, base: Baseline, window: Window, run: records.Run, url: str) -> bool:
    from monitoring import suite  # noqa: PLC0415 - Great Expectations takes seconds

    rules = Rules.of(base)
    measuring = suite.Measuring()
    results: list[dict[str, Any]] = []
    with relations(conn, base, window) as found:
        for view, relation in found.views.items():
            frame = _frame(url, relation.name)
            asked = suite.expectations_of(base, view, rules, set(relation.columns))
            results += _as_json(measuring.validate(measuring.of_frame(frame), asked))
    findings, errors = read_results(results)
    key: Callable[[Any], Any] = lambda one: (one.feature, one.statistic)  # noqa: E731
    ours = sorted((f for f in run.findings if f.statistic != "anchors"), key=key)
    theirs = sorted(findings, key=key)
    return not errors and [(key(f), f.verdict, round(f.effect, 9)) for f in ours] == [
        (key(f), f.verdict, round(f.effect, 9)) for f in theirs
    ]


def _frame(url: str, relation: str) -> pd.DataFrame:
    with connect_arrow(url) as arrow, arrow.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {relation}")
        frame: pd.DataFrame = cursor.fetch_arrow_table().to_pandas()
    return frame


if __name__ == "__main__":
    main()

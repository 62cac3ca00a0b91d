"""Drift rules: false alarms and detection, ours beside the published rule and Evidently's."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from benchmarks import drift_hours, drift_real
from benchmarks.drift_platform import (
    DRIFTS,
    STATIONARY,
    WIDE_DRIFTS,
    World,
    draw,
    many_features,
    serve_many,
)
from benchmarks.drift_rules import Evidently, Ours, Published
from benchmarks.report import Row, arguments, publish
from extensions.database import connect, connect_arrow, migrate
from extensions.local import postgres
from extensions.repository import repo_root
from extensions.version_names import HISTORY
from monitoring import suite
from monitoring.baseline import Baseline
from monitoring.checks import drift_store
from monitoring.checks.drift_check import as_json, for_window, read_results
from monitoring.checks.serving_log_window import Window, relations
from monitoring.verdicts import CRITICAL, OK, WARNING, at_least

# Rows of a window, and the most false alarms that are asked for, in percent of checks.
SIZES = {200: 2.5, 1_000: 0.5, 10_000: 0.5}
DETECTED_ROWS = 1_000
ROWS_PER_HOUR = 500
BASELINE_ROWS = 10_000
# One training set may be a lucky one: windows are compared with several.
BASELINES = 20
RIVALS = {
    "published": "the published rule",
    Evidently.BY_CLASSIFIER: "Evidently's defaults",
    Evidently.BY_DIMENSION: "Evidently's, each dimension a column",
}
# Our rule on the windows that Evidently looked at too.
BESIDE_EVIDENTLY = "ours beside Evidently"
# A year of hours that never end is no answer.
LONGEST_HOURS = 200


@dataclass(frozen=True)
class Runs:
    """How many windows our rule and the published one look at; Evidently takes seconds for each."""

    checks: int
    evidently: int

    def of(self, rule: str) -> int:
        """Windows that a rule looked at."""
        return self.checks if rule in ("ours", "published") else self.evidently

    def shared(self, run: int) -> bool:
        """Whether Evidently looks at this window too; evenly over all."""
        return run * self.evidently // self.checks != (run + 1) * self.evidently // self.checks


@dataclass(frozen=True)
class Rules:
    """The rules with what they know of one training set."""

    ours: Ours
    published: Published
    evidently: Evidently

    @classmethod
    def of(cls, seed: int) -> "Rules":
        """All of the same rows."""
        return cls(*(rule(BASELINE_ROWS, seed) for rule in (Ours, Published, Evidently)))  # type: ignore[arg-type]


def main() -> None:
    """All parts, on the same draws."""
    args = arguments(__doc__.splitlines()[0])
    trained = [Rules.of(seed) for seed in range(1, 2 if args.quick else BASELINES + 1)]
    counts = drift_real.QUICK if args.quick else drift_real.FULL
    stationary = Runs(40, 1) if args.quick else Runs(1_000, 20)
    drifting = Runs(10, 1) if args.quick else Runs(1_000, 10)
    parts: list[Callable[[], list[Row]]] = [
        *(partial(false_alarms, trained, n, stationary) for n in SIZES),
        *(partial(detected, trained, name, drifting) for name in DRIFTS),
        *drift_real.parts(counts),
        *drift_hours.parts(counts),
    ]
    rows = in_processes(parts)
    # What is timed runs alone.
    rows += at_scale(100_000 if args.quick else 1_000_000)
    publish("drift", rows, args)


def in_processes(parts: Sequence[Callable[[], list[Row]]]) -> list[Row]:
    """The rows of all parts in their order; each is run by a process that has the imports."""
    processes = 2 * (os.cpu_count() or 1)  # some parts are much longer than others
    _PARTS[:] = parts
    with get_context("fork").Pool(processes) as pool:
        return [row for rows in pool.map(_part, range(len(parts)), chunksize=1) for row in rows]


# What a forked process finds here; a training set with a rival's objects cannot be sent.
_PARTS: list[Callable[[], list[Row]]] = []


def _part(place: int) -> list[Row]:
    return _PARTS[place]()


def alarms(
    trained: list[Rules], world: World, n: int, runs: Runs, seed: list[int]
) -> Iterator[tuple[str, dict[str, bool]]]:
    """Of each window our verdict, and which of the others alarm."""
    for run in range(runs.checks):
        rules = trained[run * len(trained) // runs.checks]
        rng = np.random.default_rng([*seed, run])
        columns = draw(world, n, rng)
        ours = rules.ours.verdict(columns, world, rng)
        alarm = at_least(ours, WARNING)
        raised = {"ours": alarm, "published": rules.published.verdict(columns) != OK}
        if runs.shared(run):
            raised |= {BESIDE_EVIDENTLY: alarm, **rules.evidently.alarms(columns)}
        yield ours, raised


def false_alarms(trained: list[Rules], n: int, runs: Runs) -> list[Row]:
    """Checks of a stationary service that raise anything, in percent."""
    raised: Counter[str] = Counter()
    critical = [False]
    for ours, others in alarms(trained, STATIONARY, n, runs, [2, n]):
        raised.update(name for name, one in others.items() if one)
        critical.append(ours == CRITICAL)
    what = f"stationary, 7 features, {n:,} rows, {runs.checks:,} checks"
    share = _shares(raised, runs)
    rows = [
        Row(
            f"{what}{_beside(rival, runs)}", "false alarms, warning or worse", "% of checks",
            "lower", share[_ours(rival)], share[rival], runs=runs.of(rival),
            why=f"asked for: at most {SIZES[n]} %",
        )
        for rival in RIVALS
    ]  # fmt: skip
    in_a_row = sum(a and b for a, b in pairwise(critical))
    rows.append(
        Row(what, "critical twice in a row", "times", "lower", float(in_a_row),
            runs=runs.checks, why="asked for: 0")
    )  # fmt: skip
    return rows


def detected(trained: list[Rules], name: str, runs: Runs) -> list[Row]:
    """Checks of 1,000 rows that see the drift, in percent, and hours of traffic until then."""
    seen: Counter[str] = Counter()
    seed = [3, list(DRIFTS).index(name)]
    for _, raised in alarms(trained, DRIFTS[name], DETECTED_ROWS, runs, seed):
        seen.update(one for one, yes in raised.items() if yes)
    share = _shares(seen, runs)
    what = f"{name}, {DETECTED_ROWS:,} rows, {runs.checks:,} checks"
    rows = [
        Row(
            f"{what}{_beside(rival, runs)}", "detected", "% of checks", "higher",
            share[_ours(rival)], share[rival], runs=runs.of(rival), why=_said(rival, share),
        )
        for rival in RIVALS
    ]  # fmt: skip
    hours = {one: _hours(share[one]) for one in ("ours", *RIVALS)}
    others = "; ".join(
        f"{RIVALS[one]}: {'never' if hours[one] is None else f'{hours[one]:.1f} h'}"
        for one in RIVALS
    )
    rows.append(
        Row(f"{name} at {ROWS_PER_HOUR} rows/h; stock: {RIVALS['published']}",
            "time to detect", "h", "lower", hours["ours"], hours["published"],
            runs=runs.checks, why=others)
    )  # fmt: skip
    return rows


def _shares(raised: Mapping[str, int], runs: Runs) -> dict[str, float]:
    names = ("ours", BESIDE_EVIDENTLY, *RIVALS, Evidently.OF_DATA_SET)
    return {one: 100 * raised.get(one, 0) / runs.of(one) for one in names}


def _ours(rival: str) -> str:
    """Whose share to show beside a rival's: of the same windows."""
    return "ours" if rival == "published" else BESIDE_EVIDENTLY


def _beside(rival: str, runs: Runs) -> str:
    fewer = "" if runs.of(rival) == runs.checks else f", {runs.of(rival)} of them"
    return f"{fewer}; stock: {RIVALS[rival]}"


def _said(rival: str, share: Mapping[str, float]) -> str:
    if rival != Evidently.BY_CLASSIFIER:
        return "asked for: at least 95 %"
    return f"asked for: at least 95 %; Evidently's data set drift: {share[Evidently.OF_DATA_SET]} %"


def _hours(percent: float) -> float | None:
    """Two hours fill a window of 1,000; a rule that sees a share p of them needs 2 / p hours."""
    window = DETECTED_ROWS / ROWS_PER_HOUR
    found = 100 * window / percent if percent else LONGEST_HOURS
    return found if found < LONGEST_HOURS else None


def at_scale(rows: int) -> list[Row]:
    """A check of 20 features in PostgreSQL, and the same classes on the same rows in pandas."""
    with tempfile.TemporaryDirectory() as folder, _Checking() as checking:
        server = postgres.start(Path(folder) / "postgres", durable=False)
        try:
            migrate(server.url, repo_root() / HISTORY)
            with connect(server.url, autocommit=True) as conn:
                base, features = many_features()
                drift_store.bind(conn, base)
                window = serve_many(conn, server.url, features, rows)
                conn.execute("VACUUM ANALYZE")
                took = checking.check(server.url, window)
                [run] = drift_store.recent_runs(conn, window.service, 1)
                equal = _equal_in_pandas(conn, base, window, run, server.url)
        finally:
            server.stop()
    assert run.requests == rows
    bad = {one.feature for one in run.findings if at_least(one.verdict, WARNING)}
    what = f"check of {len(features)} features over {rows:,} logged rows, in PostgreSQL"
    return [
        Row(what, "wall", "s", "lower", took["seconds"], equal=equal and bad == {WIDE_DRIFTS},
            why=f"`skewless drift check`, and {took['imports']:.1f} s of imports; equal: findings "
            f"and verdicts are pandas', and the one feature that drifts is named"),
        Row(what, "peak memory of the process", "MB", "lower", took["peak"],
            why=f"{took['before']:.0f} MB after the imports"),
    ]  # fmt: skip


_CHECK = """
import json, os, sys, time
from pathlib import Path
begun = time.perf_counter()
import monitoring.suite, monitoring.checks.drift_schedule, monitoring.prometheus_exporter
from typer.testing import CliRunner
from extensions.cli.app import app
def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(one for one in lines if one.startswith(name + ":")).split()[1]) / 1024
imports, before = time.perf_counter() - begun, megabytes("VmRSS")
os.environ["SKEWLESS_POSTGRES_URL"], arguments = json.loads(sys.stdin.readline())
began = time.perf_counter()
done = CliRunner().invoke(app, arguments)
assert done.exit_code == 4, (done.exit_code, done.output, done.exception)
print(json.dumps({"seconds": time.perf_counter() - began, "imports": imports,
                  "before": before, "peak": megabytes("VmHWM")}))
"""


class _Checking:
    """The command that cron runs, in a process of its own; it imports while rows are made."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHECK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def check(self, url: str, window: Window) -> dict[str, float]:
        """Its seconds, those of its imports, and its memory in MB."""
        ends = ("--from", window.start.isoformat(), "--to", window.end.isoformat())
        asked = [url, ["drift", "check", window.service, *ends]]
        said, _ = self._process.communicate(json.dumps(asked) + "\n")
        assert self._process.returncode == 0
        found: dict[str, float] = json.loads(said.splitlines()[-1])
        return found


def _equal_in_pandas(
    conn: Any, base: Baseline, window: Window, run: drift_store.Run, url: str
) -> bool:
    rules = suite.Rules.of(base)
    base, _ = for_window(conn, window, base)
    measuring = suite.Measuring()
    results: list[dict[str, Any]] = []
    with relations(conn, base, window) as found:
        for view, relation in found.views.items():
            frame = _frame(url, relation.name)
            asked = suite.expectations_of(base, view, rules, set(relation.columns))
            results += as_json(measuring.validate(measuring.of_frame(frame), asked))
    findings, errors = read_results(results)
    key: Callable[[Any], Any] = lambda one: (one.feature, one.statistic)  # noqa: E731
    ours, theirs = sorted(run.findings, key=key), sorted(findings, key=key)
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

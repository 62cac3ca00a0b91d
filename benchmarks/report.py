"""One row per measurement, one table and one JSON shape for all benchmarks."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measurement. ``ratio``: how many times better ours is than stock, whatever the metric.

    ``ours``, ``stock`` and ``limit`` are medians over ``runs`` in ``unit``; ``spread`` is ours'
    least and greatest. ``equal``: whether both sides' outputs agreed; None where there is nothing
    to compare. ``why`` says what a missing figure lacks, or explains a difference.
    """

    work: str
    metric: str
    unit: str
    better: Literal["lower", "higher"]
    ours: float | None
    stock: float | None = None
    limit: float | None = None
    runs: int = 1
    spread: tuple[float, float] | None = None
    equal: bool | None = None
    why: str | None = None

    @property
    def ratio(self) -> float | None:
        """Above 1 is better."""
        if not self.ours or not self.stock:
            return None
        return self.stock / self.ours if self.better == "lower" else self.ours / self.stock


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs of one piece of work."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Least and greatest: how noisy the machine was."""
        return min(self.seconds), max(self.seconds)


def timed(work: Callable[[], Any], runs: int) -> tuple[Timing, Any]:
    """Run ``work`` several times; returns its timings and the last result."""
    seconds = []
    result = None
    for _ in range(runs):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return Timing(tuple(seconds)), result


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` (under a minute) and ``--json FILE``, the same for every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller, under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    return parser.parse_args()


def publish(benchmark: str, rows: Sequence[Row], args: argparse.Namespace) -> None:
    """Print the table and, where asked, write the JSON."""
    table = Table(title=f"{benchmark}{' (quick)' if args.quick else ''}", title_justify="left")
    for column in ("work", "metric", "ours", "stock", "limit", "ratio", "spread", "equal"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            row.work,
            f"{row.metric} [{row.unit}]".replace("[", r"\["),
            _figure(row.ours),
            _figure(row.stock),
            _figure(row.limit),
            f"{row.ratio:.1f}x" if row.ratio else "",
            " – ".join(_figure(value) for value in row.spread) if row.spread else "",
            {True: "yes", False: "NO", None: ""}[row.equal] + (f" ({row.why})" if row.why else ""),
        )
    Console(width=140).print(table)
    if args.json:
        args.json.write_text(
            json.dumps(
                {
                    "benchmark": benchmark,
                    "quick": args.quick,
                    "machine": machine(),
                    "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
                },
                indent=1,
            )
        )


def machine() -> dict[str, Any]:
    """What a reader needs to judge absolute figures: never a host name or a path."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"

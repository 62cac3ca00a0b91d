"""The whole kill matrix, run by `make test-faults`: each command and victim, each failpoint.

``SKEWLESS_SEED`` replays a run; ``SKEWLESS_ROUNDS`` changes how often each command and victim meet
at a random instant (1); ``SKEWLESS_CELLS`` chooses some of the cells, as in
``apply/postgres/*;drift*/*/random``; ``SKEWLESS_MINUTES`` ends a run early, which then says what it
left out; ``SKEWLESS_FIGURES`` names a JSON file to which the figures of docs/benchmarks.md go: the
parts of a matrix that is run in parts add up there.
"""

import json
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.report import Row
from tests.faults.kill_matrix import kill_matrix
from tests.faults.operation import Result


@pytest.mark.timeout(7200)
def test_the_whole_kill_matrix(tmp_path: Path) -> None:
    seed = int(os.environ.get("SKEWLESS_SEED", random.randrange(1_000_000)))
    rounds = int(os.environ.get("SKEWLESS_ROUNDS", "1"))
    minutes = float(os.environ.get("SKEWLESS_MINUTES", "inf"))
    chosen = os.environ.get("SKEWLESS_CELLS", "*").split(";")
    results: list[Result] = []
    failed: list[str] = []
    left_out = 0
    began = time.monotonic()
    with kill_matrix(tmp_path, seed) as matrix:
        cells = [
            cell
            for cell in matrix.cells(rounds)
            if any(fnmatch(cell.name, pattern) for pattern in chosen)
        ]
        _say(f"kill matrix: seed {seed}, {len(cells)} kills")
        for cell in cells:
            if time.monotonic() - began > 60 * minutes:
                left_out += 1
                continue
            try:
                results.append(matrix.run(cell))
                _say(f"{time.monotonic() - began:6.0f} s  {results[-1]}")
            except Exception as error:  # noqa: BLE001 - the other cells are run nevertheless
                failed.append(f"{cell}: {type(error).__name__}: {error}"[:2000])
                _say(f"FAILED {failed[-1]}")
        part = Part(
            seed,
            round(time.monotonic() - began),
            [asdict(result) for result in results],
            failed,
            left_out,
            matrix.platform.answered,
            matrix.platform.refused,
        )
    if path := os.environ.get("SKEWLESS_FIGURES"):
        write_figures(Path(path), part)
    for row in figures([part]):
        _say(f"{row.work}: {row.ours} {row.metric} ({row.why})")
    assert not failed, f"{len(failed)} of {len(cells)}, see above"
    assert sum(result.hit for result in results) > len(results) / 2


@dataclass(frozen=True)
class Part:
    """What one run did; ``results`` as JSON has them."""

    seed: int
    seconds: float
    results: list[dict[str, Any]]
    failed: list[str]
    left_out: int
    answered: int
    refused: int


def figures(parts: Sequence[Part]) -> list[Row]:
    """One row for each command, one for all of them, one for the requests beside them."""
    by_operation: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for part in parts:
        for result in part.results:
            by_operation[result["cell"]["operation"]].append(result)
    rows = [
        Row(
            f"{name}: {_victims(of)}", "survived", "kills", "higher", float(len(of)),
            spread=(min(r["seconds"] for r in of), max(r["seconds"] for r in of)), equal=True,
            why=f"{sum(r['hit'] for r in of)} while it ran, of them "
            f"{sum(bool(r['cell']['at']) for r in of)} at failpoints; spread: seconds for kill, "
            "repair and judgement",
        )
        for name, of in by_operation.items()
    ]  # fmt: skip
    failed = [each for part in parts for each in part.failed]
    kills = sum(len(part.results) for part in parts)
    seconds = sum(part.seconds for part in parts)
    return [
        *rows,
        Row("all commands", "lost, doubled or wrong afterwards", "kills", "lower",
            float(len(failed)), equal=not failed,
            why=f"{kills} kills survived in {seconds / 60:.0f} minutes, "
            f"{sum(part.left_out for part in parts)} cells of the matrix not run to their end"),
        Row("rankings over HTTP beside the kills of versions and drift checks",
            "answered, none of mixed versions", "answers", "higher",
            float(sum(part.answered for part in parts)), equal=not failed,
            why=f"{sum(part.refused for part in parts)} failed, all while Redis was away"),
    ]  # fmt: skip


def write_figures(path: Path, part: Part) -> None:
    """Add a part to the figures in a file, as docs/benchmarks.md is rendered from them."""
    known = json.loads(path.read_text())["parts"] if path.exists() else []
    parts = [*(Part(**each) for each in known), part]
    page = {
        "benchmark": "faults",
        "title": "Faults survived",
        "command": "make test-faults",
        "quick": False,
        "machine": {
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "python": sys.version.split()[0],
            "system": sys.platform,
        },
        "rows": [asdict(row) | {"ratio": row.ratio} for row in figures(parts)],
        "parts": [asdict(each) for each in parts],
    }
    path.write_text(json.dumps(page, indent=1) + "\n")


def _victims(results: Sequence[dict[str, Any]]) -> str:
    victims = [result["cell"]["victim"] for result in results]
    return ", ".join(f"{victim} {victims.count(victim)}" for victim in dict.fromkeys(victims))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

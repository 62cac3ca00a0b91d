"""Hostile input: what the stream and its commands bear, as the fault suite measured it.

`python -m benchmarks.hostile [--quick] [--json FILE]` runs the tests of `tests/faults` that record
figures, in their long form: 100,000 messages, a million dead letters. A test that fails has no row.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.report import Row, arguments, publish

TESTS = ("hostile_messages", "million_letters", "full_servers", "clock_jumps")
# A memory that may grow, in MB, by what the tests assert.
MOST = {"messages": 200, "commands": 150}


def main() -> None:
    args = arguments(__doc__ or "")
    files = [f"tests/faults/test_{name}.py" for name in TESTS]
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.jsonl"
        figures.touch()
        sizes = {} if args.quick else {"HOSTILE_MESSAGES": "100000", "LETTERS": "1000000"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *files],
            env=os.environ | sizes | {"FAULTS_JSON": str(figures)},
            check=False,
        )
        rows = rows_of(json.loads(line) for line in figures.read_text().splitlines())
    publish("hostile", rows, args)
    sys.exit(done.returncode)


def rows_of(figures: Iterable[dict[str, Any]]) -> list[Row]:
    """The rows of what tests have recorded (`tests.faults.report`)."""
    return [row for told in figures for row in _rows(told)]


def _rows(told: dict[str, Any]) -> list[Row]:
    what = told["what"]
    if "damaged" in told:
        letters = sum(told["letters"].values())
        fate = (
            f"{told['events']:,} events stored once, {letters:,} dead letters, "
            f"{len(told['damaged'])} damaged batches each stopped their partition with a sentence; "
            f"{told['values_compared']:,} values are the oracle's"
        )
        return [
            Row(what, "lost, doubled or changed", "messages", "lower", 0, equal=True, why=fate),
            Row(what, "memory gained", "MB", "lower", told["megabytes_grown"],
                limit=MOST["messages"], why=f"from {told['rest']} MB"),
            Row(what, "until lag 0, producing included", "s", "lower", told["seconds"]),
        ]  # fmt: skip
    if "peak_megabytes" in told:
        return [
            Row(f"{what}: {name}", metric, unit, "lower", told[key][name],
                why=f"{told['among_200'][name.partition(' ')[0]]} MB among 200" if mb else None)
            for name in told["seconds"]
            for metric, unit, key, mb in (
                ("wall", "s", "seconds", False), ("peak memory", "MB", "peak_megabytes", True),
            )
        ]  # fmt: skip
    if "megabytes_grown" in told:
        return [
            Row(what, "memory gained", "MB", "lower", told["megabytes_grown"],
                limit=MOST["messages"])
        ]  # fmt: skip
    said = "; ".join(f"{key}: {_text(value)}" for key, value in told.items() if key != "what")
    return [Row(what, "lost, doubled or changed", "events", "lower", 0, equal=True, why=said)]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


if __name__ == "__main__":
    main()

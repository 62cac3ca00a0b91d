"""Another commit against this one: each benchmark's own figures, measured in turns.

`python -m benchmarks.between COMMIT [NAMES ...] [--rounds N] [--full] [--json FILE]`, from a
clone. The other commit is checked out and installed under `build/between`; every round runs each
benchmark's quick form there and here, in changing order, each with its own code and environment.
Compared is ours of both sides, row by row; ``stock`` is the other commit. Rows that only one side
has are named below the table.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Row, publish

HERE = Path(__file__).parents[1]
CHECKOUTS = HERE / "build" / "between"
NAMES = ("serving", "training", "compute", "streaming", "versions", "memory", "starts")
# By work and metric: one figure of each round, and the row that says unit and direction.
Figures = dict[tuple[str, str], list[float]]
Described = dict[tuple[str, str], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="the long form of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    args = parser.parse_args()
    args.quick = not args.full
    other = checked_out(args.commit)
    rows: list[Row] = []
    for name in args.names:
        if not (other / "benchmarks" / f"{name}.py").is_file():
            print(f"{name} is not in {args.commit}.")
            continue
        rows += compared(name, other, rounds=args.rounds, quick=args.quick)
    publish("between", rows, args)


def checked_out(commit: str) -> Path:
    """A checkout of the commit with an environment of its own, made once."""
    asked = ["git", "rev-parse", "--verify", f"{commit}^{{commit}}"]
    sha = subprocess.run(asked, cwd=HERE, check=True, capture_output=True, text=True).stdout.strip()
    folder = CHECKOUTS / sha
    if not folder.exists():
        subprocess.run(["git", "clone", "--quiet", str(HERE), str(folder)], check=True)
        subprocess.run(["git", "checkout", "--quiet", sha], cwd=folder, check=True)
    subprocess.run(["make", "--silent", "install"], cwd=folder, check=True)
    return folder


def compared(name: str, other: Path, *, rounds: int, quick: bool) -> list[Row]:
    """A row for each figure that both sides' benchmark ``name`` has."""
    sides: dict[Path, Figures] = {other: {}, HERE: {}}
    described: Described = {}
    for number in range(rounds):
        for folder in list(sides)[:: 1 if number % 2 else -1]:
            for row in measured(name, folder, quick=quick):
                key = (row["work"], row["metric"])
                described.setdefault(key, row)
                if row["ours"] is not None:
                    sides[folder].setdefault(key, []).append(row["ours"])
    old, new = sides[other], sides[HERE]
    for key in sorted(old.keys() ^ new.keys()):
        print(f"{name}: only {'here' if key in new else 'there'}: {', '.join(key)}")
    return [
        row_of(name, described[key], new[key], old[key])
        for key in described
        if key in old.keys() & new
    ]


def row_of(name: str, like: dict[str, Any], new: Sequence[float], old: Sequence[float]) -> Row:
    """Medians of both sides."""
    return Row(
        f"{name}: {like['work']}",
        like["metric"],
        like["unit"],
        like["better"],
        statistics.median(new),
        statistics.median(old),
        runs=len(new),
        spread=(min(new), max(new)),
        why=f"there {min(old):.3g} – {max(old):.3g}",
    )


def measured(name: str, folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    """The rows of one run, and what it cost as a whole."""
    with tempfile.TemporaryDirectory() as made:
        result = Path(made) / "rows.json"
        asked = [
            str(folder / ".venv/bin/python"),
            "-m",
            f"benchmarks.{name}",
            "--json",
            str(result),
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*asked, *(["--quick"] if quick else [])],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if not k.startswith("SKEWLESS_")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"{name} failed in {folder}:\n{done.stdout[-2_000:]}{done.stderr[-2_000:]}")
        rows: list[dict[str, Any]] = json.loads(result.read_text())["rows"]
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    whole = {"work": "all of it", "metric": "processor time", "unit": "s", "better": "lower"}
    return [*rows, {**whole, "ours": spent}]


if __name__ == "__main__":
    main()

"""`make bench`: runs every benchmark and renders docs/benchmarks.md from their results."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
NOT_BENCHMARKS = {"__init__", "all", "between", "report"}

TITLES = {"hostile": "Hostile input"}

INTRODUCTION = """\
# Benchmarks

Rendered by `make bench` (or `uv run python -m benchmarks.all`) from the JSON that each
benchmark writes; do not edit. One benchmark alone: the command above its table; `--quick` takes
under a minute. Both sides of a row ran in one process run, on the same servers and data, and
their outputs were compared (column *equal*).

The machines are small and shared: read the **ratio** (how many times better ours is than the
other side, above 1 is better), not the absolute figure. *spread* is the least and the greatest
of ours' runs.
"""


def main() -> None:
    """Run all, or with ``--render`` only draw the page from the results that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the quick form of each")
    parser.add_argument("--render", action="store_true", help="run nothing, render the page")
    parser.add_argument("names", nargs="*", help="some benchmarks only")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    names = args.names or sorted(
        path.stem
        for path in HERE.glob("*.py")
        if path.stem not in NOT_BENCHMARKS and "def main(" in path.read_text()
    )
    failed = [] if args.render else [name for name in names if not _run(name, quick=args.quick)]
    PAGE.write_text(render([json.loads(p.read_text()) for p in sorted(RESULTS.glob("*.json"))]))
    if failed:
        sys.exit(f"benchmarks failed: {', '.join(failed)}")


def _run(name: str, *, quick: bool) -> bool:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(RESULTS / f"{name}.json")]
    return subprocess.run([*command, *(["--quick"] if quick else [])], check=False).returncode == 0


def render(results: list[dict[str, Any]]) -> str:
    """The page, one section per benchmark."""
    return INTRODUCTION + "".join(_section(result) for result in results)


def _section(result: dict[str, Any]) -> str:
    machine = result["machine"]
    flags = " --quick" if result["quick"] else ""
    # What a test suite measured names its own command.
    command = result.get("command") or f"uv run python -m benchmarks.{result['benchmark']}{flags}"
    lines = [
        f"\n## {result.get('title') or TITLES.get(result['benchmark'], result['benchmark'])}\n",
        (
            f"`{command}` on {machine['cores']} cores, {machine['memory_gib']} GiB, "
            f"Python {machine['python']}.\n"
        ),
        "| work | metric | ours | stock | limit | ratio | spread | equal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        equal = {True: "yes", False: "**no**", None: ""}[row["equal"]]
        ratio = f"**{row['ratio']:.1f}×**" if row["ratio"] else ""
        spread = " – ".join(_figure(value) for value in row["spread"]) if row["spread"] else ""
        why = f"{equal} ({row['why']})" if row.get("why") else equal
        lines.append(
            f"| {row['work']} | {row['metric']}, {row['unit']} | {_figure(row['ours'])} "
            f"| {_figure(row['stock'])} | {_figure(row['limit'])} | {ratio} | {spread} | {why} |"
        )
    return "\n".join(lines) + "\n"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()

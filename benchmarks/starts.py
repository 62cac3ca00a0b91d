"""What a program's start costs: Feast as it is, and with our package imported first, in turns.

`python -m benchmarks.starts [--quick] [--json FILE]`: processor seconds of whole processes. One
imports Feast; one reads the definitions of this repository, with its environment beside them, as
`feast apply` does: both sides must find the same.
"""

import resource
import subprocess
import sys
from statistics import median

from benchmarks.report import Row, arguments, publish

READ = """
import hashlib
from pathlib import Path
from feast.repo_operations import parse_repo
found = parse_repo(Path.cwd())
views = [*found.feature_views, *found.on_demand_feature_views, *found.feature_services]
told = sorted(f"{type(each).__name__} {each.name}" for each in views)
print(len(told), hashlib.sha256(repr(told).encode()).hexdigest())
"""
# What is done, what is imported first in ours, and the script of both.
WORK = (
    ("import of Feast", "import extensions", "import feast"),
    ("definitions read, as by apply", "import extensions.stores.registry.store", READ),
)


def main() -> None:
    args = arguments(__doc__ or "")
    runs = 1 if args.quick else 3
    rows = []
    for work, first, script in WORK:
        ours, stock, equal = [], [], True
        for _ in range(runs):
            spent, theirs = _spent(script)
            stock.append(spent)
            spent, mine = _spent(f"{first}\n{script}")
            ours.append(spent)
            equal = equal and mine == theirs
        rows.append(
            Row(work, "processor time", "s", "lower", median(ours), median(stock), None, runs,
                (min(ours), max(ours)), equal if theirs else None,
                f"stock {min(stock):.1f} – {max(stock):.1f}")
        )  # fmt: skip
    publish("starts", rows, args)


def _spent(script: str) -> tuple[float, str]:
    """Processor seconds of a process that runs the script, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


if __name__ == "__main__":
    main()

"""The names of all metrics that the programs export, read from their sources."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def queried(query: str) -> set[str]:
    """Our metrics in a PromQL query, by the names that they are defined with."""
    defined = _defined()
    found = set()
    for name in re.findall(r"skewless_\w+", query):
        base = re.sub(r"_(total|bucket|sum|count)$", "", name)
        assert {name, base} & defined, f"no program exports {name}"
        found.add(base)
    return found


def _defined() -> set[str]:
    sources = "".join(
        path.read_text()
        for folder in ("extensions", "streaming", "monitoring")
        for path in (ROOT / folder).rglob("*.py")
    )
    named = set(re.findall(r'"(skewless_\w+)"', sources))
    # `streaming.worker_metrics` puts the beginning before each.
    return named | {
        f"skewless_stream_{name}" for name in re.findall(r'\bof\(\s*\w+,\s*"(\w+)"', sources)
    }

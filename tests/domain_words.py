"""`python -m tests.domain_words`: the engine must not know the words of a repository's domain.

Examples in help texts and docstrings are allowed, and stand here by their files and count.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = re.compile(r"watch_event|WatchEvent|user_id|item_id|duration_m|genre")
ROOMS = ("extensions", "streaming", "monitoring")
# Lines of examples that may name them.
EXAMPLES = {
    "extensions/history/column_mapping.py": 2,
    "extensions/history/declared_tables.py": 1,
}


def found() -> dict[str, list[str]]:
    """Lines with such a word, by file; templates of repositories are no part of the engine."""
    lines: dict[str, list[str]] = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix not in {".py", ".sql", ".lua", ".html"} or "/templates/" in name:
                continue
            told = [line.strip() for line in path.read_text().splitlines() if WORDS.search(line)]
            if told:
                lines[name] = told
    return lines


def main() -> int:
    """Exit code 1 where a file has more such lines than its examples."""
    wrong = {name: lines for name, lines in found().items() if len(lines) > EXAMPLES.get(name, 0)}
    for name, lines in wrong.items():
        print(f"{name} knows a domain's words:", *lines, sep="\n  ")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

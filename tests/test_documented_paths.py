"""The documents name files that are there: a module that moves takes its mention along."""

import re
from pathlib import Path

import pytest

from tests.conftest import REPO_ROOT

PAGES = [
    *(REPO_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(REPO_ROOT / "docs").rglob("*.md"),
    *(REPO_ROOT / "deploy").rglob("*.md"),
]
ROOMS = "extensions|streaming|monitoring|feature_repo|tests|benchmarks"
NAMED = re.compile(rf"(?<![\w/.])((?:{ROOMS})(?:/[\w.-]+)*/[\w-]+\.(?:py|sql|json|txt))\b")
LINKED = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
# Files that a reader is told to write.
TO_BE_WRITTEN = re.compile(
    r"user_variety|user_minutes|feature_repo/(?:orders|ratings)\.py|\.v[2-9N]\.|<|…"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO_ROOT)))
def test_a_page_names_files_that_are_there(page: Path) -> None:
    text = page.read_text()
    named = {name for name in NAMED.findall(text) if not TO_BE_WRITTEN.search(name)}
    missing = {name for name in named if not (REPO_ROOT / name).exists()}
    missing |= {
        name
        for name in LINKED.findall(text)
        if not (page.parent / name).exists() and not TO_BE_WRITTEN.search(name)
    }
    assert missing == set()

"""The site is built without a warning, says what the code says, and loads nothing from outside."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import REPO_ROOT

_ROOMS = ("extensions", "streaming", "monitoring")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "docs/site/build.py", str(output)],
        cwd=REPO_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return output / "html"


def text(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.read_text()))


def test_every_page_is_there(site: Path) -> None:
    docs = REPO_ROOT / "docs"
    pages = [
        page.relative_to(docs).with_suffix(".html")
        for page in docs.rglob("*.md")
        if page.relative_to(docs).parts[0] not in ("site", "examples")
    ]
    assert len(pages) > 60
    assert [page for page in pages if not (site / page).is_file()] == []


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    commands = text(site / "reference/command-line.html")
    for words in ("skewless backfill", "skewless lake export", "--log-format", "SKEWLESS_REPO"):
        assert words in commands
    assert "skewless_request_seconds" in text(site / "reference/metrics.html")
    assert "skewless_drift_verdict" in text(site / "reference/metrics.html")
    assert "redis_deadline_ms" in text(site / "reference/settings.html")
    assert "/v1/features" in text(site / "reference/http.html")
    assert "read_labels" in text(site / "reference/python.html")


class _Loaded(HTMLParser):
    """What a browser would load by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        wanted = {"script": "src", "img": "src", "iframe": "src", "link": "href"}.get(tag)
        if wanted and given.get(wanted):
            self.addresses.append(str(given[wanted]))


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    loaded = _Loaded()
    pages = list(site.rglob("*.html"))
    for page in pages:
        loaded.feed(page.read_text())
    assert len(loaded.addresses) > 5 * len(pages)
    assert [each for each in loaded.addresses if "//" in each] == []
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text()
        assert "@import" not in sheet.read_text()


def messages() -> Iterator[str]:
    """The texts within the code; what an f-string fills in stands in braces."""
    for room in _ROOMS:
        for path in (REPO_ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant)
                        else "{" + ast.unparse(part.value) + "}"
                        for part in node.values
                        if isinstance(part, ast.Constant | ast.FormattedValue)
                    )  # fmt: skip


def test_messages_of_the_troubleshooting_page_are_said() -> None:
    page = (REPO_ROOT / "docs/troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(quoted) > 30
    said = "\n".join(messages()).replace("{STORE_FILE}", "feature_store.yaml")
    assert [each for each in quoted if each not in said] == []

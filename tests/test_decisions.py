"""The index of decisions names every page, with its title, and which of them are overtaken."""

import re

import pytest

from tests.conftest import REPO_ROOT

FOLDER = REPO_ROOT / "docs" / "decisions"
PAGES = sorted(path.name for path in FOLDER.glob("0*.md"))
ROW = re.compile(r"^\| (\d+) \| \[(.+)\]\((.+)\) \| (.+) \|$", re.MULTILINE)


def test_the_index_names_every_page_once() -> None:
    rows = ROW.findall((FOLDER / "README.md").read_text())
    assert [file for _, _, file, _ in rows] == PAGES


@pytest.mark.parametrize("page", PAGES)
def test_a_page_and_its_row_agree(page: str) -> None:
    rows = {file: row for *row, file in _rows()}
    number, status, title = rows[page]
    heading, _, stated, *_ = (FOLDER / page).read_text().split("\n")
    assert heading == f"# {number}. {title}"
    assert page.startswith(f"{int(number):04d}-")
    # "In force" as a whole, or as a page whose status says what is not.
    assert (status == "in force") == (stated == "Status: in force.")


def _rows() -> list[tuple[str, str, str, str]]:
    text = (FOLDER / "README.md").read_text()
    return [(number, status, title, file) for number, title, file, status in ROW.findall(text)]

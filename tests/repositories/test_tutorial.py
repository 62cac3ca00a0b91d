"""docs/tutorial.md, run as it is written: from `skewless init` to a feature over HTTP."""

from pathlib import Path

import pytest

from tests.conftest import REPO_ROOT
from tests.repositories.documents import follow
from tests.test_quick_start import steps

TUTORIAL = REPO_ROOT / "docs" / "tutorial.md"
STEPS = list(steps(TUTORIAL.read_text()))


def test_it_takes_four_files_and_sixty_lines_at_most() -> None:
    written = [step for step in STEPS if step.path]
    assert 0 < len(written) <= 4
    assert sum(len(step.text.splitlines()) for step in written) <= 60


@pytest.mark.timeout(600)
def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    follow(STEPS, tmp_path)
    assert any(step.command.startswith("curl") for step in STEPS)

"""examples/shop/README.md, run as it is written in a repository that `skewless init` made."""

from pathlib import Path

import pytest

from tests.conftest import REPO_ROOT
from tests.repositories.documents import follow
from tests.test_quick_start import steps

README = REPO_ROOT / "examples" / "shop" / "README.md"


@pytest.mark.timeout(1_200)
def test_the_readme_works_as_it_is_written(tmp_path: Path) -> None:
    follow(list(steps(README.read_text())), tmp_path)
